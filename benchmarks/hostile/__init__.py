"""Hostile input: how files are damaged, what reads them, and what must come of it (docs/hostile_input.md)."""
