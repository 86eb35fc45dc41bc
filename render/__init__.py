"""Rendering with trained models: evaluation with named protocols, camera paths, videos."""
