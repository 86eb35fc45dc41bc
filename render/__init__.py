"""Rendering with trained models: evaluation with named protocols, camera paths, videos."""

import geometry  # noqa: F401  before torch: see geometry/waiting.py
