"""One page per objective; the name of the file is the name of the objective."""
