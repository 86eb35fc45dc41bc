"""WAI scenes (docs/wai.md) -> `PosedScene`. Scene unit: the file's; meters where its scale_type is metric.

    {scene}/scene_meta.json         frames, cameras, modalities
    {scene}/images/, depth/, ...    wherever the meta file says

`datadir` holds such folders or is one. Depth is the modality `depth`, else `rendered_depth` or `pred_depth`; a map of
another size than its image is resized (nearest), what is no positive number is unknown. `mask` and the covisibility of
the frames come along where they are there. Frames are numbered by their position in the file. Near and far are those of
the frames (`data.wai.convert` writes them), else those of the known depth. Splits: lists/train.txt and alike below
`datadir`, or split lists of the reference; held-out views: those that the meta file names, else every 8th.
"""

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from data.problems import LeftOut, Report, raise_problem
from data.readers.splits import Split, choose_scans, present_only, read_each, split_views
from data.scene import Covisibility, Frame, PosedScene
from data.seeds import evenly_spread
from data.view_selection.neighbors import complete_neighbors
from data.wai.formats import cleaned_depth, load
from data.wai.scene import WaiScene
from data.wai.scene_meta import META_NAME, PINHOLE, Modality, SceneMeta, modalities
from data.wai.split_lists import scene_lists
from geometry import InputError, Traits, check_camera, require, rigid_inverse
from geometry.conversions import intrinsics_from_integer_centers

COVISIBILITY = "pairwise_covisibility"
_DEPTH_NAMES = ("depth", "rendered_depth", "pred_depth", "sparse_depth")
_DEPTHS_OPENED = 8
"""Depth maps from which near and far are taken, where the file has none; chosen by hand, they are spread evenly."""
_QUANTILES = (0.01, 0.99)
_RENDERED = (
    *("dynamicreplica", "mvssynth", "paralleldomain4d", "pd4d", "sailvos", "spring", "tav2", "tartanair"),
    "unrealstereo4k",
)
"""Beginnings of the names of the reference's synthetic data sets, without anything but letters and digits."""
_MARGIN = 1.2
"""Near and far are so many times beyond these quantiles; chosen by hand."""


def read_wai(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
) -> list[PosedScene]:
    """One scene per folder, named after it.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a wrong meta file or a missing image.
    """
    folders = find_wai_scans(datadir)
    require(bool(folders), f"{datadir}: expected {META_NAME}, or folders that have one, got neither")
    chosen = choose_scans(datadir, list(folders), split, scans, scene_lists(datadir))
    return read_each(chosen, lambda scan: [read_wai_scene(folders[scan], scan, report)], report)


def find_wai_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    if (datadir / META_NAME).is_file():
        return {datadir.resolve().name: datadir}
    return {path.parent.name: path.parent for path in sorted(datadir.glob(f"*/{META_NAME}"))}


def read_wai_scene(folder: Path, scan: str, report: Report = raise_problem) -> PosedScene:
    """One scene.

    Raises:
        InputError: for a wrong meta file, and (unless `report` collects) for a frame that cannot be used.
    """
    scene = WaiScene.read(folder)
    known = dict(modalities(scene.meta.frame_modalities))
    depth_name = _first(known, _DEPTH_NAMES)
    depth, mask, image = known.get(depth_name or ""), known.get("mask"), known.get("image")
    bounds = _bounds(scene, depth)
    frames = {}
    for view in range(len(scene.meta.frames)):
        try:
            frames[view] = _frame(scene, view, image, depth, mask, bounds)
        except InputError as error:
            report(error)
    held_out = [scene.meta.frame_index[name] for name in scene.meta.values.get("held_out") or [] if _has(scene, name)]
    own_train = [view for view in range(len(scene.meta.frames)) if view not in held_out]
    train, held_out = (own_train, held_out) if held_out else split_views(range(len(scene.meta.frames)))
    covisibility = _covisibility(scene)
    centers = {view: frame.center for view, frame in frames.items()}
    return PosedScene(
        name=scan,
        scan=scan,
        frames=frames,
        neighbors=complete_neighbors(centers, covisibility.neighbors() if covisibility else None),
        train_views=present_only(train, frames),
        held_out_views=present_only(held_out, frames),
        read_depth=partial(_read_depth, depth.kind)
        if depth and any(one.depth_path for one in frames.values())
        else None,
        is_depth_sparse=depth_name == "sparse_depth",
        read_mask=partial(_read_mask, mask.kind) if mask else None,
        is_video=scene.meta.values.get("is_video") is True,
        traits=_traits(scene.meta),
        covisibility=covisibility,
    )


def _traits(meta: SceneMeta) -> Traits:
    """Meters where the file says so; rendered where the file says so, or the data set is known to be."""
    stated, name = meta.values.get("is_synthetic"), "".join(filter(str.isalnum, meta.dataset_name.lower()))
    is_synthetic = stated if isinstance(stated, bool) else (name == "ase" or name.startswith(_RENDERED))
    return Traits(1.0 if meta.is_metric else None, is_synthetic)


def _frame(
    scene: WaiScene,
    view: int,
    image: Modality | None,
    depth: Modality | None,
    mask: Modality | None,
    bounds: tuple[float, float] | None,
) -> Frame:
    meta = scene.meta.frames[view]
    where = f"{scene.meta.where}, frame {meta.name}"
    camera = scene.meta.camera(meta)
    require(
        camera.model == PINHOLE,
        f"{where}: expected a PINHOLE camera, got {camera.model}; python -m data.wai.undistort makes one of it",
    )
    image_path = scene.path_of(meta, image or Modality("frame_key", "file_path", None))
    if image_path is None or not image_path.is_file():
        raise LeftOut("frames without an image file", f"{image_path or where}: expected an image, got none")
    w2c = rigid_inverse(torch.from_numpy(meta.c2w))
    intrinsics = intrinsics_from_integer_centers(torch.from_numpy(camera.intrinsics))
    check_camera(w2c, intrinsics, where)
    near, far = meta.values.get("near"), meta.values.get("far")
    if near is None or far is None:
        if bounds is None:
            raise InputError(f"{where}: expected depth maps to take near and far from, or near and far, got neither")
        near, far = bounds
    require(0 < near < far < float("inf"), f"{where}: expected 0 < near < far, got {near:g} and {far:g}")
    return Frame(
        view_id=view,
        image_path=image_path,
        w2c=w2c.float(),
        intrinsics=intrinsics.float(),
        height=camera.height,
        width=camera.width,
        near=float(near),
        far=float(far),
        depth_path=scene.path_of(meta, depth) if depth else None,
        mask_path=scene.path_of(meta, mask) if mask else None,
    )


def _read_depth(kind: str | None, frame: Frame) -> Float[np.ndarray, "height width"]:
    """As float32 at the size of the image; 0 = unknown."""
    return _at_size(cleaned_depth(load(frame.depth_path, kind)), frame)


def _read_mask(kind: str | None, frame: Frame) -> UInt8[np.ndarray, "height width"]:
    return _at_size(255 * load(frame.mask_path, kind).astype(np.uint8), frame)


def _at_size(array: np.ndarray, frame: Frame) -> np.ndarray:
    if array.shape == (frame.height, frame.width):
        return array
    return cv2.resize(array, (frame.width, frame.height), interpolation=cv2.INTER_NEAREST)


def _bounds(scene: WaiScene, depth: Modality | None) -> tuple[float, float] | None:
    """From a few depth maps, where frames say nothing; None: no depth is known."""
    if depth is None or all("near" in frame.values and "far" in frame.values for frame in scene.meta.frames):
        return None
    paths = [path for frame in scene.meta.frames if (path := scene.path_of(frame, depth))]
    known = []
    for path in evenly_spread(paths, _DEPTHS_OPENED):
        try:
            values = cleaned_depth(load(path, depth.kind))
        except InputError:
            continue  # reported where it is read
        known.append(values[values > 0])
    values = np.concatenate(known) if known else np.zeros(0)
    if not len(values):
        return None
    near, far = np.quantile(values, _QUANTILES).tolist()
    return near / _MARGIN, far * _MARGIN


def _covisibility(scene: WaiScene) -> Covisibility | None:
    if not any(name == COVISIBILITY for name, _ in modalities(scene.meta.scene_modalities)):
        return None
    values = scene.load_scene_modality(COVISIBILITY)
    count = len(scene.meta.frames)
    require(
        values.shape == (count, count),
        f"{scene.meta.where}: expected a covisibility of {count}x{count} frames, got {values.shape}",
    )
    return Covisibility(tuple(range(count)), values)


def _has(scene: WaiScene, name: object) -> bool:
    return isinstance(name, str) and name in scene.meta.frame_index


def _first(known: dict[str, Modality], names: tuple[str, ...]) -> str | None:
    """The first of the names that there is, also as a group: the group's last entry, as the format says."""
    for name in names:
        found = [key for key in known if key == name or key.startswith(f"{name}/")]
        if found:
            return found[-1]
    return None
