"""train_mapanything.py --eval_only: metrics of given weights with every preset of inputs, and of baselines."""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.multi_view.datamodule import FrameDataModule
from geometry import FrameBatch, require
from geometry.pixel_rays import intrinsics_from_rays
from models.mapanything.adapters import reconstruction_of_cameras
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth
from models.mapanything.output import Reconstruction
from training.files import staged_file, write_json
from training.launch import require_one_process
from training.mapanything.build import build_evaluation
from training.mapanything.checkpoint import as_reconstructor, load_weights
from training.mapanything.inputs import PRESETS, drawn_inputs
from training.mapanything.metrics import METRICS, set_metrics
from training.mapanything.options import MapAnythingOptions
from training.mapanything.truth import inputs_of_truth, truth_of_batch
from training.precision import announce_slow, autocast_of, resolved_precision, usable_device
from training.scores import MeanScores

CONSTANT, OTHER_IMAGES = "baseline: constant depth, same cameras", "baseline: images of another group"
_COLUMNS = (
    ("pointmaps_abs_rel", "points"),
    ("z_depth_abs_rel", "z"),
    ("pointmaps_true_inlier_103", "inliers"),
    ("ray_dirs_err_deg", "ray deg"),
    ("pose_rotation_deg", "R deg"),
    ("pose_ate_mean", "ATE"),
    ("pose_true_auc_30", "AUC@30"),
    ("metric_scale_abs_rel", "scale"),
)
_WIDTH = 42


def evaluate(options: MapAnythingOptions) -> dict[str, Any]:
    """Evaluate, print the table, write `--out`.

    The weights are those of `--ckpt`, else `--init_from`, else `--model_ckpt`, else `--eval_ckpt`.

    Raises:
        InputError: for no weights, or weights and data that do not fit.
    """
    source = options.ckpt or options.init_from or options.model_ckpt or options.eval_ckpt
    require_one_process("--eval_only")
    require(bool(source), "--eval_only: expected weights by --ckpt, --init_from, --model_ckpt or --eval_ckpt, got none")
    device = usable_device(options.accelerator)
    options = replace(options, precision=resolved_precision(options.precision, device))
    network, identity = load_weights(source, options.model)
    data = build_evaluation(options, as_reconstructor(network).patch_size)
    out = Path(options.out)
    with staged_file(out) as partial:
        scores = score_all(options, network, data, device)
        metrics = {
            "inputs": {name: known(one.means()) for name, one in scores.items() if not name.startswith("baseline")},
            "baselines": {
                name.removeprefix("baseline: "): known(one.means())
                for name, one in scores.items()
                if name.startswith("baseline")
            },
            "num_groups": len(data.val_keys),
            "views_per_group": options.group_views,
            "model": options.model,
            "precision": options.precision,
            "image_size": options.image_size,
            "dataset_name": list(options.dataset_name),
            "datadir": list(options.datadir),
            "weights": identity.name,
            "weights_sha256": identity.sha256,
        }
        write_json(partial, metrics)
    sys.stdout.write(f"{scores_table(scores)}\nwritten to {out}\n")
    return metrics


@torch.no_grad()
def score_all(
    options: MapAnythingOptions, network: nn.Module, data: FrameDataModule, device: torch.device
) -> dict[str, MeanScores]:
    """Scores by preset of inputs and by baseline; `options.precision` is one of a run, not `auto`."""
    announce_slow(options.precision, device)
    network = network.to(device).eval()
    scores: dict[str, MeanScores] = {}
    previous: FrameBatch | None = None
    for batch in tqdm(_groups(data, options.num_workers, device), total=len(data.val_keys), unit="group"):
        truth = truth_of_batch(batch)
        found: dict[str, Callable[[], Reconstruction]] = {CONSTANT: lambda truth=truth: constant_baseline(truth)}
        if previous is not None and previous.views.images.shape == batch.views.images.shape:
            others = GeometricInputs.of_images(previous.views.images)
            found[OTHER_IMAGES] = lambda others=others: network(others)
        for name in options.evaluated_inputs:
            inputs = inputs_of_preset(name, batch, truth)
            found[name] = lambda inputs=inputs: network(inputs)
        for name, predict in found.items():
            with autocast_of(options.precision, device):
                prediction = predict()
            scores.setdefault(name, MeanScores(METRICS)).add(set_metrics(prediction, truth))
        previous = batch
    order = [*options.evaluated_inputs, CONSTANT, OTHER_IMAGES]
    return {name: scores[name] for name in order if name in scores}


def inputs_of_preset(name: str, batch: FrameBatch, truth: GeometryTruth) -> GeometricInputs:
    """Of one preset; what it draws depends on the group's seed only."""
    if not PRESETS[name].gives_geometry:
        return GeometricInputs.of_images(batch.views.images)
    return drawn_inputs(inputs_of_truth(batch.views.images, truth), truth.is_metric, PRESETS[name], batch.seeds)


def constant_baseline(truth: GeometryTruth) -> Reconstruction:
    """One depth everywhere, all cameras at the same place, with the mean focal lengths of the group."""
    intrinsics = intrinsics_from_rays(truth.rays).mean(1, keepdim=True).expand(-1, truth.rays.shape[1], -1, -1)
    c2w = torch.eye(4).to(truth.rays).expand(*truth.rays.shape[:2], 4, 4)
    return reconstruction_of_cameras(c2w, intrinsics.to(truth.rays), torch.ones_like(truth.depth_along_ray))


def _groups(data: FrameDataModule, num_workers: int, device: torch.device) -> Iterator[FrameBatch]:
    """One after the other, on the device; seeds stay on the host."""
    loader = DataLoader(
        data.val_frames(),
        sampler=data.val_keys,
        batch_size=1,
        collate_fn=FrameBatch.stack,
        num_workers=num_workers,
    )
    for batch in loader:
        yield batch.to(device)


def scores_table(scores: dict[str, MeanScores]) -> str:
    """One line per preset and baseline; columns are metrics."""
    lines = [" " * _WIDTH + "".join(f"{title:>9}" for _, title in _COLUMNS)]
    for name, one in scores.items():
        means = one.means()
        cells = ("-" if math.isnan(means[key]) else f"{means[key]:.3f}" for key, _ in _COLUMNS)
        lines.append(name.ljust(_WIDTH) + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def known(means: dict[str, float]) -> dict[str, float | None]:
    """nan as null, for JSON."""
    return {name: None if math.isnan(value) else value for name, value in means.items()}
