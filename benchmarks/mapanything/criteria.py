"""What has to hold, with figures, bars and whether they are met (docs/mapanything.md, "Proof")."""

import math
from dataclasses import dataclass
from typing import Any

from benchmarks.mapanything.checks import SCALED
from benchmarks.mapanything.scores import MEAN, Rows, of_network, of_others

FREE, WIDE, COORDINATE = "free", "wide", "coordinate"
FAMILIES = (FREE, WIDE, COORDINATE)
SCALE_FOLLOWS, SCALE_IGNORES = (2.0, 4.0), (0.8, 1.25)
"""Of the predicted size when all given lengths are three times as large, with and without the metric flag."""
WIDE_RAYS, WIDE_RAYS_IMAGES = 0.45, 0.6
"""Ray error with rays given, over that of the mean camera and over that of images alone, lenses from 0.5 to 2 times the
width: about 1.4 times what the first training had (0.31, 0.41)."""
SAME_ORDER = 1e-4


@dataclass(frozen=True)
class Criterion:
    """One thing that has to hold, of one trained network."""

    number: int
    """Of the list in docs/mapanything.md."""
    what: str
    figure: float
    bar: str
    is_met: bool


def _at_most(number: int, what: str, figure: float, bar: float) -> Criterion:
    return Criterion(number, what, figure, f"at most {bar:g}", figure <= bar)


def _at_least(number: int, what: str, figure: float, bar: float) -> Criterion:
    return Criterion(number, what, figure, f"at least {bar:g}", figure >= bar)


def _between(number: int, what: str, figure: float, low: float, high: float) -> Criterion:
    return Criterion(number, what, figure, f"{low:.3g} to {high:.3g}", low <= figure <= high)


def criteria_of(rows: dict[str, Rows], checks: dict[str, Any]) -> list[Criterion]:
    """`rows`: of sets of two views, by family. `checks`: what benchmarks/mapanything/checks.py found."""
    return [
        *_of_geometry(rows[FREE]),
        *_of_scale(checks["scale"]),
        *_of_views(checks["order"], checks["bare"]),
        *_of_images(rows[COORDINATE]),
        *_of_machinery(checks),
        *_of_rays(rows[WIDE]),
    ]


def _of_geometry(rows: Rows) -> list[Criterion]:
    """1 to 4."""
    mean = rows[MEAN]
    images, poses, depth, both = (rows[of_network(name)] for name in ("images", "poses", "depth", "poses_depth"))
    sparse, everything = (rows[of_network(name)] for name in ("depth_completion", "everything"))
    points, z, turn, scale = "pointmaps_abs_rel", "z_depth_abs_rel", "pose_rotation_deg", "metric_scale_abs_rel"
    single = min(poses[points], depth[points])
    return [
        _at_most(1, "poses: points, over the mean depth's", poses[points] / mean[points], 0.8),
        _at_most(1, "poses: rotation, over that of cameras at one place", poses[turn] / mean[turn], 0.4),
        _at_most(2, "depth: z, over that of images", depth[z] / images[z], 0.75),
        _at_most(2, "depth: metric scale, over that of images", depth[scale] / images[scale], 0.65),
        _at_most(3, "poses and depth: points, over those of images", both[points] / images[points], 0.6),
        _at_most(3, "poses and depth: points, over the better of either alone", both[points] / single, 1.0),
        _between(4, "a tenth of the depth, rays, poses: points", sparse[points], everything[points], poses[points]),
        _between(4, "a tenth of the depth, rays, poses: z", sparse[z], everything[z], poses[z]),
    ]


def _of_scale(scale: dict[str, dict[str, float]]) -> list[Criterion]:
    """5."""
    flagged = [
        _between(5, f"{name} x {SCALED:g}, in meters: size", scale[name]["geometric_mean"], *SCALE_FOLLOWS)
        for name in ("everything", "depth", "poses")
    ]
    hidden = scale["everything_up_to_scale"]["geometric_mean"]
    return [*flagged, _between(5, f"everything x {SCALED:g}, unit hidden: size", hidden, *SCALE_IGNORES)]


def _of_views(order: dict[str, float], bare: dict[str, float]) -> list[Criterion]:
    """6 and 7."""
    return [
        _at_most(6, "views 1, 2, ... in another order: greatest difference", order["others"], SAME_ORDER),
        _between(7, "a view without geometry: its points", bare["bare"], bare["everything"], bare["images"]),
    ]


def _of_images(rows: Rows) -> list[Criterion]:
    """8."""
    mean, images, others = rows[MEAN], rows[of_network("images")], rows[of_others("images")]
    bars = {
        "pointmaps_abs_rel": ("points", 0.35),
        "z_depth_abs_rel": ("z", 0.55),
        "pose_rotation_deg": ("rotation", 0.45),
    }
    ratios = [
        _at_most(8, f"colored by position, images: {title}, over the mean depth's", images[key] / mean[key], bar)
        for key, (title, bar) in bars.items()
    ]
    worse = others["pointmaps_abs_rel"] / images["pointmaps_abs_rel"]
    return [*ratios, _at_least(8, "colored by position: points with images of another room", worse, 3.0)]


def _of_machinery(checks: dict[str, Any]) -> list[Criterion]:
    """9 and 10."""
    seen, levels = checks["metrics"], checks["benchmark"]
    found = []
    if checks.get("resume") is not None:
        found.append(_at_most(9, "killed and resumed: steps with another loss", checks["resume"]["different"], 0))
    turned, opposite, oracle = seen["turned maps"], seen["opposite motion"], seen["oracle"]
    found += [
        _at_least(10, "benchmark on held-out rooms: JSON levels", levels["levels"], 3),
        _at_most(10, "the truth: points", oracle["pointmaps_abs_rel"], 1e-5),
        _at_least(10, "the truth: AUC@30", oracle["pose_true_auc_30"], 100.0),
        _at_least(10, "maps turned by 90°: published inliers", turned["pointmaps_inlier_thres_103"], 0.999),
        _at_most(10, "maps turned by 90°: true inliers", turned["pointmaps_true_inlier_103"], 0.05),
        _at_least(10, "opposite motion: published AUC@30", opposite["pose_auc_30"], 99.9),
        _at_most(10, "opposite motion: true AUC@30", opposite["pose_true_auc_30"], 1.0),
    ]
    return found


def _of_rays(rows: Rows) -> list[Criterion]:
    """11."""
    given, images, mean = (
        rows[name]["ray_dirs_err_deg"] for name in (of_network("calibrated"), of_network("images"), MEAN)
    )
    return [
        _at_most(11, "lenses of any kind, rays: error, over the mean camera's", given / mean, WIDE_RAYS),
        _at_most(11, "lenses of any kind, rays: error, over that of images", given / images, WIDE_RAYS_IMAGES),
    ]


def table(criteria: list[list[Criterion]]) -> str:
    """Markdown, a column of figures per network; met where all meet it."""
    seeds = range(len(criteria))
    head = "| | | " + " | ".join(f"seed {seed}" for seed in seeds) + " | bar | |"
    lines = [head, "|---" * (len(criteria) + 4) + "|"]
    for each in zip(*criteria, strict=True):
        figures = " | ".join("-" if math.isnan(one.figure) else f"{one.figure:.3g}" for one in each)
        bars = " / ".join(dict.fromkeys(one.bar for one in each))
        verdict = "met" if all(one.is_met for one in each) else "**missed**"
        lines.append(f"| {each[0].number} | {each[0].what} | {figures} | {bars} | {verdict} |")
    return "\n".join(lines)
