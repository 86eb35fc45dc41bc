"""Whether the MapAnything track works as one: `python -m benchmarks.mapanything` (docs/mapanything.md, "Proof")."""
