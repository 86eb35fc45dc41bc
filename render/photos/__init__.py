"""Photographs or a video -> cameras, a fine-tuned radiance field, a video, points and a page about all of it."""
