"""ARKitScenes' 3-D object annotations (Baruch et al. 2021) -> records that ask for an anchor on an object.

{id}/{id}_3dod_annotation.json                             oriented boxes, meters, z up
{id}/[{id}_frames/]lowres_wide/{id}_{seconds}.png          photographs
.../lowres_wide.traj                                       optional: seconds, axis-angle and translation, w2c
.../lowres_wide_intrinsics/{id}_{seconds}.pincam           optional: width height fx fy cx cy
.../lowres_depth/{id}_{seconds}.png                        optional: 16 bits, millimeters
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from data.image_io import read_uint16
from data.problems import LeftOut, Report, raise_problem
from data.scene_qa.geometry import depth_histograms
from data.scene_qa.records import action_text
from data.scene_qa.types import QARecord, ViewGeometry
from data.seeds import evenly_spread
from geometry import InputError, rigid_inverse
from geometry.plain_files import plain_file
from geometry.plain_json import parse_json

ANNOTATION = "_3dod_annotation.json"
POSE_TOLERANCE = 0.1
"""Seconds between a photograph and the pose it takes; the trajectory has ten poses a second."""
_DECIMALS = 3
"""Millimeters: finer than the annotation is."""


class _Box(NamedTuple):
    label: str
    center: np.ndarray
    """Meters."""
    extent: np.ndarray
    """Along its own axes, meters."""
    axes: np.ndarray
    """Rows: unit vectors of its axes."""


def find_arkit_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder, at any depth (`Training/`, `Validation/`)."""
    return {path.parent.name: path.parent for path in sorted(datadir.rglob(f"*{ANNOTATION}"))}


def read_arkit(datadir: Path, max_views: int, report: Report = raise_problem) -> list[QARecord]:
    """One record for each object whose label is its scene's only one of that kind.

    The anchor's normal is the box's shorter horizontal axis, toward the middle of all boxes; its extent is along the
    box's own axes. Views are evenly spread over the video, since neighbors in it are nearly equal.

    Raises:
        InputError: for a folder without scans. What cannot be used of them goes to `report`.
    """
    scans = find_arkit_scans(datadir)
    if not scans:
        raise InputError(f"{datadir}: expected folders with *{ANNOTATION}, got none")
    records: list[QARecord] = []
    for name, folder in scans.items():
        try:
            records += _scene_records(name, folder, max_views, report)
        except InputError as error:
            report(error)
    return records


def _scene_records(name: str, folder: Path, max_views: int, report: Report) -> list[QARecord]:
    boxes = _boxes(folder / f"{name}{ANNOTATION}")
    frames = next((path for path in (folder, folder / f"{name}_frames") if (path / "lowres_wide").is_dir()), None)
    images = sorted((frames / "lowres_wide").glob("*.png")) if frames else []
    if not images or frames is None:
        raise InputError(f"{folder}: expected photographs in lowres_wide/, got none")
    views = evenly_spread(images, max_views)
    geometry = _geometry(frames, views, report)
    counts = Counter(box.label for box in boxes)
    shared = sum(count for count in counts.values() if count > 1)
    if shared:
        report(LeftOut("objects with the label of others", f"{folder}: {shared} objects share their label"))
    middle = np.mean([box.center for box in boxes], axis=0)
    found = []
    for number, box in enumerate(boxes):
        if counts[box.label] == 1:
            action = _action(name, box, middle)
            found.append(
                QARecord(
                    images=tuple(views),
                    question=f"Place an anchor on the {box.label.replace('_', ' ')}.",
                    answers=(action_text(action),),
                    action=action,
                    geometry=geometry,
                    task="anchor",
                    scene=name,
                    situation=f"Scene {name}.",  # the action names it, and no view shows it
                    id=f"{name}-anchor-{number}",
                )
            )
    return found


def _boxes(path: Path) -> list[_Box]:
    try:
        rows = parse_json(plain_file(path).read_text())["data"]
        found = []
        for row in rows:
            box = row["segments"]["obbAligned"]
            axes = np.array(box["normalizedAxes"], dtype=np.float64).reshape(3, 3)
            center, extent = (np.array(box[key], dtype=np.float64) for key in ("centroid", "axesLengths"))
            found.append(_Box(str(row["label"]), center, extent, axes))
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: expected oriented boxes under data[].segments.obbAligned, got: {error!r}") from None
    numbers = [part for box in found for part in (box.center, box.extent, box.axes)]
    if not found or not all(np.isfinite(part).all() and part.shape[-1:] == (3,) for part in numbers):
        raise InputError(f"{path}: expected boxes of finite numbers, got none or others")
    return found


def _action(scene: str, box: _Box, middle: np.ndarray) -> dict[str, Any]:
    upright = np.abs(box.axes[:, 2])
    flat = [axis for axis in np.argsort(box.extent) if upright[axis] < np.sqrt(0.5)]
    normal = box.axes[flat[0] if flat else int(np.argmin(box.extent))]
    if normal @ (middle - box.center) < 0:
        normal = -normal
    return {
        "action": "place_anchor",
        "scene": scene,
        "center": _rounded(box.center),
        "normal": _rounded(normal / np.linalg.norm(normal)),
        "extent": _rounded(box.extent),
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), _DECIMALS) + 0.0 for value in values]  # no -0.0


def _geometry(frames: Path, images: Sequence[Path], report: Report) -> ViewGeometry | None:
    """None where poses or intrinsics are missing."""
    trajectory, cameras = frames / "lowres_wide.traj", frames / "lowres_wide_intrinsics"
    if not trajectory.is_file() or not cameras.is_dir():
        return None
    try:
        poses = np.loadtxt(trajectory, ndmin=2)
        w2c = torch.from_numpy(np.stack([_pose_at(poses, _seconds(path), path) for path in images]))
        lenses = np.stack([np.loadtxt(plain_file(cameras / f"{path.stem}.pincam")) for path in images])
        with np.errstate(over="ignore"):
            is_finite = bool(w2c.float().isfinite().all()) and bool(np.isfinite(lenses.astype(np.float32)).all())
        if not is_finite or lenses.shape[-1] < 6 or not (lenses[:, :4] > 0).all():
            raise ValueError("numbers that are not finite, or no size and focal length above 0")
    except (OSError, ValueError, IndexError) as error:
        report(LeftOut("scenes without geometry", f"{frames}: expected a pose and a camera for each view: {error}"))
        return None
    histogram, limits = depth_histograms([_depth(frames / "lowres_depth" / path.name) for path in images])
    c2w = rigid_inverse(w2c)
    intrinsics = torch.eye(3, dtype=torch.float64).repeat(len(images), 1, 1)
    focal_and_center = torch.from_numpy(lenses[:, 2:6])
    intrinsics[:, [0, 1], [0, 1]] = focal_and_center[:, :2]
    intrinsics[:, :2, 2] = focal_and_center[:, 2:] + 0.5  # from integer pixel centers
    return ViewGeometry(
        rotations=c2w[:, :3, :3].float(),
        translations=c2w[:, :3, 3].float(),
        intrinsics=intrinsics.float(),
        image_size=torch.from_numpy(lenses[:, :2]).float(),
        depth_histogram=torch.from_numpy(histogram).float(),
        depth_range=torch.from_numpy(limits).float(),
    )


def _seconds(image: Path) -> float:
    return float(image.stem.rpartition("_")[2])


def _pose_at(poses: np.ndarray, seconds: float, image: Path) -> np.ndarray:
    """World to camera of the pose that is nearest in time."""
    if poses.shape[1] != 7:
        raise ValueError(f"{poses.shape[1]} numbers of a pose instead of 7")
    row = poses[np.abs(poses[:, 0] - seconds).argmin()]
    if abs(row[0] - seconds) > POSE_TOLERANCE:
        raise ValueError(f"no pose within {POSE_TOLERANCE} s of {image.name}")
    w2c = np.eye(4)
    w2c[:3, :3] = cv2.Rodrigues(row[1:4])[0]
    w2c[:3, 3] = row[4:7]
    return w2c


def _depth(path: Path) -> np.ndarray:
    return read_uint16(path).astype(np.float32) / 1000 if path.is_file() else np.zeros((1, 1))
