"""What each known piece of geometry is worth: `make demo-reconstruction`, or python -m render.reconstruction_demo.

Renders a room of each family that the shipped MapAnything was trained on, of another seed, converts it to a WAI scene
and reconstructs a few of its photographs from more and more inputs: images, then rays, poses and depth. Below `--out`,
for every family and choice of inputs: a picture (image, true and predicted distance of every view), the points as PLY;
and one table of errors. Seconds on one core.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from data.depth_fusion import fused_points
from data.image_io import write_image
from data.multi_view.covisible_views import EDGE_THRESHOLD
from data.multi_view.sources import FrameSampling, GroupKey, SceneFrames
from data.multi_view.windows import ZoomRange
from data.point_cloud import write_ply
from data.procedural.__main__ import main as procedural
from data.procedural.indoor import FAMILIES
from data.procedural.writers import METRIC_LIST
from data.readers.registry import read_scenes
from data.wai.convert import main as convert
from data.wai.covisibility import main as covisibility
from geometry import FrameBatch, one_line_errors, require
from models.mapanything import load_mapanything
from models.mapanything.adapters import Reconstructor
from models.mapanything.inference import View, checked_inputs, infer
from render.export.mapanything import inferred_views
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.mapanything.evaluation import known
from training.mapanything.inputs import sparse_depth
from training.mapanything.metrics import set_metrics
from training.mapanything.pictures import set_picture
from training.mapanything.truth import truth_of_batch
from training.options import option
from training.pictures import as_bytes

_HEIGHT, _WIDTH, _PHOTOGRAPHS = 32, 40, 10
"""Of the rooms, as in the training of the shipped weights."""
_SEED, _ROOMS = 20270101, 3
"""Of the rooms: no training has it. The first one that is in meters is taken."""
_REMOVED = 0.9
"""Share of the depth that `a tenth of the depth` lacks."""
_COLUMNS = (
    ("pointmaps_abs_rel", "points"),
    ("z_depth_abs_rel", "z"),
    ("pose_rotation_deg", "R deg"),
    ("metric_scale_abs_rel", "scale"),
)


class Given(NamedTuple):
    """What is told of every view."""

    rays: bool = False
    poses: bool = False
    depth: str = ""
    """`all`, `a tenth`, or nothing."""


CHOICES = {
    "images": Given(),
    "rays": Given(rays=True),
    "poses": Given(poses=True),
    "depth": Given(rays=True, depth="all"),
    "poses_and_depth": Given(rays=True, poses=True, depth="all"),
    "poses_and_a_tenth_of_the_depth": Given(rays=True, poses=True, depth="a tenth"),
}


@dataclass(frozen=True, kw_only=True)
class ReconstructionDemoOptions:
    """Which rooms, which weights."""

    out: str = option("runs/demo_reconstruction", "folder of everything the demonstration writes")
    weights: str = option("ckpts/mapanything_rooms.safetensors", "of a MapAnything: a file, a folder or a hub id")
    families: tuple[str, ...] = option(("free", "coordinate"), f"rooms: some of {', '.join(FAMILIES)}", nargs="+")
    views: int = option(4, "photographs of a room to reconstruct it from")
    seed: int = option(0, "which photographs")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        unknown = [name for name in self.families if name not in FAMILIES]
        require(not unknown, f"--families: expected some of {', '.join(FAMILIES)}, got {unknown[:1]}")
        require(2 <= self.views <= _PHOTOGRAPHS, f"--views: expected 2 to {_PHOTOGRAPHS}, got {self.views}")
        require(self.seed >= 0, f"--seed: expected 0 or more, got {self.seed}")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Make the rooms, reconstruct them, write everything, print the table."""
    options = parse_options(ReconstructionDemoOptions, __doc__, argv)
    out = Path(options.out)
    network = load_mapanything(options.weights).model.eval()
    scores = {}
    for family in options.families:
        batch = photographs(out / "rooms", family, options.views, options.seed)
        for name, given in CHOICES.items():
            folder = out / family / name
            scores[f"{family}: {name}"] = reconstruct(network, batch, given, folder)
    sys.stdout.write(f"\n{table(scores)}\n\npictures, points.ply and scores.json below {out}\n")
    write_json(out / "scores.json", {name: known(one) for name, one in scores.items()})


def photographs(root: Path, family: str, views: int, seed: int) -> FrameBatch:
    """Connected photographs of a room in meters, through the project's own commands; a batch of one.

    Raises:
        InputError: where the folder holds something else.
        SystemExit: where a command failed.
    """
    raw, wai = root / f"{family}_raw", root / family
    sizes = ("--width", _WIDTH, "--height", _HEIGHT, "--views", _PHOTOGRAPHS)
    rooms = ("--layout", "blendedmvs", "--rooms", family, "--scenes", _ROOMS, "--seed", _SEED)
    _run(procedural, *rooms, "--out", raw, *sizes)
    room = (raw / METRIC_LIST).read_text().split()[0]
    _run(convert, "--from", "procedural", raw, wai, "--meters", 1, "--scenes", room)
    _run(covisibility, wai, "--long_side", _WIDTH)
    scenes = read_scenes("wai", str(wai), split="all", scans=None, evaluated_only=True)
    source = SceneFrames("wai", scenes, sampling=FrameSampling(None, EDGE_THRESHOLD), zoom=ZoomRange.none())
    return FrameBatch.stack(source.sample_many([GroupKey(0, 0, views, _HEIGHT, _WIDTH, seed)]))


def _run(command: Callable[[list[str]], None], *arguments: object) -> None:
    words = [str(argument) for argument in arguments]
    sys.stdout.write(f"python -m {command.__module__.removesuffix('.__main__')} {' '.join(words)}\n")
    sys.stdout.flush()
    command([*words, "--workers", "1"])


def views_of(batch: FrameBatch, given: Given) -> list[View]:
    """Views of the one set of a batch, as a user hands them to `infer`."""
    views, depth = batch.views, batch.views.depth
    if given.depth == "a tenth":
        order = torch.rand(depth.shape, generator=torch.Generator().manual_seed(0))
        depth = sparse_depth(depth, order, _REMOVED)
    c2w = views.cameras.c2w[0]
    return [
        View(
            image,
            intrinsics=_if(given.rays, views.cameras.intrinsics[0, view]),
            depth=_if(bool(given.depth), depth[0, view]),
            c2w=_if(given.poses, c2w[view]),
        )
        for view, image in enumerate(views.images[0])
    ]


def _if(is_given: bool, value: Tensor) -> Tensor | None:
    return value if is_given else None


@torch.no_grad()
def reconstruct(network: Reconstructor, batch: FrameBatch, given: Given, folder: Path) -> dict[str, float]:
    """Write picture and points into a folder; the metrics of all pixels."""
    views, truth = views_of(batch, given), truth_of_batch(batch)
    prediction = network(checked_inputs(network, views))
    names = [f"view{number}" for number in range(len(views))]
    # in so small images most pixels of a slanted wall look like an edge
    maps = inferred_views(names, views, infer(network, views, has_edges=True)).confident_depth_maps(0.0)
    with staged_folder(folder) as staging:
        write_image(staging / "views.png", as_bytes(_enlarged(set_picture(prediction, batch.views.images[0], truth))))
        write_ply(staging / "points.ply", fused_points(maps, agreeing=0, spacing=0.0).cloud)
    return set_metrics(prediction, truth)


def _enlarged(picture: Tensor, factor: int = 4) -> Tensor:
    return picture.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def table(scores: dict[str, dict[str, float]]) -> str:
    """A line per reconstruction: errors relative to the truth, degrees for rotations."""
    width = max(len(name) for name in scores) + 2
    lines = [" " * width + "".join(f"{title:>9}" for _, title in _COLUMNS)]
    for name, one in scores.items():
        lines.append(name.ljust(width) + "".join(f"{one[key]:>9.3f}" for key, _ in _COLUMNS))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
