"""Occupancy of the space around a vehicle over time: sessions on disk, worlds made in memory, and their batches."""
