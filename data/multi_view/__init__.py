"""Groups of frames of one scene, which VGGT learns from."""
