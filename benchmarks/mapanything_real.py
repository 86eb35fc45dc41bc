"""Depth of photographs filled in from what is known of it, by a small MapAnything and by the nearest known pixel.

python -m benchmarks.mapanything_real --scenes /path/to/scene /path/to/others

Scenes have a COLMAP model; those with depth maps of a sensor are scored on these, the others on their sparse points.
Images are 40x32, sets have two views; poses and rays are given, and a part of the depth: of sensors a tenth of the
known pixels, or all but a block in the middle; of points every other one. Scored are the pixels whose depth is known
and was not given: mean of |z - z_true| / z_true. `scaled`: each prediction times one number, so that its median ratio
to the given depth is 1. Lengths are meters where `units` in scene.json says m or mm, else the network is not told
their scale.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from benchmarks.mapanything.baselines import filled_nearest
from data.multi_view.windows import ZoomRange, load_frames
from data.problems import Problems
from data.readers.registry import read_scenes
from data.scene import PosedScene
from data.seeds import derived_seed, seeded_generator
from geometry import Views, one_line_errors, require
from models.mapanything.adapters import Reconstructor
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth
from render.reconstruction_benchmark import sets_of_scene
from training.cli import parse_options
from training.files import staged_file, write_json
from training.mapanything.checkpoint import as_reconstructor, load_weights
from training.mapanything.truth import inputs_of_truth, truth_of_views
from training.options import option
from training.scores import MeanScores

_HEIGHT, _WIDTH = 32, 40
"""Pixels: what the shipped network was trained on."""
_METERS = {"m": 1.0, "mm": 1e-3}
_STREAM = 67
"""Keeps these draws apart from others; the number itself is arbitrary."""
_COLUMNS = ("nearest", "network", "network, scaled", "images, scaled")


@dataclass(frozen=True, kw_only=True)
class RealOptions:
    """Which scenes, which weights."""

    scenes: tuple[str, ...] = option((), "folders of scenes with a COLMAP model", nargs="+")
    weights: str = option("ckpts/mapanything_rooms.safetensors", "of a MapAnything")
    sets: int = option(10, "sets of two views of each scene")
    out: str = option("mapanything_real.json", "file for the figures")

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        require(len(self.scenes) > 0, "--scenes: expected folders of scenes, got none")
        require(self.sets >= 1, f"--sets: expected at least 1, got {self.sets}")


class Hidden(NamedTuple):
    """A set of views with depth of which a part is given."""

    truth: GeometryTruth
    images: Float[Tensor, "1 view 3 height width"]
    given: Bool[Tensor, "1 view height width"]
    """Of the pixels with known depth."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Score every scene, print and write the table."""
    options = parse_options(RealOptions, __doc__, argv)
    torch.set_num_threads(1)
    network = as_reconstructor(load_weights(options.weights, "mapanything")[0].eval())
    found: dict[str, dict[str, Any]] = {}
    sys.stdout.write(f"| scene | given | share known | {' | '.join(_COLUMNS)} |\n{'|---' * 7}|\n")
    for folder in options.scenes:
        for name, row in scene_rows(network, Path(folder), options.sets).items():
            found[name] = row
            cells = " | ".join("-" if row[key] is None else f"{row[key]:.3f}" for key in _COLUMNS)
            sys.stdout.write(f"| {name} | {row['known']:.2f} | {cells} |\n")
            sys.stdout.flush()
    with staged_file(Path(options.out)) as partial:
        write_json(partial, {"weights": options.weights, "scenes": found})


def scene_rows(network: Reconstructor, folder: Path, sets: int) -> dict[str, dict[str, Any]]:
    """Means over the sets, by `scene | what was given`.

    Raises:
        InputError: for a folder without a scene.
    """
    problems = Problems()
    (scene,) = read_scenes("colmap", str(folder), split="all", scans=None, evaluated_only=True, problems=problems)
    problems.announce(str(folder))
    meters = _meters(folder)
    groups = sets_of_scene(scene, 2, sets, problems.add)
    kinds = ("a tenth", "all but a block") if scene.read_depth else ("every other point",)
    rows = {}
    for kind in kinds:
        scores = MeanScores((*_COLUMNS, "known"))
        for number, group in enumerate(groups):
            views = load_frames(
                scene, group.view_ids, _HEIGHT, _WIDTH, zoom=ZoomRange.none(), generator=None, report=problems.add
            )
            if scene.read_depth is None:
                views = replace(views, depth=depth_of_points(scene, views))
            scores.add(filled_scores(network, hidden(views, meters, kind, number)))
        means = scores.means()
        name = scene.name + ("" if meters else " (no unit)")
        rows[f"{name} | {kind}"] = {key: None if value != value else value for key, value in means.items()}
    return rows


def _meters(folder: Path) -> float | None:
    path = folder / "scene.json"
    return _METERS.get(json.loads(path.read_text()).get("units", "")) if path.is_file() else None


def depth_of_points(scene: PosedScene, views: Views) -> Float[Tensor, "view height width"]:
    """Camera z of the observed points of each view; the nearest one where several fall into a pixel, 0 where none."""
    depth = torch.full((len(views.ids), _HEIGHT, _WIDTH), torch.inf)
    for at, view in enumerate(views.ids.tolist()):
        points = torch.from_numpy(scene.points.points_world[scene.points.rows[view]]).float()
        camera = views.cameras[at]
        local = points @ camera.w2c[:3, :3].T + camera.w2c[:3, 3]
        pixels = (local @ camera.intrinsics.T)[:, :2] / local[:, 2:]
        x, y = pixels.floor().long().unbind(-1)
        inside = (local[:, 2] > 0) & (x >= 0) & (x < _WIDTH) & (y >= 0) & (y < _HEIGHT)
        cells = y[inside] * _WIDTH + x[inside]
        depth[at].view(-1).scatter_reduce_(0, cells, local[inside, 2], "amin")
    return torch.where(depth.isfinite(), depth, 0.0)


def hidden(views: Views, meters: float | None, kind: str, number: int) -> Hidden:
    """The set with the pixels that are given, drawn from its number."""
    batch = Views.stack([views])
    truth = truth_of_views(
        batch, torch.tensor([meters or 1.0]), torch.tensor([meters is not None]), torch.tensor([False])
    )
    if kind == "all but a block":
        given = torch.ones_like(truth.valid)
        given[..., _HEIGHT // 4 : 3 * _HEIGHT // 4, _WIDTH // 4 : 3 * _WIDTH // 4] = False
    else:
        generator = seeded_generator(derived_seed(_STREAM, number))
        share = 0.1 if kind == "a tenth" else 0.5
        given = torch.rand(truth.valid.shape, generator=generator) < share
    return Hidden(truth, batch.images, given & truth.valid)


@torch.no_grad()
def filled_scores(network: Reconstructor, one: Hidden) -> dict[str, float]:
    """Errors of one set; nan where nothing is left to score."""
    known = inputs_of_truth(one.images, one.truth)
    sparse = torch.where(one.given, known.depth_along_ray, 0.0)
    has_depth = one.given.flatten(2).any(-1)
    inputs = replace(
        known,
        depth_along_ray=sparse,
        has_depth=has_depth,
        shows_depth_scale=has_depth & known.shows_depth_scale,
    )
    ours = network(inputs).points_cam[..., 2]
    alone = network(GeometricInputs.of_images(one.images)).points_cam[..., 2]
    z = one.truth.points_cam[..., 2]
    nearest = filled_nearest(sparse) * one.truth.rays[..., 2]
    scored = one.truth.valid & ~one.given
    is_metric = bool(one.truth.is_metric[0])

    def error(prediction: Tensor) -> float:
        return ((prediction - z).abs() / z)[scored].mean().item()

    def scaled(prediction: Tensor) -> Tensor:
        return prediction * (z / prediction)[one.given].median()

    return {
        "nearest": error(nearest),
        "network": error(ours) if is_metric else float("nan"),
        "network, scaled": error(scaled(ours)),
        "images, scaled": error(scaled(alone)),
        "known": one.truth.valid.float().mean().item(),
    }


if __name__ == "__main__":
    main()
