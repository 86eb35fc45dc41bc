"""Training and evaluating networks that reconstruct many views at once: MapAnything, VGGT, pi3-style."""
