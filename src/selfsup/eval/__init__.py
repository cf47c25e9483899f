"""Evaluation: one noun a file. What is measured needs features or an encoder, never an objective."""
