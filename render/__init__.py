"""What trained models are for: evaluation with named protocols, camera paths, videos."""
