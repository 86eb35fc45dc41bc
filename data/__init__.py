"""Readers and data modules."""

import geometry  # noqa: F401  before torch: see geometry/waiting.py
