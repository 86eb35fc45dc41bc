"""Which views of a scene go together."""
