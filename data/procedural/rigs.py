"""Camera rigs in the table frame (millimeters, z up, table top at z = 0) and their pair lists.

The DTU rig is the real one in closed form: 49 cameras 608.6 mm from the point they all look at, six rows of constant
elevation scanned to and fro, even steps of azimuth, one roll per row (fitted to the released cameras: centers within
2 mm, neighbors 11 to 13 degrees apart). `dtu_world` turns the table frame into DTU's world frame.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from geometry import Cameras

DTU_TRAIN_VIEWS = (25, 21, 33, 22, 14, 15, 26, 30, 31, 35, 34, 43, 46, 29, 16, 36)
DTU_HELD_OUT_VIEWS = (32, 24, 23, 44)
"""Training and held-out views of MVSNeRF (Chen et al. 2021), in its order."""
DTU_NUM_VIEWS = 49
"""Cameras of the rig."""
DTU_NEAR, DTU_INTERVAL = 425.0, 2.5
"""Millimeters of camera z: nearest depth and distance of planes in MVSNet's camera files."""
DTU_FAR = DTU_NEAR + 192 * DTU_INTERVAL
"""905 mm: MVSNet counts 192 planes."""
DTU_RADIUS = 608.6
"""Millimeters from the point that the rig looks at; fitted to the released cameras."""
AIM_HEIGHT = 42.0
"""Millimeters from the table top up to that point."""
# focal x, y and principal point x, y of the released files: for 160x128, integer pixel centers
DTU_INTRINSICS = (361.5413, 360.3969, 82.9007, 66.3839)
# rows: left as seen from the cameras, toward them, up, of DTU's table in DTU's world; and the point in mm that the rig
# looks at; both fitted to the released cameras
DTU_TABLE_AXES = ((-0.302246, 0.869851, -0.389880), (0.946675, 0.321795, -0.015940), (0.111597, -0.373908, -0.920728))
DTU_AIM_WORLD = (43.39, -18.59, 613.81)


class _Row(NamedTuple):
    """Cameras of one elevation; angles in degrees."""

    count: int
    elevation: float
    first_azimuth: float
    step: float
    roll: float


# fitted to the released cameras
DTU_ROWS = (
    _Row(5, 65.25, -52.6, 29.75, 16.9),
    _Row(6, 54.3, 63.2, -20.4, 11.0),
    _Row(8, 43.1, -59.9, 16.03, 7.5),
    _Row(9, 31.85, 58.9, -13.64, 5.2),
    _Row(10, 20.45, -62.0, 12.3, 3.3),
    _Row(11, 9.0, 57.6, -11.62, 1.8),
)


def look_at(center: np.ndarray, aim: np.ndarray, roll: float) -> np.ndarray:
    """World-to-camera (4, 4): +z toward `aim`, +x horizontal, then turned by `roll` degrees about the optical axis."""
    forward = (aim - center) / np.linalg.norm(aim - center)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    cos, sin = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    rotation = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
    w2c = np.eye(4)
    w2c[:3, :3], w2c[:3, 3] = rotation, -rotation @ center
    return w2c


def on_sphere(radius: float, elevation: float, azimuth: float) -> np.ndarray:
    """Azimuth 0 is +y, 90 degrees is -x."""
    up, around = np.radians(elevation), np.radians(azimuth)
    return radius * np.array([-np.cos(up) * np.sin(around), np.cos(up) * np.cos(around), np.sin(up)])


def _cameras(w2c: list[np.ndarray], intrinsics: np.ndarray, height: int, width: int) -> Cameras:
    return Cameras(
        w2c=torch.from_numpy(np.stack(w2c)),
        intrinsics=torch.from_numpy(intrinsics).expand(len(w2c), 3, 3).clone(),
        height=height,
        width=width,
    )


def dtu_rig(height: int, width: int) -> Cameras:
    """DTU's 49 cameras in the table frame, in DTU's order, for images of height x width."""
    aim = np.array([0.0, 0.0, AIM_HEIGHT])
    w2c = [
        look_at(aim + on_sphere(DTU_RADIUS, row.elevation, row.first_azimuth + k * row.step), aim, row.roll)
        for row in DTU_ROWS
        for k in range(row.count)
    ]
    focal_x, focal_y, center_x, center_y = DTU_INTRINSICS
    # the released files count integer centers at full size: (4 c + 0.5) of 640x512, whatever size is asked for
    intrinsics = np.array(
        [[4 * focal_x, 0.0, 4 * center_x + 0.5], [0.0, 4 * focal_y, 4 * center_y + 0.5], [0.0, 0.0, 1.0]]
    )
    return _cameras(w2c, intrinsics, 512, 640).resized(height, width)


def dtu_world(cameras: Cameras) -> Cameras:
    """The same cameras in DTU's world frame."""
    left, _, right = np.linalg.svd(np.array(DTU_TABLE_AXES).T)
    table_to_world = np.eye(4)
    table_to_world[:3, :3] = left @ right  # the constants are rounded; this is the nearest rotation
    table_to_world[:3, 3] = np.array(DTU_AIM_WORLD) - table_to_world[:3, :3] @ (0.0, 0.0, AIM_HEIGHT)
    world_to_table = torch.from_numpy(np.linalg.inv(table_to_world)).to(cameras.w2c)
    return replace(cameras, w2c=cameras.w2c @ world_to_table)


def dtu_view_order(num_views: int) -> tuple[int, ...]:
    """The first `num_views` ids to write: the 16 training views, the 4 held-out ones, then the others."""
    first = DTU_TRAIN_VIEWS + DTU_HELD_OUT_VIEWS
    return (*first, *(view for view in range(DTU_NUM_VIEWS) if view not in first))[:num_views]


def orbit_rig(rng: np.random.Generator, num_views: int, height: int, width: int) -> Cameras:
    """Hand-held turns around the table at varying height, distance and aim; one wider lens per scene."""
    turns, phase = rng.uniform(1.0, 2.2), rng.uniform(0, 360)
    radius, base = rng.uniform(430, 560), rng.uniform(26, 36)
    w2c = []
    for k in range(num_views):
        azimuth = phase + 360 * turns * k / num_views + rng.normal(0, 3)
        elevation = base + 14 * np.sin(2 * np.pi * 1.7 * k / num_views + phase) + rng.normal(0, 2)
        aim = np.array([0.0, 0.0, AIM_HEIGHT - 10]) + rng.normal(0, 10, 3)
        distance = radius * (1 + 0.12 * np.sin(0.9 * k) + rng.normal(0, 0.02))
        w2c.append(look_at(aim + on_sphere(distance, elevation, azimuth), aim, rng.normal(0, 4)))
    focal = width * rng.uniform(1.05, 1.35)
    center_x, center_y = width / 2 + rng.normal(0, 0.01 * width), height / 2 + rng.normal(0, 0.01 * height)
    intrinsics = np.array([[focal, 0.0, center_x], [0.0, focal * 1.001, center_y], [0.0, 0.0, 1.0]])
    return _cameras(w2c, intrinsics, height, width)


def view_angles(cameras: Cameras) -> Float[np.ndarray, "view view"]:
    """Degrees between the directions from the middle of the scene to every two cameras (table frame)."""
    directions = cameras.centers.double().numpy() - (0.0, 0.0, AIM_HEIGHT)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosines = (directions[:, None] * directions[None]).sum(-1)
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def pair_list(cameras: Cameras, view_ids: tuple[int, ...], num_neighbors: int = 10) -> str:
    """MVSNet's `pair.txt` for cameras that carry these ids: neighbors by angle, score 1000 exp(-(angle/15 deg)^2)."""
    angles = view_angles(cameras)
    lines = [str(len(view_ids))]
    for row in np.argsort(view_ids):
        others = [k for k in np.argsort(angles[row], kind="stable") if k != row][:num_neighbors]
        scored = [f"{view_ids[k]} {1000 * np.exp(-((angles[row, k] / 15) ** 2)):.6g}" for k in others]
        lines += [str(view_ids[row]), " ".join([str(len(scored)), *scored])]
    return "\n".join(lines) + "\n"
