"""Depth-guided sampling: a plane sweep per target view, then few samples around the surfaces it finds."""
