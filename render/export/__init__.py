"""Points, meshes, cameras and depth from a radiance field or from VGGT (`python -m render.export`)."""
