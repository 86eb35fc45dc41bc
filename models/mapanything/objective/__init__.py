"""What MapAnything and the networks beside it are trained towards (MapAnything, Keetha et al. 2025, section 3.2)."""
