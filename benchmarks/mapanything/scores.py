"""Every combination of inputs, by the network and without one, on fixed sets of held-out rooms."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.mapanything.baselines import TrainingMeans, constant_prediction, trivial_prediction
from geometry import FrameBatch
from models.mapanything.inputs import GeometricInputs
from models.mapanything.objective.truth import GeometryTruth
from models.mapanything.output import Reconstruction
from training.mapanything.evaluation import inputs_of_preset
from training.mapanything.metrics import METRICS, set_metrics
from training.scores import MeanScores

GIVEN = {
    "images": "images",
    "calibrated": "rays",
    "poses": "poses",
    "posed": "rays, poses",
    "depth": "depth",
    "registration": "rays, depth",
    "poses_depth": "poses, depth",
    "everything": "rays, poses, depth",
    "depth_completion": "rays, poses, a tenth of the depth",
}
"""What the presets give beside the images: every subset of rays, poses and depth, and all with sparse depth."""
COMBINATIONS = tuple(GIVEN)
CONSTANT = "one depth, one place"
MEAN = "mean depth by pixel, one place"
OTHER_IMAGES = ("images", "everything")
"""Presets that are scored with images of another room as well."""
_COLUMNS = (
    ("pointmaps_abs_rel", "points", ".3f"),
    ("z_depth_abs_rel", "z", ".3f"),
    ("ray_dirs_err_deg", "rays °", ".2f"),
    ("pose_rotation_deg", "rotation °", ".1f"),
    ("pose_true_auc_30", "AUC@30", ".1f"),
    ("metric_scale_abs_rel", "scale", ".3f"),
)

Rows = dict[str, dict[str, float]]
"""Means over the sets, by what was given and whether a network was asked."""


class HeldOut(NamedTuple):
    """Sets of a family that no training has seen."""

    batch: FrameBatch
    truth: GeometryTruth
    sets_per_room: int
    means: TrainingMeans

    def inputs(self, preset: str) -> GeometricInputs:
        """The same in every run."""
        return inputs_of_preset(preset, self.batch, self.truth)


def of_network(preset: str) -> str:
    """Name of a row."""
    return f"network: {preset}"


def of_others(preset: str) -> str:
    """Name of the row with images of another room."""
    return f"network: {preset}, images of another room"


def without_network(preset: str) -> str:
    """Name of the row that puts together what is given; of images alone that is the mean depth by pixel."""
    return MEAN if preset == "images" else f"no network: {preset}"


def baseline_rows(held_out: HeldOut) -> Rows:
    """Without a network."""
    predicted = {CONSTANT: constant_prediction(held_out.means, held_out.inputs("images"))}
    for preset in COMBINATIONS:
        predicted[without_network(preset)] = trivial_prediction(held_out.means, held_out.inputs(preset))
    return {name: scored(one, held_out.truth) for name, one in predicted.items()}


@torch.no_grad()
def network_rows(network: nn.Module, held_out: HeldOut) -> Rows:
    """Every combination, two of them with the images of the next room."""
    rows = {preset: held_out.inputs(preset) for preset in COMBINATIONS}
    given = {of_network(preset): inputs for preset, inputs in rows.items()}
    for preset in OTHER_IMAGES:
        images = held_out.batch.views.images.roll(held_out.sets_per_room, 0)
        given[of_others(preset)] = replace(rows[preset], images=images)
    return {name: scored(network(inputs), held_out.truth) for name, inputs in given.items()}


def scored(prediction: Reconstruction, truth: GeometryTruth) -> dict[str, float]:
    """Mean of the metrics of all sets."""
    scores = MeanScores(METRICS)
    for index in range(len(truth.is_metric)):
        one = slice(index, index + 1)
        scores.add(set_metrics(prediction[one], truth[one]))
    return scores.means()


def table(rows: Rows) -> str:
    """Markdown: in each cell the network, and what is put together without one."""
    lines = ["| given | " + " | ".join(title for _, title, _ in _COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    pairs = [(GIVEN[preset], of_network(preset), without_network(preset)) for preset in COMBINATIONS]
    pairs += [(f"{GIVEN[preset]}, images of another room", of_others(preset), "") for preset in OTHER_IMAGES]
    pairs.append(("one depth for all pixels, cameras at one place", "", CONSTANT))
    for title, network, other in pairs:
        cells = (f"{_cell(rows, network, key, form)} / {_cell(rows, other, key, form)}" for key, _, form in _COLUMNS)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: Rows, name: str, key: str, form: str) -> str:
    value = rows[name][key] if name in rows else math.nan
    return "-" if math.isnan(value) else format(value, form)


def mean_rows(by_seed: list[Rows]) -> Rows:
    """Means over the seeds."""
    return {
        name: {key: sum(rows[name][key] for rows in by_seed) / len(by_seed) for key in METRICS} for name in by_seed[0]
    }
