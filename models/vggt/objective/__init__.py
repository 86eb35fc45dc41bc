"""What VGGT is trained towards: losses and their ground truth."""
