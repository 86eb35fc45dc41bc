"""One file per data set format, and the registry of them."""
