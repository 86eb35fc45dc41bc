"""Measurements that pages quote."""

import geometry  # noqa: F401  before torch: see geometry/waiting.py
