"""Covisibility of all frames of WAI scenes: `python -m data.wai.covisibility /path/to/wai`.

See docs/wai.md, "Covisibility". Writes `covisibility/v0/pairwise_covisibility--NxN.npy` in every scene's folder, which
can be mapped into memory, and names it in its scene_meta.json. Scenes that are done are skipped. Exit status 1 if one
failed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.image_io import UnreadableFileError
from data.problems import Problems, Report, raise_problem, shortened
from data.scene import resize_sparse
from data.wai.formats import cleaned_depth, load
from data.wai.overlap import (
    PRESETS,
    DepthViews,
    OverlapRule,
    Thresholds,
    covisibility,
    depth_views,
    median_depth,
    resized,
    resized_intrinsics,
    resized_size,
    spread_out,
)
from data.wai.scene import WaiScene
from data.wai.scene_meta import PINHOLE, find_modality, modalities
from data.wai.stages import Parser, add_stage_options, find_scenes, finish, run_stage
from geometry import InputError, one_line_errors, require

STAGE = "covisibility"
MODALITY = "pairwise_covisibility"
SPARSE = "sparse_depth"
_OF_MEDIAN = ("relative", "sparse")
_REACH = 1 / 16
"""Of the long side: so far around a sparse point a surface has its depth; chosen by hand."""
LONG_SIDE = 224
"""Pixels of the maps that are compared, as the reference."""


@dataclass(frozen=True)
class Settings:
    """How covisibility is computed."""

    preset: str = "auto"
    """One of `PRESETS`, or auto: gt for scenes in meters, else relative; sparse for sparse points."""
    long_side: int = LONG_SIDE
    size: tuple[int, int] | None = None
    """(height, width) of the maps instead of a long side."""
    depth: str = "depth"
    """Modality."""
    confidence: float | None = None
    """Depth counts where the modality `depth_confidence` is above it."""
    of_target: bool = False
    is_upstream: bool = False

    def recorded(self) -> dict[str, Any]:
        """As JSON gives it back, without what is not given."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return values if self.size is None else {**values, "size": list(self.size)}


def load_depth_views(
    scene: WaiScene,
    request: str,
    long_side: int,
    *,
    size: tuple[int, int] | None = None,
    confidence: float | None = None,
    report: Report = raise_problem,
) -> DepthViews:
    """Depth of all frames at a long side, or at `size`; a frame without a map has depth 0 everywhere.

    `confidence`: depth counts where the modality `depth_confidence` is above it, in frames without one nowhere.
    Modalities whose name begins with `sparse` have depth at single pixels, which are kept, and surfaces around them.

    Raises:
        InputError: for a scene without depth maps, maps of different sizes, or cameras with distortion; for a map that
            cannot be read, unless `report` takes it.
    """
    where, (_, modality) = scene.meta.where, find_modality(scene.meta.frame_modalities, request, scene.meta.where)
    resize = resize_sparse if is_sparse(request) else resized
    maps: list[np.ndarray | None] = []
    for frame in scene.meta.frames:
        path = scene.path_of(frame, modality)
        if path is None:
            maps.append(None)
            continue
        try:
            depth = cleaned_depth(load(path, modality.kind))
        except UnreadableFileError as error:
            report(error)
            maps.append(None)
            continue
        require(depth.ndim == 2, f"{path}: expected depth, one value per pixel, got shape {depth.shape}")
        if confidence is not None:
            kept = next(iter(scene.load_frame(frame.name, ["depth_confidence"]).modalities.values()), np.zeros((1, 1)))
            depth = np.where(resized(kept, *depth.shape) > confidence, depth, 0)
        maps.append(resize(depth, *(size or resized_size(*depth.shape, long_side))))  # one at full size at a time
    first = next((one for one in maps if one is not None), None)
    require(first is not None, f"{where}: expected depth maps, got none")
    cameras = [scene.meta.camera(frame) for frame in scene.meta.frames]
    bent = [camera.model for camera in cameras if camera.model != PINHOLE]
    require(not bent, f"{where}: expected PINHOLE cameras, got {bent[:1]}; run python -m data.wai.undistort first")
    views = depth_views(
        [np.zeros_like(first) if one is None else one for one in maps],
        [resized_intrinsics(camera.intrinsics, (camera.height, camera.width), first.shape) for camera in cameras],
        [frame.c2w for frame in scene.meta.frames],
        where,
        None,
    )
    if not is_sparse(request):
        return views
    surfaces = [spread_out(one, _REACH * long_side) for one in views.depth.numpy()]
    return replace(views, surface=torch.from_numpy(np.stack(surfaces)))


def is_sparse(request: str) -> bool:
    """Whether a modality has depth at single pixels only."""
    return request.startswith("sparse")


def depth_of(scene: WaiScene, request: str) -> str:
    """The modality asked for; `sparse_depth` where the scene has that instead of `depth`."""
    known = {name for name, _ in modalities(scene.meta.frame_modalities)}
    return SPARSE if request == "depth" and "depth" not in known and SPARSE in known else request


def thresholds_of(preset: str, is_metric: bool, views: DepthViews) -> Thresholds:
    """Of a preset; those of `relative` and `sparse` times the scene's median depth.

    Raises:
        InputError: for an unknown preset.
    """
    dense = "gt" if is_metric else "relative"
    name = (dense if views.surface is None else "sparse") if preset == "auto" else preset
    require(name in PRESETS, f"--preset: expected auto or one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[name].scaled(median_depth(views)) if name in _OF_MEDIAN else PRESETS[name]


def add_covisibility(settings: Settings, name: str, folder: Path) -> str:
    """Compute and write the covisibility of one scene; says how connected it is.

    Raises:
        InputError: as `load_depth_views`.
    """
    scene = WaiScene.read(folder)
    request = depth_of(scene, settings.depth)
    of_points = is_sparse(request)
    require(
        not of_points or not (settings.is_upstream or settings.of_target),
        f"{scene.meta.where}: expected dense depth maps for --upstream_compatible and --of_target, got {request}",
    )
    problems = Problems()
    views = load_depth_views(
        scene,
        request,
        settings.long_side,
        size=settings.size,
        confidence=settings.confidence,
        report=problems.add,
    )
    thresholds = thresholds_of(settings.preset, scene.meta.is_metric, views)
    rule = OverlapRule(is_upstream=settings.is_upstream, of_target=settings.of_target, of_source=of_points)
    with tqdm(total=len(views), desc=name, unit="frame", leave=False) as bar:
        values = covisibility(views, thresholds, rule, tick=bar.update)
    path = scene.store(f"covisibility/v0/{MODALITY}.npy", values, "mmap")
    recorded = {**settings.recorded(), "depth": request, "thresholds": asdict(thresholds)}
    scene.with_scene_file(MODALITY, path, "mmap", covisibility_settings=recorded).write()
    empty = int((np.diag(values) == 0).sum())
    said = ["from sparse points"] if of_points else []
    said += [f"{empty} of {len(views)} frames have no depth"] if empty else []
    return "; ".join([*said, *([shortened(problems.lines)] if problems.lines else [])])


def has_covisibility(folder: Path) -> bool:
    """Whether the meta file names one that is there, for as many frames as there are."""
    try:
        scene = WaiScene.read(folder)
        return scene.load_scene_modality(MODALITY).shape == (len(scene.meta.frames),) * 2
    except InputError:
        return False


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit status 0 when every scene is done, 1 when one failed, 2 when nothing could begin."""
    parser = Parser(prog="python -m data.wai.covisibility", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", type=Path, metavar="ROOT", help="a WAI scene, or a folder of them")
    parser.add_argument("--preset", default="auto", help=f"thresholds: auto (gt in meters, else relative), {_PRESETS}")
    parser.add_argument("--long_side", type=int, default=LONG_SIDE, help="pixels of the maps that are compared")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pixels of these maps, instead of --long_side"
    )
    parser.add_argument("--confidence", type=float, help="depth counts where depth_confidence is above that")
    parser.add_argument("--depth", default="depth", help="modality of the depth maps; without it sparse_depth")
    parser.add_argument("--of_target", action="store_true", help="shares of the target's pixels with known depth")
    parser.add_argument("--upstream_compatible", action="store_true", help="the reference's numbers, with its defects")
    add_stage_options(parser)
    options = parser.parse_args(arguments)
    require(options.long_side >= 8, f"--long_side: expected 8 pixels or more, got {options.long_side}")
    size = None if options.size is None else tuple(options.size)
    require(
        size is None or (min(size) >= 8 and options.long_side == LONG_SIDE),
        f"--size: expected 8 pixels or more a side, and no --long_side beside it, got {size}",
    )
    confidence = options.confidence
    require(confidence is None or 0 <= confidence < 1, f"--confidence: expected 0 to below 1, got {confidence}")
    if options.preset not in ("auto", *PRESETS):
        raise InputError(f"--preset: expected auto or one of {_PRESETS}, got {options.preset!r}")
    settings = Settings(
        preset=options.preset,
        long_side=options.long_side,
        size=size,
        depth=options.depth,
        confidence=confidence,
        of_target=options.of_target,
        is_upstream=options.upstream_compatible,
    )
    outcomes = run_stage(
        STAGE,
        find_scenes(options.root, options.scenes),
        partial(add_covisibility, settings),
        settings=settings.recorded(),
        workers=options.workers,
        overwrite=options.overwrite,
        is_there=has_covisibility,
    )
    finish(STAGE, outcomes)


_PRESETS = ", ".join(PRESETS)

if __name__ == "__main__":
    main()
