"""A session's future: `python -m render.forecast --ckpt forecaster.safetensors --session SESSION --out DIR`.

Writes a video (truth and forecasts from above and in 3-D), a table by future step, and the forecast grids. Several
`--command`s are forecast side by side; docs/occupancy_data.md, "Forecasts of a session".
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from tqdm import tqdm

from data.occupancy.occ3d import PERIOD, read_occ3d
from data.occupancy.sessions import read_session
from data.occupancy.types import OccupancyBatch
from data.occupancy.windows import Occ3dWindows, SessionWindows
from data.problems import Problems
from data.seeds import evenly_spread
from geometry import one_line_errors, require
from geometry.voxels import EgoGrid, warp_nearest
from models.occupancy.inputs import Forecast, ForecastInputs
from models.occupancy.networks import OCCWORLD, NetworkPlan
from models.occupancy.occworld import OccWorld
from render.forecast.commands import MANEUVERS, PREDICTED, RECORDED, Command
from render.forecast.pictures import Picture, Shown, composed
from render.video import video_file
from training.cli import parse_options
from training.files import write_json
from training.occupancy.checkpoint import Loaded, load_weights
from training.occupancy.inputs import MANEUVERS as NUM_MANEUVERS
from training.occupancy.inputs import maneuvers, plane_steps
from training.occupancy.learners import labels_of
from training.occupancy.metrics import THRESHOLD, SemanticScores, pose_errors, ratio
from training.options import option
from training.precision import usable_device


@dataclass(frozen=True, kw_only=True)
class ForecastOptions:
    """What to forecast, and how to show it."""

    ckpt: str = option("", "weights: a checkpoint of train_occupancy.py, or .safetensors with its JSON")
    session: str = option("", "folder of a session (drone_* or rover_*), or gts/<scene> of Occ3D-nuScenes")
    infos: str = option("", "Occ3D: pickle or JSON of frame infos; not given: annotations.json beside gts")
    out: str = option("", "folder for forecast.mp4, steps.json and the grids")
    command: tuple[str, ...] = option(
        (RECORDED,),
        "where the vehicle is told to go: recorded, predicted (not told), straight, left, right, climb, descend, stay, "
        "with a rate (left:0.2 radians, climb:1 meters per frame), or a file of relative poses",
        nargs="+",
    )
    max_windows: int = option(8, "windows (observed and predicted frames) shown, spread over the session; 0: all")
    threshold: float = option(THRESHOLD, "probability from which a voxel counts as occupied")
    side: int = option(256, "height of a panel of the video, pixels")
    fps: float = option(3.0, "frames per second of the video")
    gif: bool = option(False, "forecast.gif in place of forecast.mp4")
    device: str = option("auto", "auto (a GPU where there is one), cpu, or any name torch knows")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name."""
        require(bool(self.ckpt), "--ckpt: expected weights, got none")
        require(Path(self.session).is_dir(), f"--session: expected a folder, got {self.session!r}")
        require(bool(self.out), "--out: expected a folder, got none")
        require(
            not self.infos or is_occ3d(Path(self.session)),
            f"--infos {self.infos}: expected --session gts/<scene> of Occ3D beside it, got {self.session}",
        )
        require(self.max_windows >= 0, f"--max_windows: expected 0 or more, got {self.max_windows}")
        require(0 < self.threshold < 1, f"--threshold: expected a probability, got {self.threshold:g}")
        require(self.side >= 16, f"--side: expected 16 pixels or more, got {self.side}")
        require(0 < self.fps < math.inf, f"--fps: expected a number above 0, got {self.fps:g}")
        doubled = [one for one in self.command if self.command.count(one) > 1]
        require(not doubled, f"--command: expected each once, got {doubled[:1]} twice")


@dataclass(frozen=True)
class Variant:
    """A forecast under one command."""

    labels: Integer[Tensor, "step x y z"]
    frames: Float[Tensor, "step 13"]
    """World poses that the grids are seen from."""
    poses: Float[Tensor, "step 13"] | None
    """Where the network says the vehicle goes, relative to the last observed pose; None: it says nothing."""


@dataclass
class StepCounts:
    """Of one command, by future step."""

    hits: list[list[int]]
    """Right, wrong and missing voxels."""
    position: list[list[float]] = field(default_factory=list)
    """Meters that the predicted poses are off, window by window."""
    semantic: SemanticScores | None = None
    """Of networks that know classes."""

    def rows(self, period: float) -> list[dict[str, float | int | None]]:
        """As they are printed."""
        errors = np.array(self.position) if self.position else None
        means = None if self.semantic is None else self.semantic.named()["miou_per_step"]
        return [
            {
                "step": step + 1,
                "seconds": period * (step + 1),
                "iou": ratio(right, right + wrong + missing),
                "predicted_over_true": ratio(right + wrong, right + missing),
                "position_m": None if errors is None else float(errors[:, step].mean()),
            }
            | ({} if means is None else {"miou": means[step]})
            for step, (right, wrong, missing) in enumerate(self.hits)
        ]


@torch.no_grad()
def forecast(
    network: nn.Module, plan: NetworkPlan, batch: OccupancyBatch, command: Command, period: float, threshold: float
) -> Variant:
    """The forecast of a batch of one window.

    Raises:
        InputError: for a command that the network does not know.
    """
    history, recorded = batch.history_poses[0], batch.relative_future[0]
    if isinstance(network, OccWorld):
        return _rolled_out(network, plan, batch, command, threshold)
    told = command.plan(history.cpu(), recorded.cpu(), period)
    told = None if told is None else told[None].to(batch.history_poses.device)
    found: Forecast = network(ForecastInputs(batch.history, batch.history_poses, batch.agent, told))
    labels, _ = labels_of(found.logits, plan.free_class, threshold)
    return Variant(labels[0], found.frames[0].double(), found.poses.poses[0].double())


def _rolled_out(
    network: OccWorld, plan: NetworkPlan, batch: OccupancyBatch, command: Command, threshold: float
) -> Variant:
    """OccWorld reads a maneuver for each future frame, and does not say from where it sees its grids."""
    observed, count = batch.history.shape[1], batch.future.shape[1]
    chosen = maneuvers(batch)
    if command.text == PREDICTED:
        chosen = torch.cat([chosen[:, :observed], chosen[:, observed - 1 : observed].expand(-1, count)], dim=1)
    elif command.text != RECORDED:
        require(
            command.text in MANEUVERS,
            f"--command {command.text}: expected {RECORDED}, {PREDICTED}, {', '.join(MANEUVERS)} with {OCCWORLD}",
        )
        told = torch.full_like(chosen[:, observed:], MANEUVERS[command.text])
        chosen = torch.cat([chosen[:, :observed], told], dim=1)
    one_hot = nn.functional.one_hot(chosen, NUM_MANEUVERS).float()
    rolled = network.roll_out(batch.history, plane_steps(batch)[:, :observed], one_hot, count)
    labels, _ = labels_of(rolled.logits, plan.free_class, threshold)
    return Variant(labels[0], batch.future_poses[0], None)


def truth_from(
    batch: OccupancyBatch, space: EgoGrid, frames: Float[Tensor, "step 13"], free_class: int
) -> tuple[Integer[Tensor, "step x y z"], Tensor]:
    """The true future grids seen from other poses, and which of their voxels are known.

    Of a world in which something moves, exact from the true poses only: elsewhere the same body is seen from aside.
    """
    motion = space.frame.motion(batch.future_poses[0], frames)
    moved, known = warp_nearest(space.grid, batch.future[0], motion)
    if batch.visible is not None:
        seen, _ = warp_nearest(space.grid, batch.visible[0], motion)
        known = known & seen
    return torch.where(known, moved, torch.full_like(moved, free_class)), known


def run(options: ForecastOptions) -> dict[str, list[dict[str, float | int | None]]]:
    """Write everything; the table by command.

    Raises:
        InputError: for anything the user can correct.
    """
    device = usable_device(options.device)
    loaded = load_weights(options.ckpt)
    commands = [Command(text) for text in options.command]
    folders = [command.folder for command in commands]
    same = [name for name in folders if folders.count(name) > 1]
    require(not same, f"--command: expected names that tell the folders of forecasts apart, got {same[:1]} twice")
    session, period, windows = session_windows(Path(options.session), loaded, options.infos)
    chosen = evenly_spread(range(len(windows)), options.max_windows or len(windows))
    out = Path(options.out)
    network, plan = loaded.network.to(device).eval(), loaded.plan
    period *= plan.skip
    counts = {command.text: StepCounts([[0, 0, 0] for _ in range(plan.future)]) for command in commands}
    if plan.num_classes > 2:
        for one in counts.values():
            one.semantic = SemanticScores(plan.future, plan.num_classes, plan.free_class)
    video = out / ("forecast.gif" if options.gif else "forecast.mp4")
    with video_file(video, options.fps) as write:
        for item in tqdm(chosen, desc=session, unit="window"):
            batch = OccupancyBatch.stack([windows[item]]).to(device)
            variants = {
                command.text: forecast(network, plan, batch, command, period, options.threshold) for command in commands
            }
            _show(batch, variants, counts, loaded, options.side, write)
            for command in commands:
                _write_grids(out / command.folder, batch, variants[command.text])
    table = {text: one.rows(period) for text, one in counts.items()}
    numbers = [windows[item].frames.tolist() for item in chosen]
    record = {"session": session, "weights": loaded.identity.name, "weights_sha256": loaded.identity.sha256}
    write_json(out / "steps.json", record | {"windows": numbers, "commands": table})
    sys.stdout.write(f"{text_table(table)}\nwritten: {video}, {out / 'steps.json'}\n")
    return table


def is_occ3d(folder: Path) -> bool:
    """Whether a folder is a scene of Occ3D-nuScenes, gts/<scene>."""
    return folder.resolve().parent.name == "gts"


def session_windows(folder: Path, loaded: Loaded, infos: str = "") -> tuple[str, float, SessionWindows | Occ3dWindows]:
    """Name, seconds between frames, and windows that follow each other: every future frame is forecast once.

    Raises:
        InputError: for another grid or other classes than the network's, and a session that is too short.
    """
    plan, problems = loaded.plan, Problems()
    windows: SessionWindows | Occ3dWindows
    if is_occ3d(folder):
        folder = folder.resolve()
        scenes = read_occ3d(
            folder.parent.parent, Path(infos) if infos else None, scenes=[folder.name], report=problems.add
        )
        windows = Occ3dWindows(scenes, plan.history, plan.future, skip=plan.skip)
        name, period, count = folder.name, PERIOD, sum(len(scene.tokens) for scene in scenes)
    else:
        has_own = (folder / "session.json").is_file()
        session = read_session(folder, None if has_own else plan.space, problems.add)
        windows = SessionWindows([session], plan.history, plan.future, skip=plan.skip)
        name, period, count = session.name, session.info.period, len(session.numbers)
    problems.announce(str(folder))
    require(
        windows.space == plan.space,
        f"--session {folder}: expected the grid of {loaded.identity.name} {plan.space.record()}, got "
        f"{windows.space.record()}",
    )
    require(
        windows.num_classes == plan.num_classes,
        f"--session {folder}: expected labels of {plan.num_classes} classes, which {loaded.identity.name} knows, got "
        f"{windows.num_classes}",
    )
    require(
        len(windows) > 0,
        f"--session {folder}: expected {plan.history} + {plan.future} frames (every {plan.skip}), got {count}",
    )
    first = windows.windows[0][1][0]
    following = [one for one in windows.windows if (one[1][0] - first) % (plan.future * plan.skip) == 0]
    windows.windows = following
    return name, period, windows


def _show(
    batch: OccupancyBatch,
    variants: dict[str, Variant],
    counts: dict[str, StepCounts],
    loaded: Loaded,
    side: int,
    write: Callable[[Picture], None],
) -> None:
    """Count, and append a picture per future step."""
    plan = loaded.plan
    truths = {name: truth_from(batch, plan.space, one.frames, plan.free_class) for name, one in variants.items()}
    for name, variant in variants.items():
        truth, known = truths[name]
        ours, theirs = variant.labels != plan.free_class, truth != plan.free_class
        for step in range(plan.future):
            a, b, seen = ours[step], theirs[step], known[step]
            for number, case in enumerate((a & b, a & ~b, ~a & b)):
                counts[name].hits[step][number] += int((case & seen).sum())
        semantic = counts[name].semantic
        if semantic is not None:
            semantic.add(variant.labels[None], truth[None], known[None])
        if variant.poses is not None:
            errors = pose_errors(variant.poses[None], batch.relative_future)[0, :, 0]
            counts[name].position.append(errors.tolist())
    first = int(batch.frames[0, batch.history.shape[1]])
    for step in range(plan.future):
        number = int(batch.frames[0, batch.history.shape[1] + step])
        rows = [Shown(f"recorded: frame {number}, step {step + 1} after {first - 1}", batch.future[0, step].cpu())]
        rows += [
            Shown(f"forecast, {name}", variant.labels[step].cpu(), truths[name][0][step].cpu())
            for name, variant in variants.items()
        ]
        write(composed(rows, plan.space.grid, plan.free_class, side, has_classes=plan.num_classes > 2))


def _write_grids(folder: Path, batch: OccupancyBatch, variant: Variant) -> None:
    """For `python -m data.occupancy.view --compare`: grids and the poses they are seen from."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = batch.frames[0, batch.history.shape[1] :].tolist()
    for number, labels, pose in zip(numbers, variant.labels.cpu().numpy(), variant.frames.cpu().tolist(), strict=True):
        np.savez_compressed(folder / f"{number:06d}_occupancy.npz", occupancy=labels.astype(np.uint8))
        (folder / f"{number:06d}_pose.json").write_text(json.dumps({"pose_13d": pose}) + "\n")


def text_table(table: dict[str, list[dict[str, float | int | None]]]) -> str:
    """One line per command and step."""

    def cell(value: float | int | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    has_classes = any("miou" in row for rows in table.values() for row in rows)
    title = f"{'command':<20} {'step':>4} {'s':>6} {'IoU':>7} {'pred/true':>9} {'pose m':>7}"
    lines = [f"{title} {'mIoU':>7}" if has_classes else title]
    for name, rows in table.items():
        for row in rows:
            line = (
                f"{name[-20:]:<20} {row['step']:>4} {row['seconds']:>6.2f} {cell(row['iou']):>7} "
                f"{cell(row['predicted_over_true']):>9} {cell(row['position_m']):>7}"
            )
            lines.append(f"{line} {cell(row['miou']):>7}" if has_classes else line)
    return "\n".join(lines)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, write video, table and grids."""
    run(parse_options(ForecastOptions, __doc__, argv))


if __name__ == "__main__":
    main()
