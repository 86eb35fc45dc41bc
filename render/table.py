"""Scores as text."""

from collections.abc import Mapping
from typing import Any

from data.novel_view.protocols import PROTOCOLS
from models.nerf.samplers import SAMPLE_COUNTS

_COLUMNS = (
    ("psnr", "PSNR", ".2f"),
    ("psnr_object", "on object", ".2f"),
    ("ssim", "SSIM", ".3f"),
    ("ssim_mvsnerf", "SSIM range 2", ".3f"),
    ("lpips", "LPIPS", ".3f"),
    ("depth_abs", "|depth|", ".4g"),
    ("acc_2mm", "<2 mm", ".1%"),
    ("acc_10mm", "<10 mm", ".1%"),
    ("acc_20mm", "<20 mm", ".1%"),
)

_KINDS = {"general": "general", "finetuned": "fine-tuned"}
"""The two evaluations of a scan in a benchmark, and how they are called in print."""


def scores_table(metrics: Mapping[str, Any]) -> str:
    """Baselines, scans and their mean, from the contents of a `metrics.json`; columns without a number are left out."""
    rows = {name.replace("_", " "): scores for name, scores in metrics["baselines"].items()}
    if len(metrics["scans"]) > 1:
        rows |= metrics["scans"]
    rows["model"] = metrics["mean"]
    return "\n".join([_title(metrics), *_lines(rows), *_notes(metrics)])


def benchmark_table(metrics: Mapping[str, Any]) -> str:
    """Baselines, every scan, and the means over those with all results, from the contents of a `benchmark.json`."""
    rows = {name.replace("_", " "): scores for name, scores in metrics["baselines"].items()}
    for scan, scores in metrics["scans"].items():
        rows |= {f"{scan} {_KINDS[kind]}": scores[kind] for kind in _KINDS if kind in scores}
    rows |= {f"mean {_KINDS[kind]}": scores for kind, scores in metrics["mean"].items()}
    title = f"{metrics['protocol']}: means over {metrics['averaged_scans']} scans"
    return "\n".join([title, *(_lines(rows) if rows else ["no scan has a result"])])


def _title(metrics: Mapping[str, Any]) -> str:
    settings, views = metrics["settings"], metrics["views"]
    width, height = views[0]["image_size"]
    masks = ", ".join(sorted({view["mask"] for view in views}))
    counts = " + ".join(str(settings[name]) for name in SAMPLE_COUNTS if settings[name] is not None)
    return (
        f"{metrics['protocol']}: {len(views)} views of {', '.join(settings['scans'])}, {width}x{height}, "
        f"{counts} {settings['sampler']} samples, {settings.get('quality', 'fast')} quality, mask: {masks}"
    )


def _lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    columns = [column for column in _COLUMNS if any(isinstance(row[column[0]], float) for row in rows.values())]
    indent = max(len(name) for name in rows) + 2
    lines = [" " * indent + "".join(f"{title:>13}" for _, title, _ in columns)]
    for name, row in rows.items():
        cells = (format(row[key], form) if isinstance(row[key], float) else "-" for key, _, form in columns)
        lines.append(f"{name:<{indent}}" + "".join(f"{cell:>13}" for cell in cells))
    return lines


def _notes(metrics: Mapping[str, Any]) -> list[str]:
    mean = metrics["mean"]
    notes = [f"{key} {mean[key]}" for key in ("ssim", "lpips") if isinstance(mean[key], str)]
    speed = (
        f"{mean['seconds_per_image']:.2f} s per image, {mean['rays_per_second']:.0f} rays/s, "
        f"{mean['peak_memory_mb']:.0f} MB on {metrics['settings']['device']}"
    )
    own = [scan for scan, split in metrics["settings"]["view_split"].items() if split == "own"]
    if own and PROTOCOLS[metrics["protocol"]].view_split == "mvsnerf":
        notes.append(f"no lists of MVSNeRF, the data set's own split of views instead: {', '.join(own)}")
    if metrics["left_out"]:
        notes.append(f"left out: {'; '.join(metrics['left_out'])}")
    seen = metrics["seen_in_training"]
    if seen:
        notes.append(f"NOT UNSEEN: scans of these names had these views as training targets: {', '.join(seen)}")
    return [*notes, speed]
