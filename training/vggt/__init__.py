"""Training of VGGT itself."""
