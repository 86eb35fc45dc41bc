"""Training and measuring forecasts of occupancy."""
