"""The recorded session is a held-out world, and goes on for as many windows as asked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.sessions import read_session
from geometry import InputError
from render.forecast_demo import ForecastDemoOptions, record
from training.occupancy.checkpoint import load_weights


def test_the_session_is_a_held_out_world(tmp_path: Path) -> None:
    options = ForecastDemoOptions(windows=1, seed=5)
    folder = record(tmp_path, options)
    plan = load_weights(options.weights).plan
    session = read_session(folder)
    assert session.info.space == plan.space
    assert session.info.period == 0.5
    assert list(session.numbers) == list(range(plan.history + plan.future))
    world = ProceduralWorlds(WorldSpec(space=plan.space), 1, seed=5, is_held_out=True)[0]
    first = np.load(folder / "occupancy" / "000000_occupancy.npz")["occupancy"]
    assert torch.equal(torch.from_numpy(first), world.history[0])


def test_no_window_is_refused() -> None:
    with pytest.raises(InputError, match="--windows: expected 1 or more, got 0"):
        ForecastDemoOptions(windows=0)
