"""Heads that have a use of their own after training, one a file."""
