"""Other data sets to WAI scenes: `python -m data.wai.convert --from blendedmvs /path/to/blendedmvs wai_scenes`.

See docs/wai.md, "Convert". Every reader of this repository can be the source, and folders of `python -m
data.procedural`. A scene's log says how it ended; scenes that are done are skipped, those that failed or were
interrupted are done again. Exit status 1 if one failed.
"""

import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.image_io import open_image, write_atomic
from data.problems import Problems, shortened
from data.procedural.generate import SETTINGS_FILE
from data.readers.options import ReaderOptions
from data.readers.registry import READERS, annotation_folder, read_scenes
from data.scene import Frame, PosedScene
from data.wai.formats import MAX_HALF, store, store_depth
from data.wai.process_log import FAILED, ProcessLog
from data.wai.scene_meta import META_NAME, FrameMeta, Modality, SceneMeta, write_scene_meta
from data.wai.stages import Outcome, Parser, add_stage_options, finish, require_folder, run_stage
from geometry import InputError, one_line_errors, require, rigid_inverse
from geometry.conversions import intrinsics_to_integer_centers

STAGE = "conversion"
PROCEDURAL = "procedural"
_KEPT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MAX_SKEW = 0.5
"""Pixels over the width of an image: less does not move a pixel, and the format has none."""


@dataclass(frozen=True)
class Conversion:
    """What is converted, and how."""

    source: str
    """Name of the data set, as the readers know it."""
    root: Path
    meters: float | None
    """Meters per scene unit, by which scenes are scaled; None: what the reader knows, else they stay as they are."""
    is_synthetic: bool = False
    """Scenes are rendered, whatever the reader knows."""
    is_half: bool = True
    """Depth as half floats."""
    links: bool = False
    """Relative links to images that stay as they are, instead of copies."""
    options: ReaderOptions = field(default_factory=ReaderOptions)
    annotation_dir: str = ""

    def settings(self) -> dict[str, Any]:
        """What decides the result, for the log."""
        options = {"sparse_depth": self.options.sparse_depth, "image_factor": self.options.image_factor}
        own = {"source": self.source, "meters": self.meters, "is_half": self.is_half, "links": self.links}
        own["root"] = str(self.root.resolve())
        return own | {name: value for name, value in options.items() if value}

    def other_source(self, folder: Path) -> str:
        """Why a folder is not converted into again: it was, from a scan of the same name elsewhere; "" otherwise."""
        root = (ProcessLog(folder).settings(STAGE) or {}).get("root")
        if root in (None, str(self.root.resolve())):
            return ""
        return f"{folder}: expected a scene of {self.root}, got one of {root}; choose another DST, or --overwrite"

    def scans(self) -> dict[str, Path]:
        """Scans of the source.

        Raises:
            InputError: where there are none.
        """
        require(self.root.is_dir(), f"{self.root}: expected a folder, got none")
        reader = READERS[self.source]
        found = reader.find(self.root, **reader.located(annotation_folder(self.source, self.annotation_dir)))
        require(bool(found), f"{self.root}: expected {self.source} scans, got none")
        return found


def folder_name(scan: str) -> str:
    """Name of a scan's folder, whose own name may be a path."""
    return scan.replace("/", "_")


def convert(conversion: Conversion, scan: str, folder: Path) -> str:
    """Write one scan as a WAI scene; says what was left out.

    Images are copied where they are pinhole images of the frame's size, else written as PNG; depth, masks and bounds go
    along. Frames that cannot be read are left out and counted.

    Raises:
        InputError: for a scan without usable frames, or depth that half floats cannot hold.
    """
    problems = Problems()
    scenes = read_scenes(
        conversion.source,
        str(conversion.root),
        split="all",
        scans=(scan,),
        evaluated_only=True,
        options=conversion.options,
        annotation_dir=conversion.annotation_dir,
        problems=problems,
    )
    scene, frames, left_out = scenes[0], [], Counter()
    traits = scene.traits
    conversion = replace(
        conversion,
        meters=conversion.meters or traits.meters,
        is_synthetic=conversion.is_synthetic or traits.is_synthetic,
    )
    for view in scene.frames:
        try:
            frames.append(_write_frame(conversion, scene, view, folder, left_out, problems))
        except InputError as error:
            problems.add(error)
            left_out["frames"] += 1
    require(len(frames) > 0, f"{scan}: expected frames, got none that can be used: {shortened(problems.lines)}")
    ProcessLog(folder).forget_others(STAGE)
    write_scene_meta(folder / META_NAME, _meta(conversion, scene, frames, folder.name))
    counted = [f"{count} {what} left out" for what, count in left_out.items()]
    return "; ".join([*counted, *([shortened(problems.lines)] if problems.lines else [])])


def _write_frame(
    conversion: Conversion, scene: PosedScene, view: int, folder: Path, left_out: Counter, problems: Problems
) -> FrameMeta:
    frame, name = scene.frames[view], f"{view:06d}"
    unit = conversion.meters or 1.0
    intrinsics = intrinsics_to_integer_centers(frame.intrinsics.double())
    skew = abs(float(intrinsics[0, 1]))
    require(
        skew * frame.height / float(intrinsics[1, 1]) < _MAX_SKEW,
        f"{scene.name}, view {view}: expected a camera without skew, got {skew:g} pixels",
    )
    c2w = rigid_inverse(frame.w2c.double()).numpy().copy()
    c2w[:3, :3] = _nearest_rotation(c2w[:3, :3])
    c2w[:3, 3] *= unit
    image = _write_image(conversion, scene, frame, folder, name)
    values: dict[str, Any] = {
        "file_path": image,
        "image": image,
        "fl_x": float(intrinsics[0, 0]),
        "fl_y": float(intrinsics[1, 1]),
        "cx": float(intrinsics[0, 2]),
        "cy": float(intrinsics[1, 2]),
        "w": frame.width,
        "h": frame.height,
        "near": frame.near * unit,
        "far": frame.far * unit,
        "source_image": frame.image_path.name,
    }
    for key, has_one, write in (
        (_depth_key(scene), scene.has_depth(view), partial(_write_depth, conversion)),
        ("mask", frame.mask_path is not None, _write_mask),
    ):
        if not has_one:
            continue
        try:
            values[key] = write(scene, view, folder, name)
        except InputError as error:
            if isinstance(error, _TooFarError):
                raise
            problems.add(error)
            left_out[f"{key} maps"] += 1
    return FrameMeta(name, c2w, values)


class _TooFarError(InputError):
    """A mistake of the options, not of the file."""


def _write_image(conversion: Conversion, scene: PosedScene, frame: Frame, folder: Path, name: str) -> str:
    path, suffix = frame.image_path, frame.image_path.suffix.lower()
    image = scene.image(frame.view_id)  # decodes, and checks the size
    is_kept = scene.read_image is None and suffix in _KEPT_SUFFIXES and not _has_alpha(path)
    relative = f"images/{name}{suffix if is_kept else '.png'}"
    target = folder / relative
    if is_kept and conversion.links:
        target.parent.mkdir(parents=True, exist_ok=True)
        # relative, so that both roots can move together
        write_atomic(target, lambda temporary: temporary.symlink_to(_relative(path, target.parent)))
    elif is_kept:
        write_atomic(target, lambda temporary: shutil.copyfile(path, temporary))
    else:
        store(target, np.asarray(image, np.float32) / 255, "image")
    return relative


def _write_depth(conversion: Conversion, scene: PosedScene, view: int, folder: Path, name: str) -> str:
    depth = scene.depth(view) * np.float32(conversion.meters or 1.0)
    if conversion.is_half and float(depth.max(initial=0.0)) > MAX_HALF:
        raise _TooFarError(
            f"{scene.name}, view {view}: expected depth up to {MAX_HALF:g} in half floats, got {depth.max():g}; "
            "give --float_depth or --meters"
        )
    relative = f"{_depth_key(scene)}/{name}.exr"
    store_depth(folder / relative, depth, is_half=conversion.is_half)
    return relative


def _write_mask(scene: PosedScene, view: int, folder: Path, name: str) -> str:
    relative = f"masks/{name}.png"
    store(folder / relative, scene.mask(view) > 127, "binary")
    return relative


def _meta(conversion: Conversion, scene: PosedScene, frames: Sequence[FrameMeta], name: str) -> SceneMeta:
    held_out = {f"{view:06d}" for view in scene.held_out_views}
    kinds = {"image": "image", _depth_key(scene): "depth", "mask": "binary"}
    there = {key for frame in frames for key in frame.values}
    values: dict[str, Any] = {
        "shared_intrinsics": False,
        "camera_model": "PINHOLE",
        "camera_convention": "opencv",
        "scale_type": "metric" if conversion.meters else "colmap",
        "is_synthetic": conversion.is_synthetic,
        "is_video": scene.is_video,
        "held_out": [frame.name for frame in frames if frame.name in held_out],
    }
    if conversion.meters not in (None, 1.0):
        scale = np.diag([conversion.meters] * 3 + [1.0]).tolist()
        values |= {"_applied_transform": scale, "_applied_transforms": {"meters": scale}}
    return SceneMeta(
        scene_name=name,
        dataset_name=conversion.source,
        frames=tuple(frames),
        frame_modalities={key: Modality("frame_key", key, kind) for key, kind in kinds.items() if key in there},
        values=values,
    )


def _depth_key(scene: PosedScene) -> str:
    return "sparse_depth" if scene.is_depth_sparse else "depth"


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """Single-precision rotations are orthonormal to 1e-7 only."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def _has_alpha(path: Path) -> bool:
    with open_image(path) as image:
        return image.has_transparency_data or image.mode not in ("RGB", "L")


def _relative(path: Path, folder: Path) -> Path:
    return Path(os.path.relpath(path.resolve(), folder.resolve()))


def convert_all(
    conversion: Conversion, out: Path, scans: Sequence[str] | None, *, workers: int, overwrite: bool
) -> list[Outcome]:
    """Convert scans to `out/<scan>`.

    Raises:
        InputError: for an unknown scan.
    """
    present = conversion.scans()
    unknown = [scan for scan in scans or () if scan not in present]
    require(not unknown, f"--scenes: expected some of {', '.join(list(present)[:8])}, got {', '.join(unknown)}")
    wanted = list(present if scans is None else scans)
    chosen = {folder_name(scan): scan for scan in wanted}
    require(
        len(chosen) == len(set(wanted)),
        f"{conversion.root}: expected scans with different names for folders, got {len(set(wanted))} scans with "
        f"{len(chosen)} names ('/' becomes '_')",
    )
    foreign = [
        name
        for name in chosen
        if (out / name).exists() and any((out / name).iterdir()) and not ProcessLog(out / name).state(STAGE)
    ]
    refused = {name: f"{out / name}: expected a new folder, got one that this did not write" for name in foreign}
    if not overwrite:
        refused |= {name: line for name in chosen if (line := conversion.other_source(out / name))}
    for name, line in refused.items():
        sys.stderr.write(f"{name}: {FAILED}: {line}\n")
    targets = {name: out / name for name in chosen if name not in refused}
    work: Callable[[str, Path], str] = partial(_convert_named, conversion, chosen)
    done = run_stage(STAGE, targets, work, settings=conversion.settings(), workers=workers, overwrite=overwrite)
    return [*(Outcome(name, FAILED, line) for name, line in refused.items()), *done]


def _convert_named(conversion: Conversion, scans: dict[str, str], name: str, folder: Path) -> str:
    return convert(conversion, scans[name], folder)


def source_of(name: str, root: Path) -> tuple[str, bool]:
    """The reader of a source, and whether it is rendered for certain; `procedural` folders say their layout themselves.

    Raises:
        InputError: for a folder that `data.procedural` did not write.
    """
    if name != PROCEDURAL:
        return name, False
    path = root / SETTINGS_FILE
    try:
        layout = json.loads(path.read_text())["layout"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: expected a folder of python -m data.procedural, got none") from None
    require(layout in READERS, f"{path}: expected a layout of {', '.join(READERS)}, got {layout!r}")
    return layout, True


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit status 0 when every scene is there, 1 when one failed, 2 when nothing could begin."""
    parser = Parser(prog="python -m data.wai.convert", description=__doc__.splitlines()[0], allow_abbrev=False)
    names = [*sorted(name for name in READERS if name != "wai"), PROCEDURAL]
    parser.add_argument("--from", dest="source", required=True, help=f"one of {', '.join(names)}")
    parser.add_argument("root", type=Path, metavar="SRC", help="root folder of the data set")
    parser.add_argument("out", type=Path, metavar="DST", help="folder for the scenes; made if it is not there")
    parser.add_argument("--meters", type=float, help="meters per unit of the source; default: what is known of it")
    parser.add_argument("--float_depth", action="store_true", help="depth as float32 instead of half floats")
    parser.add_argument("--links", action="store_true", help="relative links to the source's images, no copies")
    parser.add_argument("--sparse_depth", action="store_true", help="colmap, transforms: depth of the points")
    parser.add_argument("--image_factor", type=int, help="colmap, transforms: images of the folder images_<N>")
    parser.add_argument("--annotation_dir", default="", help="co3d: folder of the annotations, if not in SRC")
    add_stage_options(parser)
    options = parser.parse_args(arguments)
    require(options.source in names, f"--from: expected one of {', '.join(names)}, got {options.source!r}")
    meters = options.meters
    require(meters is None or 0 < meters < math.inf, f"--meters: expected a number above 0, got {meters}")
    require_folder(options.out)
    require(
        options.out.resolve() != options.root.resolve(),
        f"{options.out}: expected another folder for the scenes than the source's",
    )
    source, is_synthetic = source_of(options.source, options.root)
    reader_options = ReaderOptions(sparse_depth=options.sparse_depth, image_factor=options.image_factor)
    reader_options.require_known_to(source, READERS[source].options)
    conversion = Conversion(
        source=source,
        root=options.root,
        meters=meters,
        is_synthetic=is_synthetic,
        is_half=not options.float_depth,
        links=options.links,
        options=reader_options,
        annotation_dir=options.annotation_dir,
    )
    finish(
        STAGE,
        convert_all(conversion, options.out, options.scenes, workers=options.workers, overwrite=options.overwrite),
    )


if __name__ == "__main__":
    main()
