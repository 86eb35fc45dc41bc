"""Tiny scenes of photographs with COLMAP models and transforms.json: a wall of points seen by cameras that shift."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from data.colmap_library import pycolmap
from data.colmap_model import add_image, write_model
from data.image_io import write_image
from geometry import Cameras
from tests.data import tiny_scenes as tiny

HEIGHT, WIDTH = tiny.HEIGHT, tiny.WIDTH
DEPTH = 7.0
INTRINSICS = torch.tensor([[100.0, 0, 40], [0, 100, 32], [0, 0, 1]], dtype=torch.float64)


def w2c(view: int) -> torch.Tensor:
    """Camera at (0.14 view, 0, 0): 2 pixels per view at `DEPTH`."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 3] = -0.14 * view
    return matrix


def points() -> np.ndarray:
    """40 on the wall that every camera sees, within 10 percent of its depth."""
    generator = np.random.default_rng(0)
    depth = DEPTH * generator.uniform(0.9, 1.1, 40)
    return np.stack([generator.uniform(-0.8, 1.2, 40), generator.uniform(-1.5, 1.5, 40), depth], axis=-1)


def write_colmap(
    root: Path,
    *,
    views: int = 9,
    text: bool = False,
    camera: pycolmap.Camera | None = None,
    portrait: tuple[int, ...] = (),
    seen_by: Mapping[int, tuple[int, ...]] | None = None,
) -> Path:
    """Images named so that their order is not that of their ids; `portrait` ones are turned counterclockwise.

    `seen_by`: rows of points and the views that observe them, if not all do.
    With `camera`, observations are where it sees the points; the pictures do not follow.
    """
    model, world = pycolmap.Reconstruction(), points()
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in world]
    for view in range(views):
        image = tiny.picture(view)
        pinhole = Cameras(w2c(view), INTRINSICS, HEIGHT, WIDTH)
        if view in portrait:
            image, pinhole = np.ascontiguousarray(np.rot90(image)), pinhole.turned(1)
        fx, fy, cx, cy = (pinhole.intrinsics[index].item() for index in ((0, 0), (1, 1), (0, 2), (1, 2)))
        used = camera or pycolmap.Camera(
            model="PINHOLE", width=pinhole.width, height=pinhole.height, params=[fx, fy, cx, cy]
        )
        used.camera_id = 2 if view in portrait else 1
        in_camera = world @ pinhole.w2c[:3, :3].numpy().T + pinhole.w2c[:3, 3].numpy()
        add_image(model, 100 - view, f"IMG_{view:03d}.png", pinhole.w2c, used, used.img_from_cam(in_camera))
        for row, track in enumerate(tracks):
            if view in (seen_by or {}).get(row, (view,)):
                track.append(pycolmap.TrackElement(100 - view, row))
        write_image(root / "images" / f"IMG_{view:03d}.png", image)
    for point, track in zip(world, tracks, strict=True):
        model.add_point3D(point, pycolmap.Track(track), np.zeros(3, np.uint8))
    write_model(model, root / "sparse" / "0", text=text)
    return root


def write_transforms(root: Path, *, views: int = 9, **fields: object) -> Path:
    """The same cameras and pictures; `fields` are added to the file."""
    frames = []
    for view in range(views):
        write_image(root / "images" / f"IMG_{view:03d}.png", tiny.picture(view))
        c2w = torch.linalg.inv(w2c(view)) @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
        frames.append({"file_path": f"./images/IMG_{view:03d}", "transform_matrix": c2w.tolist()})
    shared = {"fl_x": 100.0, "fl_y": 100.0, "cx": 40.0, "cy": 32.0, "w": WIDTH, "h": HEIGHT}
    (root / "transforms.json").write_text(json.dumps(shared | {"frames": frames} | fields))
    return root
