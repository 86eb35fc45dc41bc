"""Forecasts of occupancy: aligned (the default), OccWorld, and the AerialWorld guide's two for comparison."""

from models.occupancy.aligned import AlignedConfig, AlignedForecaster, ForecastStream
from models.occupancy.inputs import Forecast, ForecastInputs
from models.occupancy.networks import MODELS, LoadedNetwork, NetworkPlan, build_network, load_forecaster, load_network

__all__ = [
    "MODELS",
    "AlignedConfig",
    "AlignedForecaster",
    "Forecast",
    "ForecastInputs",
    "ForecastStream",
    "LoadedNetwork",
    "NetworkPlan",
    "build_network",
    "load_forecaster",
    "load_network",
]
