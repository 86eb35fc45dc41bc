"""Forecasts of occupancy beside the truth: as a video, as a table by step, and for several commands."""
