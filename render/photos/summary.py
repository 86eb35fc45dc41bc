"""What a run has found, in numbers: summary.json and the last lines on the screen."""

from collections.abc import Mapping
from typing import Any

from render.photos.pipeline import Pipeline
from render.stages import Entry

_PLAIN = ("psnr", "ssim")
_NAMES = {"nearest_source": "nearest source, copied", "general": "general model", "finetuned": "fine-tuned"}


def summarize(pipeline: Pipeline, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The contents of summary.json: of one seed always the same, but for `seconds`."""
    cameras, scene = entries["cameras"], entries["scene"]
    general = pipeline.metrics("general")
    finetuned = _scores(pipeline.metrics("finetuned")["mean"]) if pipeline.options.is_finetuned else None
    seconds = {name: entry["seconds"] for name, entry in entries.items()}
    return {
        "poses": cameras["poses"],
        "images": len(entries["photographs"]["photos"]),
        "registered": cameras["registered"],
        "reprojection_px": cameras["reprojection_px"],
        "near": scene["near"],
        "far": scene["far"],
        "held_out": {
            "general": _scores(general["mean"]),
            "finetuned": finetuned,
            "nearest_source": _scores(general["baselines"]["nearest_source"]),
        },
        "seconds": {**seconds, "total": round(sum(seconds.values()), 1)},
        "warnings": [line for entry in entries.values() for line in entry.get("warnings", ())],
        "video": str(pipeline.video),
        # a run that was made before paths were noted has none
        "trajectory": entries["video"].get("trajectory", pipeline.options.trajectory),
        "points": str(pipeline.points),
        "report": str(pipeline.report),
        "checkpoint": str(pipeline.checkpoint),
        "scene": str(pipeline.scene_folder),
        "steps": entries["training"].get("steps", 0),
        "measures": cameras["measures"],
    }


def closing_lines(summary: Mapping[str, Any]) -> str:
    """Numbers, warnings and paths, as text."""
    width = max(len(name) for name in _NAMES.values()) + 2
    lines = [f"{'held-out views':<{width}}{'PSNR':>8}{'SSIM':>8}"]
    for key, name in _NAMES.items():
        scores = summary["held_out"][key]
        if scores is not None:
            cells = (_cell(scores["psnr"], ".2f"), _cell(scores["ssim"], ".3f"))
            lines.append(f"{name:<{width}}" + "".join(f"{cell:>8}" for cell in cells))
    lines += [f"warning: {line}" for line in summary["warnings"]]
    lines.append(f"total {summary['seconds']['total']:.0f} s")
    lines += [f"{name}: {summary[name]}" for name in ("report", "video", "points", "scene", "checkpoint")]
    return "\n".join(lines)


def _scores(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers only: a reason why there is none stands in metrics.json."""
    return {name: scores[name] if isinstance(scores[name], float) else None for name in _PLAIN}


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
