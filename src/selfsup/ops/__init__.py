"""Formulas: tensors in, tensor out."""
