"""Evaluate a checkpoint under a named protocol: metrics.json, a picture per view, a table beside trivial baselines.

python -m render.evaluate --ckpt C --dataset_name dtu --datadir D --scans scan24 --protocol dtu-nearest3 --out DIR
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.image_io import write_image
from data.novel_view.dataset import Target
from data.novel_view.protocols import MaskKind, Protocol, protocol_named, targets_of_all
from data.novel_view.reference import Reference, reference_of
from data.problems import Problems
from data.scene import PosedScene
from geometry import Views, one_line_errors
from models.nerf.depth_range import DepthRange
from models.nerf.renderer import NearFar
from models.nerf.samplers import SAMPLE_COUNTS, SIZES_OF_MAPS
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from render.loading import (
    load_for,
    peak_memory_mb,
    precision_for,
    require_unseen,
    reset_peak_memory,
    scenes_for,
    usable_device,
    weight_identities,
)
from render.options import EvaluateOptions
from render.scoring import (
    Scores,
    mean_color,
    mean_scores,
    nearest_source,
    score_image,
    score_rendering,
)
from render.table import scores_table
from training.checkpoint import current_commit
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.pictures import comparison
from training.pictures import as_bytes
from training.precision import autocast_of, is_gpu

_MILLIMETER_DATASET = "dtu"
BASELINES = {"nearest_source": nearest_source, "mean_colour": mean_color}


@dataclass(frozen=True)
class EvaluatedView:
    """All that is known about one target after rendering it."""

    scan: str
    target: int
    sources: tuple[int, ...]
    mask: MaskKind
    has_pixels: bool
    """Whether any pixel counts; otherwise there are no scores of colors."""
    scores: Scores
    baselines: dict[str, Scores]
    height: int
    width: int
    near: float
    """Where rays start and end: camera z, scene units, as is `far`."""
    far: float
    near_far: NearFar
    """Where those are from; `data` also where VGGT's depth cannot be used for the view."""
    encode_seconds: float
    """VGGT and feature maps of the sources; less where their VGGT tokens are known from a view before."""
    render_seconds: float


@dataclass(frozen=True)
class Rendering:
    """A target beside what was rendered of it; one leading axis."""

    target: Target
    source: Views
    truth: Views
    rendered: RenderedImage


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, evaluate, print the table."""
    options = parse_options(EvaluateOptions, __doc__, argv)
    metrics = evaluate(options)
    sys.stdout.write(f"{scores_table(metrics)}\nwritten to {options.out}: metrics.json and a picture per view\n")


def evaluate(options: EvaluateOptions, observe: Callable[[Rendering], object] | None = None) -> dict[str, Any]:
    """Evaluate as the options say and return what `<out>/metrics.json` holds; pictures lie beside it.

    `observe` is handed every target as it is rendered.

    Raises:
        InputError: for anything the user can correct, before a file is written or with none left behind.
    """
    device = usable_device(options.device)
    reset_peak_memory(device)
    protocol = protocol_named(options.protocol, options.dataset_name, options.n_views)
    checkpoint = read_nerf_checkpoint(Path(options.ckpt))
    record = checkpoint.record
    scenes = scenes_for(record, options, options.scans, view_split=protocol.view_split)
    left_out = Problems()
    targets = targets_of_all(protocol, scenes, options.n_views, left_out.add)
    left_out.announce(options.protocol)
    require_unseen(record, targets)
    model = load_for(options, checkpoint, device, scenes)
    precision = precision_for(options, record, device)
    with staged_folder(Path(options.out)) as folder:
        views = evaluate_targets(
            model,
            targets,
            protocol,
            device=device,
            scale=options.imgScale_test,
            chunk=options.chunk,
            precision=precision,
            is_millimeter=options.dataset_name == _MILLIMETER_DATASET,
            pictures=folder,
            observe=observe,
        )
        metrics = {
            "protocol": options.protocol,
            **summary(views, peak_memory_mb(device)),
            "weights": weight_identities(options, checkpoint, model),
            "left_out": [*left_out.lines, *without_pixels(views)],
            "seen_in_training": [
                f"{view.scan}/{view.target}" for view in views if view.target in record.trained_on.get(view.scan, ())
            ],
            "settings": _settings(options, model, record.renderer.sampler, device, precision, scenes),
        }
        write_json(folder / "metrics.json", metrics)
    return metrics


def evaluate_targets(
    model: VGGTNeRF,
    targets: Sequence[Target],
    protocol: Protocol,
    *,
    device: torch.device,
    scale: float = 1.0,
    target_scale: float | None = None,
    chunk: int = 4096,
    precision: str = "32-true",
    is_millimeter: bool = False,
    pictures: Path | None = None,
    observe: Callable[[Rendering], object] | None = None,
) -> list[EvaluatedView]:
    """Render and score every target from its candidates; `pictures` is a folder for the comparison pictures.

    Images are resized by `scale`; those of targets by `target_scale` if given, for fewer rays from the same sources.
    VGGT tokens are kept between targets with the same sources, under the scenes' names.
    """
    model.cache.clear()
    target_scale = target_scale or scale
    counts = [math.prod(target.scene.image_size(target.view_id, target_scale)) for target in targets]
    views = []
    with tqdm(total=sum(counts), unit="ray", unit_scale=True, desc="evaluate") as bar:
        for target in targets:
            bar.set_description(f"{target.scene.scan} view {target.view_id}")
            source = target.scene.views(target.candidates, scale, wants_depth=False, wants_mask=False)
            truth = target.scene.views([target.view_id], target_scale)
            rendered, bounds, seconds = _render(model, source, truth, target.scene.name, device, chunk, precision, bar)
            reference = reference_of(protocol, truth.to(device))
            views.append(
                _evaluated(
                    target, source, truth, rendered, reference, bounds, model.network.near_far, seconds, is_millimeter
                )
            )
            if pictures is not None:
                name = f"{target.scene.scan}_{target.view_id}.png"
                write_image(pictures / name, _picture(source, rendered, reference, bounds))
            if observe is not None:
                observe(Rendering(target, source, truth, rendered))
    return views


def summary(views: Sequence[EvaluatedView], peak_memory: float) -> dict[str, Any]:
    """The entries mean, baselines, scans and views of `metrics.json`; `peak_memory` in MB."""
    rays = sum(view.height * view.width for view in views)
    render_seconds = sum(view.render_seconds for view in views)
    speed = {
        "rays_per_second": rays / render_seconds,
        "seconds_per_image": (render_seconds + sum(view.encode_seconds for view in views)) / len(views),
        "peak_memory_mb": peak_memory,
    }
    scans = dict.fromkeys(view.scan for view in views)
    return {
        "mean": {**asdict(mean_scores([view.scores for view in views])), **speed},
        "baselines": {
            name: asdict(mean_scores([view.baselines[name] for view in views])) for name in views[0].baselines
        },
        "scans": {scan: asdict(mean_scores([view.scores for view in views if view.scan == scan])) for scan in scans},
        "views": [_plain_view(view) for view in views],
    }


def without_pixels(views: Sequence[EvaluatedView]) -> list[str]:
    """Why views that were rendered do not count."""
    without = [view for view in views if not view.has_pixels]
    return [
        f"scene {view.scan}, view {view.target}: no pixel counts, its {view.mask} mask is empty" for view in without
    ]


@torch.no_grad()
def _render(
    model: VGGTNeRF,
    source: Views,
    truth: Views,
    name: str,
    device: torch.device,
    chunk: int,
    precision: str,
    bar: tqdm,
) -> tuple[RenderedImage, DepthRange, tuple[float, float]]:
    """The rendered view, its bounds, the seconds for encoding and for rendering. Nothing of `truth.images` is used."""
    source = Views.stack([source.to(device)])
    view = truth.to(device)
    _wait(device)
    start = time.perf_counter()
    with autocast_of(precision, device):
        maps = model.encode(source, (name,))
        _wait(device)
        encoded = time.perf_counter()
        target = model.view(maps, view.cameras, view.near, view.far)
        rendered = render_image(target, chunk, bar.update)
    return rendered, target.bounds, (encoded - start, time.perf_counter() - encoded)


def _wait(device: torch.device) -> None:
    """Synchronize with the GPU, so that seconds are counted where they are spent."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def _evaluated(
    target: Target,
    source: Views,
    truth: Views,
    rendered: RenderedImage,
    reference: Reference,
    bounds: DepthRange,
    near_far: NearFar,
    seconds: tuple[float, float],
    is_millimeter: bool,
) -> EvaluatedView:
    return EvaluatedView(
        scan=target.scene.scan,
        target=target.view_id,
        sources=target.candidates,
        mask=reference.mask_kind,
        has_pixels=reference.has_pixels,
        scores=score_rendering(rendered, reference, is_millimeter=is_millimeter),
        baselines={name: score_image(make(source, truth), reference) for name, make in BASELINES.items()},
        height=truth.cameras.height,
        width=truth.cameras.width,
        near=bounds.near.item(),
        far=bounds.far.item(),
        near_far="auto" if bounds.is_auto.item() else near_far if near_far == "open" else "data",
        encode_seconds=seconds[0],
        render_seconds=seconds[1],
    )


def _picture(source: Views, rendered: RenderedImage, reference: Reference, bounds: DepthRange) -> Any:
    """What was compared: painted and cut as the protocol says."""
    top, left = reference.margins
    rows, cols = reference.image.shape[:2]
    window = (slice(top, top + rows), slice(left, left + cols))
    compared = RenderedImage(reference.shown(rendered.rgb).cpu(), rendered.depth[window], rendered.opacity[window])
    near, far = bounds.near.item(), bounds.far.item()
    image = reference.image.permute(2, 0, 1)
    depth = None if reference.depth is None else reference.depth.cpu()
    return as_bytes(comparison(source.images, image, compared, near, far, depth))


def _plain_view(view: EvaluatedView) -> dict[str, Any]:
    return {
        "scan": view.scan,
        "target": view.target,
        "sources": list(view.sources),
        **asdict(view.scores),
        "mask": view.mask,
        "baselines": {name: asdict(scores) for name, scores in view.baselines.items()},
        "near": view.near,
        "far": view.far,
        "near_far": view.near_far,
        "image_size": [view.width, view.height],
        "encode_seconds": view.encode_seconds,
        "render_seconds": view.render_seconds,
    }


def _settings(
    options: EvaluateOptions,
    model: VGGTNeRF,
    sampler: str,
    device: torch.device,
    precision: str,
    scenes: Sequence[PosedScene],
) -> dict[str, Any]:
    return {
        "dataset_name": options.dataset_name,
        "datadir": options.datadir,
        "scans": [scene.scan for scene in scenes],
        "n_views": options.n_views,
        "view_split": {scene.scan: scene.view_split for scene in scenes},
        "llff_factor": options.llff_factor,
        "llff_size": list(options.llff_size),
        "image_factor": options.image_factor,
        "sparse_depth": options.sparse_depth,
        "white_bkgd": scenes[0].white_background,
        "imgScale_test": options.imgScale_test,
        "sampler": sampler,
        **{name: getattr(model.network.samples, name, None) for name in SAMPLE_COUNTS},
        **{name: getattr(model.network.config, name, None) for name in SIZES_OF_MAPS},
        "near_far": model.network.near_far,
        "quality": model.quality,
        "chunk": options.chunk,
        "precision": precision,
        "device": str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
        "torch": torch.__version__,
        "commit": current_commit(),
    }


if __name__ == "__main__":
    main()
