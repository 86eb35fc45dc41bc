"""Heads: tokens -> cameras, depth or points, tracks."""
