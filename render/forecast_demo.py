"""What the shipped world model expects under several commands: python -m render.forecast_demo.

Records a flight through a procedural world that no training has as a session, and forecasts it with `render.forecast`:
as it was flown, and told to turn or to go straight on. Writes `forecast.mp4`, `steps.json` and the grids.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec, make_world
from data.occupancy.sessions import SessionInfo, SessionWriter
from data.seeds import derived_seed
from geometry import one_line_errors, require
from render.forecast.__main__ import main as forecast
from training.cli import parse_options
from training.occupancy.checkpoint import load_weights
from training.options import option

_NAME = "drone_procedural"
_COMMANDS = ("recorded", "left", "right")


@dataclass(frozen=True, kw_only=True)
class ForecastDemoOptions:
    """Which weights, which world."""

    out: str = option("runs/demo_forecast", "folder of the session, forecast.mp4 and steps.json")
    weights: str = option("ckpts/occupancy_world.safetensors", "weights of train_occupancy.py")
    seed: int = option(20270101, "of the held-out world; it depends on nothing else")
    windows: int = option(4, "windows that follow each other; of each every future frame is forecast")
    side: int = option(160, "height of a panel of the video, pixels")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        require(self.seed >= 0, f"--seed: expected 0 or more, got {self.seed}")
        require(self.windows >= 1, f"--windows: expected 1 or more, got {self.windows}")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Record the session unless it is there, forecast it."""
    options = parse_options(ForecastDemoOptions, __doc__, argv)
    out = Path(options.out)
    session = out / "sessions" / _NAME
    if not (session / "session.json").is_file():
        record(out / "sessions", options)
    words = ["--ckpt", options.weights, "--session", str(session), "--out", str(out), "--command", *_COMMANDS]
    words += ["--max_windows", "0", "--side", str(options.side), "--device", "cpu"]
    sys.stdout.write(f"python -m render.forecast {' '.join(words)}\n")
    sys.stdout.flush()
    forecast(words)


def record(root: Path, options: ForecastDemoOptions) -> Path:
    """A flight through a held-out world as a session; its folder.

    Raises:
        InputError: for weights that cannot be read, a grid that tilts, or a session that is there in part.
    """
    plan = load_weights(options.weights).plan
    spec = WorldSpec(space=plan.space, history=plan.history, future=plan.future)
    stream = ProceduralWorlds(spec, 1, seed=options.seed, is_held_out=True).stream
    world = make_world(derived_seed(*stream, 0), spec, plan.history + options.windows * plan.future)
    info = SessionInfo(plan.space, spec.period, ground_height=0.0, source="data.occupancy.procedural_world")
    writer = SessionWriter(root, _NAME, info)
    for step, pose in enumerate(world.poses):
        occupied, _ = world.occupancy(plan.space, step)
        writer.add(step, pose, occupied.astype(np.uint8))
    return writer.finish()


if __name__ == "__main__":
    main()
