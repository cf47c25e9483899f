"""What every objective owes, from its `tiny()` alone: a new file in `objectives/` is tested by all of this."""
