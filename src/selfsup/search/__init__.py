"""Semantic search: an index of passages or pictures on disk, and questions to it."""
