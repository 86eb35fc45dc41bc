"""The generalizable radiance field: source images and VGGT tokens in, rendered rays out."""
