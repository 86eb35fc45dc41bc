"""What averages hide: scale that is followed or not, order of views, views without geometry, metrics that are blind."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mapanything.scores import HeldOut, scored
from geometry.quaternions import rotated
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth, in_unit, mean_distance
from models.mapanything.output import Reconstruction, reconstruction_from_factors
from render.reconstruction_benchmark import BenchmarkOptions, run
from training.mapanything.metrics import absolute_relative

SCALED = 3.0
"""Factor of all given lengths."""
_BARE_VIEW = 1
"""The view without geometry."""


@torch.no_grad()
def followed_scale(network: nn.Module, held_out: HeldOut, preset: str) -> dict[str, float]:
    """Predicted mean distance with all given lengths times 3, over that with the lengths as they are; metric sets."""
    inputs = held_out.inputs(preset)
    larger = replace(inputs, depth_along_ray=SCALED * inputs.depth_along_ray, translations=SCALED * inputs.translations)
    sizes = [mean_distance(network(one).points, held_out.truth.valid) for one in (inputs, larger)]
    ratio = (sizes[1] / sizes[0])[held_out.truth.is_metric]
    return {
        "geometric_mean": ratio.log().mean().exp().item(),
        "least": ratio.min().item(),
        "greatest": ratio.max().item(),
    }


@torch.no_grad()
def order_errors(network: nn.Module, held_out: HeldOut, preset: str) -> dict[str, float]:
    """Of reconstructions with views in another order, as shares of the mean distance.

    `others`: greatest difference of any point or camera with views 1, 2, ... permuted. `first`: mean difference of
    points in units of their own mean, in the frame of the same view, with another view first.
    """
    inputs = held_out.inputs(preset)
    before = network(inputs)
    views = inputs.images.shape[1]
    order = torch.tensor([0, *range(2, views), 1])
    moved = _in_order(network(_in_order(inputs, order)), order.argsort())
    unit = mean_distance(before.points, held_out.truth.valid)
    worst = max(
        ((moved.points - before.points).norm(dim=-1).flatten(1).amax(1) / unit).max().item(),
        ((moved.translations - before.translations).norm(dim=-1).amax(1) / unit).max().item(),
    )
    shifted = torch.arange(views).roll(-1)
    other = _in_order(network(_in_order(inputs, shifted)), shifted.argsort())
    ours, theirs = (_normalized(one, held_out.truth).points for one in (before, other))
    return {"others": worst, "first": (ours - theirs).norm(dim=-1)[held_out.truth.valid].mean().item()}


def _in_order(struct: Any, order: Tensor) -> Any:
    return struct.map(lambda tensor: tensor[:, order])


def _normalized(prediction: Reconstruction, truth: GeometryTruth) -> Any:
    own = prediction.without_scale().in_frame_of_first()
    return in_unit(own, mean_distance(own.points, truth.valid))


@torch.no_grad()
def bare_view_errors(network: nn.Module, held_out: HeldOut) -> dict[str, float]:
    """Points error of view 1 when nothing is given of any view, of all views but it, of all views."""
    everything = held_out.inputs("everything")
    given = {
        "images": held_out.inputs("images"),
        "bare": _without_geometry_of(everything, _BARE_VIEW),
        "everything": everything,
    }
    truth = held_out.truth.in_frame_of_first()
    theirs = in_unit(truth, mean_distance(truth.points, truth.valid))
    errors = {}
    for name, inputs in given.items():
        ours = _normalized(network(inputs), truth)
        per_set = [
            absolute_relative(
                *(one.points[index, _BARE_VIEW] for one in (ours, theirs)), truth.valid[index, _BARE_VIEW]
            )
            for index in range(len(truth.is_metric))
        ]
        errors[name] = sum(per_set) / len(per_set)
    return errors


def _without_geometry_of(inputs: GeometricInputs, view: int) -> GeometricInputs:
    names = ("has_rays", "has_depth", "has_pose", "shows_depth_scale", "shows_pose_scale")
    flags = {name: getattr(inputs, name).clone() for name in names}
    for flag in flags.values():
        flag[:, view] = False
    return replace(inputs, **flags)


def metrics_that_see(held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Scores of the truth, of its maps turned by 90 degrees, of cameras that move the opposite way."""
    truth = held_out.truth
    oracle = reconstruction_from_factors(
        truth.rays,
        truth.depth_along_ray,
        truth.quaternions,
        truth.translations,
        scale=torch.ones(len(truth.is_metric)),
    )
    quarter = torch.tensor([0.0, 0.0, 0.5**0.5, 0.5**0.5]).expand(*oracle.points.shape[:-1], 4)
    return {
        "oracle": scored(oracle, truth),
        "turned maps": scored(replace(oracle, points=rotated(quarter, oracle.points)), truth),
        "opposite motion": scored(replace(oracle, translations=-oracle.translations), truth),
    }


def benchmark_levels(weights: Path, wai: Path, out: Path, image_size: int) -> dict[str, Any]:
    """How many of the three JSON levels of `render.reconstruction_benchmark` there are, and sets and scenes in them."""
    options = BenchmarkOptions(
        weights=str(weights),
        dataset_name=("wai",),
        datadir=(str(wai),),
        views=(2,),
        inputs=("everything",),
        sets_per_scene=1,
        image_size=image_size,
        accelerator="cpu",
        precision="32-true",
        out=str(out),
    )
    (folder,) = run(options)
    names = ("wai_per_scene_results.json", "wai_avg_across_all_scenes.json", "per_dataset_results.json")
    levels = [json.loads((Path(folder) / name).read_text()) for name in names if (Path(folder) / name).is_file()]
    return {"levels": len(levels), "scenes": len(levels[0]) if levels else 0}
