"""Recorded quaternions, warps, voxelized meshes and data sets of the occupancy task, for `tests.goldens`.

Folders are recognized by the files in them. Everything is computed in float64 from the recorded numbers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.occupancy.meshes import read_mesh
from data.occupancy.occ3d import FREE, read_occ3d
from data.occupancy.sessions import AGENTS, Session, agent_of, is_moving, read_sessions
from data.occupancy.voxelize import MODES, prepared, voxelized
from geometry import body_poses
from geometry.errors import InputError
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid, warp_nearest
from tests.golden_comparison import Comparison, compared

Check = Callable[[Path], dict[str, list[Comparison]]]

TOLERANCE = 1e-9
"""Of numbers, in float64."""
MIN_IOU = {"solid": 1.0, "surface": 0.98, "union": 0.98}
"""Of voxelized meshes."""


def kinds_of(folder: Path) -> list[Check]:
    """The checks of a folder of fixtures: one folder may hold several kinds."""
    names = {path.name for path in folder.iterdir()}
    found: list[Check] = []
    if "quaternion.npz" in names:
        found.append(check_quaternions)
    if {"warp.npz", "warp.json"} <= names:
        found.append(check_warps)
    if {"cases.json", "grids.npz"} <= names:
        found.append(check_voxels)
    if "expected.json" in names and "gts" in names:
        found.append(check_occ3d)
    elif "expected.json" in names and any(agent_of(name) is not None for name in names):
        found.append(check_sessions)
    return found


def kind_of(folder: Path) -> Check | None:
    """All checks of a folder as one; None: not one of these kinds."""
    checks = kinds_of(folder)
    if not checks:
        return None

    def check(path: Path) -> dict[str, list[Comparison]]:
        results: dict[str, list[Comparison]] = {}
        for one in checks:
            results |= one(path)
        return results

    return check


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"arrays {path} cannot be read: {error}") from error


def ego_grid_of(case: dict[str, Any]) -> EgoGrid:
    """Grid and frame of a recorded case; its `range` holds minimum and maximum."""
    bounds = [float(value) for value in case["range"]]
    grid = VoxelGrid(tuple(bounds[:3]), tuple(bounds[3:]), tuple(case["voxel_size"]))
    return EgoGrid(grid, GridFrame(case["orientation"], case["z_reference"]))


def pose_of(numbers: list[float]) -> Tensor:
    """13 numbers in float64; velocities that a record leaves out are 0."""
    pose = torch.zeros(13, dtype=torch.float64)
    pose[: len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
    return pose


def unpacked(bits: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """A grid of 0 and 1 from packed bits."""
    return np.unpackbits(bits)[: int(np.prod(size))].reshape(size)


def compared_size(name: str, case: dict[str, Any], grid: VoxelGrid) -> Comparison:
    """Whether the recorded number of voxels follows from range and voxel."""
    return compared(f"{name}.size", np.array(case["grid_size"]), np.array(grid.size))


def check_quaternions(folder: Path) -> dict[str, list[Comparison]]:
    """Products, matrices, headings, relative poses, and normalization with its gradient."""
    record = {name: torch.from_numpy(value) for name, value in _read(folder / "quaternion.npz").items()}
    q1, q2, t1, t2 = (record[name] for name in ("q1", "q2", "t1", "t2"))
    raw = record["raw"].clone().requires_grad_()
    unit = body_poses.unit_quaternion(raw)
    (unit * record["normalize_cotangent"]).sum().backward()
    velocities = torch.zeros(len(q1), 6, dtype=q1.dtype)
    first, second = (torch.cat([t, q, velocities], dim=-1) for t, q in ((t1, q1), (t2, q2)))
    points = torch.cat([record["points_world"], torch.zeros_like(first[:, 3:])], dim=-1)
    points[:, 3] = 1
    relative = body_poses.relative_to(first, second)
    angles = torch.rad2deg(body_poses.angle_between(q1, q2))
    got = {
        "product": body_poses.product(q1, q2),
        "matrix_q1": body_poses.rotation_of(q1),
        "safe_normalized": unit.detach(),
        "normalize_grad": raw.grad,
        "quat_of_yaw": body_poses.quaternion_of(body_poses.rotation_about_z(record["yaw"])),
        "yaw_of_q1": body_poses.yaw_of(body_poses.rotation_of(q1)),
        "relative_quat": relative[:, 3:7],
        "relative_translation": relative[:, :3],
        "angle_deg": angles,
        "points_in_frame1": body_poses.relative_to(first, points)[:, :3],
    }
    inputs = {"q1", "q2", "t1", "t2", "raw", "normalize_cotangent", "yaw", "points_world"}
    results = []
    for name, value in record.items():
        if name in inputs:
            continue
        ours = got.get(name)
        if ours is not None and name == "quat_of_yaw":
            ours = ours * (ours * value).sum(-1, keepdim=True).sign()  # recorded with either sign
        tolerance = 1e-6 if name == "angle_deg" else TOLERANCE  # the arc cosine of the record
        results.append(compared(name, value.numpy(), None if ours is None else ours.numpy(), absolute=tolerance))
    return {"quaternion.npz": results}


def check_warps(folder: Path) -> dict[str, list[Comparison]]:
    """Grids seen from another pose, voxel by voxel."""
    record = _read(folder / "warp.npz")
    results = []
    for case in json.loads((folder / "warp.json").read_text()):
        space, number = ego_grid_of(case), case["index"]
        source = torch.from_numpy(unpacked(record[f"{number}.source"], space.grid.size))
        motion = space.frame.motion(pose_of(case["pose_source"]), pose_of(case["pose_target"]))
        warped, visible = warp_nearest(space.grid, source, motion)
        results.append(compared_size(str(number), case, space.grid))
        for name, ours in (("warped", warped), ("visible", visible)):
            expected = unpacked(record[f"{number}.{name}"], space.grid.size)
            results.append(compared(f"{number}.{name}", expected, ours.numpy().astype(np.uint8)))
    return {"warp.npz": results}


def check_sessions(folder: Path) -> dict[str, list[Comparison]]:
    """Poses, agents and numbers of windows of sessions in the guide's layout, which say nothing of their grid."""
    expected = json.loads((folder / "expected.json").read_text())
    size = [float(count) for count in expected["_grid"]]
    space = EgoGrid(VoxelGrid((0.0, 0.0, 0.0), (size[0], size[1], size[2]), (1.0, 1.0, 1.0)), GridFrame())
    sessions = {session.name: session for session in read_sessions(folder, space)}
    used = {session.name for session in read_sessions(folder, space, skips_dummies=True, report=lambda problem: None)}
    results = []
    for name, entry in expected.items():
        if name.startswith("_"):
            continue
        results += _check_session(name, entry, sessions.get(name), name in used)
    return {"expected.json": results}


def _check_session(name: str, entry: dict[str, Any], session: Session | None, is_used: bool) -> list[Comparison]:
    if session is None:
        return [Comparison(name, float("inf"), "a session", False)]
    agents = {number: agent for agent, number in AGENTS.items()}
    facts = {
        "frames": len(session.numbers),
        "agent": agents[session.agent],
        "used": is_used,
        "still": not is_moving(session.poses[:, :3]),
    }
    results = [compared(f"{name}.pose_13d", np.array(entry["pose_13d"]), session.poses.numpy(), absolute=TOLERANCE)]
    for key, value in entry.items():
        if key.startswith("windows_"):
            numbers = dict(_option(word) for word in key.split("_")[1:])
            ours: Any = len(session.windows(numbers["h"] + numbers["f"], numbers.get("skip", 1)))
        elif key in facts:
            ours = facts[key]
        else:
            continue
        results.append(Comparison(f"{name}.{key}", 0.0, f"equal to {value}, got {ours}", ours == value))
    return results


def _option(word: str) -> tuple[str, int]:
    """`skip2` -> (skip, 2)."""
    name = word.rstrip("0123456789")
    return name, int(word.removeprefix(name))


def check_occ3d(folder: Path) -> dict[str, list[Comparison]]:
    """Classes, visible voxels, steps and maneuvers of scenes in Occ3D's layout."""
    expected = json.loads((folder / "expected.json").read_text())
    infos = next(iter(sorted(folder.glob("*.pkl"))), None)
    results, found = [], set()
    for scene in read_occ3d(folder, infos):
        for row, token in enumerate(scene.tokens):
            entry = expected.get(f"{scene.name}/{token}")
            if entry is None:
                continue
            found.add(f"{scene.name}/{token}")
            labels = scene.labels(row, ("semantics", "mask_camera"))
            is_occupied = labels["semantics"] != FREE
            ours = {
                "histogram": np.bincount(labels["semantics"].ravel(), minlength=FREE + 1),
                "occupied": is_occupied.sum(),
                "camera_visible_occupied": (is_occupied & (labels["mask_camera"] > 0)).sum(),
                "step": scene.steps[row].numpy(),
                "command": scene.maneuvers[row],
            }
            results += [
                compared(f"{scene.name}/{token}/{name}", np.array(value), np.array(ours[name]), absolute=TOLERANCE)
                for name, value in entry.items()
                if name in ours
            ]
    missing = sorted(set(expected) - found)
    return {"expected.json": [*results, *(Comparison(name, float("inf"), "a frame", False) for name in missing)]}


def check_voxels(folder: Path) -> dict[str, list[Comparison]]:
    """Solids, surfaces and both of meshes, by their overlap (IoU) with the record."""
    record, results = _read(folder / "grids.npz"), []
    for case in json.loads((folder / "cases.json").read_text()):
        space, name = ego_grid_of(case), case["name"]
        mesh = read_mesh(folder / case["mesh"])
        shells = prepared(mesh.vertices, mesh.faces, mesh.objects)
        grid2world = space.frame.grid2world(pose_of(case["pose_13d"])).numpy()
        results.append(compared_size(name, case, space.grid))
        for mode in MODES:
            expected = unpacked(record[f"{name}.{mode}"], space.grid.size) > 0
            ours = voxelized(shells, space, grid2world, mode)
            either = (expected | ours).sum()
            iou = float((expected & ours).sum() / either) if either else 1.0
            is_within = iou >= MIN_IOU[mode]
            results.append(Comparison(f"{name}.{mode}", 1 - iou, f"IoU {MIN_IOU[mode]:g} or more", is_within))
    return {"grids.npz": results}
