"""train_vggt.py --eval_only: metrics of given weights on groups of views, as a table, a JSON file and pictures."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.image_io import write_image
from data.multi_view.datamodule import FrameDataModule
from data.multi_view.protocols import PROTOCOLS
from data.seeds import evenly_spread
from geometry import FrameBatch, require
from models.vggt import VGGT, WeightIdentity
from models.vggt.match_cameras import cameras_from_matches, require_match_stem, with_matched_cameras
from training.files import staged_file, write_json
from training.launch import require_one_process
from training.pictures import as_bytes
from training.precision import announce_slow, autocast_of, resolved_precision, usable_device
from training.vggt.build import build_vggt_evaluation
from training.vggt.checkpoint import load_weights
from training.vggt.metrics import HISTOGRAM_METRICS, MeanScores, group_scores, histogram_scores
from training.vggt.options import VGGTOptions
from training.vggt.pictures import group_picture

PICTURES = 16
"""Of groups, spread evenly; scores do not depend on it."""
POINT_UNIT = "mean distance of the true points from the first camera"
NO_DEPTH = "depth and point metrics are null: the data have no depth maps"
_COLUMNS = (
    ("depth_absrel", "AbsRel"),
    ("depth_delta125", "d<1.25"),
    ("mean_depth_absrel", "(const.)"),
    ("point_error", "points"),
    ("auc5", "AUC@5"),
    ("auc15", "AUC@15"),
    ("auc30", "AUC@30"),
    ("identity_auc30", "(ident.)"),
    ("rotation_error", "R deg"),
    ("translation_error", "t deg"),
)
MATCHED = "matched_cameras"
"""With `--camera_matches`: share of the views behind the first whose cameras enough matches support."""
_HISTOGRAM_COLUMNS = tuple((name, name.replace("histogram_auc", "hAUC@")) for name in HISTOGRAM_METRICS)


def evaluate(options: VGGTOptions) -> dict[str, Any]:
    """Evaluate, print the table, write `--out` and pictures into `<stem of --out>_pictures` beside it.

    The weights are those of `--ckpt`, else `--init_from`, else `--vggt_ckpt`, else `--eval_ckpt`.
    """
    source = options.ckpt or options.init_from or options.vggt_ckpt or options.eval_ckpt
    require_one_process("--eval_only")
    require(bool(source), "--eval_only: expected weights by --ckpt, --init_from, --vggt_ckpt or --eval_ckpt, got none")
    device = usable_device(options.accelerator)
    options = replace(options, precision=resolved_precision(options.precision, device))
    model, identity = load_weights(source)
    if options.camera_matches:
        require_match_stem(model, f"--camera_matches with the weights {identity.name}")
    data = build_vggt_evaluation(options, model.config.aggregator.patch_size)
    out = Path(options.out)
    with staged_file(out) as partial:
        frames: dict[str, list[list[int]]] = {}
        scores = score_all(options, model, data, device, out.with_name(f"{out.stem}_pictures"), frames)
        metrics = _metrics(options, scores, identity, len(data.val_keys), has_points=_has_points(options, model))
        metrics |= protocol_metrics(options, scores, frames)
        write_json(partial, metrics)
    lines = [f"protocol {options.eval_protocol}", scores_table(scores, _columns(options))]
    if "category_mean" in metrics:
        means = (f"{name} {'-' if one is None else f'{one:.3f}'}" for name, one in metrics["category_mean"].items())
        lines.append(f"mean over categories: {', '.join(means)}")
    if metrics["baselines"]["mean_depth_absrel"] is None:
        lines.append(NO_DEPTH)
    sys.stdout.write("\n".join(lines) + f"\nwritten to {out}, pictures beside it\n")
    return metrics


@torch.no_grad()
def score_all(
    options: VGGTOptions,
    model: VGGT,
    data: FrameDataModule,
    device: torch.device,
    folder: Path,
    frames: dict[str, list[list[int]]] | None = None,
) -> dict[str, MeanScores]:
    """Scores by scene, and over all groups under "mean"; pictures of some go into `folder`.

    The frames of every group go into `frames`, by scene. `options.precision` is one of a run, not `auto`.
    """
    frames = {} if frames is None else frames
    announce_slow(options.precision, device)
    model = model.to(device).eval()
    loader = DataLoader(
        data.val_frames(),
        sampler=data.val_keys,
        batch_size=1,
        collate_fn=FrameBatch.stack,
        num_workers=options.num_workers,
    )
    drawn = set(evenly_spread(range(len(data.val_keys)), PICTURES))
    scores: dict[str, MeanScores] = {}
    has_histogram = PROTOCOLS[options.eval_protocol].has_histogram
    for number, batch in enumerate(tqdm(loader, desc="evaluate", unit="group")):
        views = batch.views.to(device)
        with autocast_of(options.precision, device):
            output = model(views.images)
        matched = cameras_from_matches(views.images, output, model) if options.camera_matches else None
        output = output if matched is None else with_matched_cameras(output, matched)
        values = group_scores(output, views)
        if matched is not None:
            values[MATCHED] = matched.is_matched[:, 1:].double().mean().item()
        if has_histogram:
            values |= histogram_scores(output, views)
        frames.setdefault(batch.names[0], []).append(views.ids[0].tolist())
        for name in (batch.names[0], "mean"):
            scores.setdefault(name, MeanScores(tuple(values))).add(values)
        if number in drawn:
            name = f"{batch.names[0].replace('/', '_')}_view{int(views.ids[0, 0]):03d}.png"
            write_image(folder / name, as_bytes(group_picture(output, batch.views)))
    return scores


def _metrics(
    options: VGGTOptions, scores: dict[str, MeanScores], identity: WeightIdentity, num_groups: int, *, has_points: bool
) -> dict[str, Any]:
    """What goes into the file; what is not known is null."""
    means = {scene: _known(one.means()) for scene, one in scores.items()}
    overall = means.pop("mean")
    wanted = ("depth_absrel", "depth_delta125", "auc5", "auc15", "auc30", "point_error")
    return {
        **{name: overall[name] for name in wanted},
        "baselines": {name: overall[name] for name in ("mean_depth_absrel", "identity_auc30")},
        "rotation_error": overall["rotation_error"],
        "translation_error": overall["translation_error"],
        "point_error_unit": POINT_UNIT,
        "point_source": "point head" if has_points else "depth and cameras",
        "camera_source": "matches" if options.camera_matches else "camera head",
        **({MATCHED: overall[MATCHED]} if options.camera_matches else {}),
        "num_groups": num_groups,
        "views_per_group": options.group_views,
        "precision": options.precision,
        "image_size": options.image_size,
        "dataset_name": list(options.dataset_name),
        "datadir": list(options.datadir),
        "weights": identity.name,
        "weights_sha256": identity.sha256,
        "scenes": means,
    }


def protocol_metrics(
    options: VGGTOptions, scores: dict[str, MeanScores], frames: dict[str, list[list[int]]]
) -> dict[str, Any]:
    """Which groups were scored, and what the protocol reports besides.

    `category_mean`: scenes are averaged by category (the first part of a scan's name), then the categories, so that a
    category with many sequences does not count more; published figures are such means.
    """
    protocol = PROTOCOLS[options.eval_protocol]
    found: dict[str, Any] = {"protocol": {"name": options.eval_protocol, "seed": protocol.seed, "frames": frames}}
    if not protocol.has_histogram:
        return found
    wanted = (*HISTOGRAM_METRICS, "auc5", "auc15", "auc30")
    categories: dict[str, MeanScores] = {}
    for name in frames:
        category = "/".join(name.split("/")[:2])
        categories.setdefault(category, MeanScores(wanted)).add(scores[name].means())
    overall = MeanScores(wanted)
    for one in categories.values():
        overall.add(one.means())
    found |= {name: value for name, value in _known(scores["mean"].means()).items() if name in HISTOGRAM_METRICS}
    found["category_mean"] = _known(overall.means())
    return found | {"categories": {name: _known(one.means()) for name, one in categories.items()}}


def _columns(options: VGGTOptions) -> tuple[tuple[str, str], ...]:
    matched = ((MATCHED, "matched"),) if options.camera_matches else ()
    return (*_COLUMNS, *matched, *(_HISTOGRAM_COLUMNS if PROTOCOLS[options.eval_protocol].has_histogram else ()))


def scores_table(scores: dict[str, MeanScores], columns: Sequence[tuple[str, str]] = _COLUMNS) -> str:
    """One line per scene, the mean over all groups last; columns are (metric, title)."""
    order = [*sorted(name for name in scores if name != "mean"), "mean"]
    width = max(len(name) for name in order) + 2
    lines = [" " * width + "".join(f"{title:>10}" for _, title in columns)]
    for name in order:
        means = scores[name].means()
        cells = ("-" if math.isnan(means[key]) else f"{means[key]:.3f}" for key, _ in columns)
        lines.append(name.ljust(width) + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


def _has_points(options: VGGTOptions, model: VGGT) -> bool:
    """Whether the points scored are the point head's."""
    return model.point_head is not None and not options.camera_matches


def _known(means: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in means.items()}
