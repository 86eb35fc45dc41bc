"""WAI scenes (docs/wai.md) -> `PosedScene`. Scene unit: the file's; meters where its scale_type is metric.

    {scene}/scene_meta.json         frames, cameras, modalities
    {scene}/images/, depth/, ...    wherever the meta file says

`datadir` holds such folders or is one. Depth is the modality `depth`, else `rendered_depth` or `pred_depth`; a map of
another size than its image is resized (nearest), what is no positive number is unknown. Of some of the reference's data
sets depth is left out as there (`_CUT`, `_UNSURE`). `mask`, the masks of what has a depth (`pred_mask`) and the
covisibility of the frames come along where they are there. Frames are numbered by their position in the file. Near and
far are those of the frames (`data.wai.convert` writes them), else those of the known depth. Splits: lists/train.txt and
alike below `datadir`, or split lists of the reference; held-out views: those that the meta file names, else every 8th.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from data.image_io import is_file
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
_CUT = ("mvssynth", "paralleldomain4d", "pd4d", "sailvos", "tav2", "tartanair", "unrealstereo4k")
"""Likewise: depth above its 95 % quantile over all pixels of a frame is unknown, as in the reference's training."""
_CUT_AT = 0.95
_UNSURE = {"dl3dv": 0.25}
"""Likewise: depth counts where the modality `depth_confidence` is above that."""
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
    surface_name = _first(known, ("pred_mask",))
    depth, mask, surface = (known.get(name or "") for name in (depth_name, "mask", surface_name))
    bounds = _bounds(scene, depth)
    frames = {}
    for view in range(len(scene.meta.frames)):
        try:
            frames[view] = _frame(scene, view, _Modalities(known.get("image"), depth, mask, surface), bounds)
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
        read_depth=_DepthFiles(scene, known, depth)
        if depth and any(one.depth_path for one in frames.values())
        else None,
        is_depth_sparse=depth_name == "sparse_depth",
        read_mask=partial(_read_mask, mask.kind) if mask else None,
        read_surface=partial(_read_surface, surface.kind) if surface else None,
        is_video=scene.meta.values.get("is_video") is True,
        traits=_traits(scene.meta),
        covisibility=covisibility,
    )


class _Modalities(NamedTuple):
    """Of a scene's frames, as far as they are used."""

    image: Modality | None
    depth: Modality | None
    mask: Modality | None
    surface: Modality | None


def _traits(meta: SceneMeta) -> Traits:
    """Meters where the file says so; rendered where the file says so, or the data set is known to be."""
    stated, name = meta.values.get("is_synthetic"), _plain_name(meta)
    is_synthetic = stated if isinstance(stated, bool) else (name == "ase" or name.startswith(_RENDERED))
    return Traits(1.0 if meta.is_metric else None, is_synthetic)


def _frame(
    scene: WaiScene,
    view: int,
    there: _Modalities,
    bounds: tuple[float, float] | None,
) -> Frame:
    meta = scene.meta.frames[view]
    where = f"{scene.meta.where}, frame {meta.name}"
    camera = scene.meta.camera(meta)
    require(
        camera.model == PINHOLE,
        f"{where}: expected a PINHOLE camera, got {camera.model}; python -m data.wai.undistort makes one of it",
    )
    image_path = scene.path_of(meta, there.image or Modality("frame_key", "file_path", None))
    if image_path is None or not is_file(image_path):
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
        depth_path=scene.path_of(meta, there.depth) if there.depth else None,
        mask_path=scene.path_of(meta, there.mask) if there.mask else None,
        surface_path=scene.path_of(meta, there.surface) if there.surface else None,
    )


def _plain_name(meta: SceneMeta) -> str:
    """Of the data set: small letters and digits only."""
    return "".join(filter(str.isalnum, meta.dataset_name.lower()))


class _DepthFiles:
    """Reads the depth maps of a scene by the rules of its data set."""

    def __init__(self, scene: WaiScene, known: dict[str, Modality], depth: Modality) -> None:
        name = _plain_name(scene.meta)
        self.kind = depth.kind
        self.is_cut = name.startswith(_CUT)
        self.least = next((least for start, least in _UNSURE.items() if name.startswith(start)), None)
        confidence = known.get(_first(known, ("depth_confidence",)) or "")
        self.confidence: dict[int, Path] = {}
        self.confidence_kind = None if confidence is None else confidence.kind
        if self.least is not None and confidence is not None:
            paths = {view: scene.path_of(frame, confidence) for view, frame in enumerate(scene.meta.frames)}
            self.confidence = {view: path for view, path in paths.items() if path is not None}

    def __call__(self, frame: Frame) -> Float[np.ndarray, "height width"]:
        """As float32 at the size of the image; 0 = unknown."""
        depth = _at_size(cleaned_depth(load(frame.depth_path, self.kind)), frame)
        if frame.view_id in self.confidence:
            values = load(self.confidence[frame.view_id], self.confidence_kind).astype(np.float32)
            depth = np.where(_at_size(values, frame) > self.least, depth, 0).astype(np.float32)
        return np.where(depth > np.quantile(depth, _CUT_AT), 0, depth).astype(np.float32) if self.is_cut else depth


def _read_mask(kind: str | None, frame: Frame) -> UInt8[np.ndarray, "height width"]:
    return _at_size(255 * load(frame.mask_path, kind).astype(np.uint8), frame)


def _read_surface(kind: str | None, frame: Frame) -> Bool[np.ndarray, "height width"]:
    return _at_size(load(frame.surface_path, kind).astype(np.uint8), frame) > 0


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
