"""Photographs without cameras -> a COLMAP model of them: by structure from motion, or by VGGT and bundle adjustment."""
