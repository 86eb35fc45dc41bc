"""What reads tokens: camera, depth or points, tracks."""
