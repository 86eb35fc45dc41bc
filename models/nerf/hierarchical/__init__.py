"""Classical sampling: evenly spread samples, then more where those found something."""
