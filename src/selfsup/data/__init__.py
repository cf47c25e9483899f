"""From files on disk to raw batches."""
