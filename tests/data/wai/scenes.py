"""Small WAI scenes: a wall with a known camera each, written through the product's own writer."""

from pathlib import Path

import numpy as np

from data.wai.scene import WaiScene
from data.wai.scene_meta import META_NAME, FrameMeta, Modality, SceneMeta

HEIGHT, WIDTH, FOCAL, DEPTH, STEP = 24, 32, 32.0, 2.0, 0.25
"""A step sideways moves the wall by FOCAL * STEP / DEPTH = 4 pixels: an eighth of the image."""


def write_wall(folder: Path, views: int = 4, *, apart: tuple[int, ...] = (), with_depth: bool = True) -> WaiScene:
    """Cameras in a row before the wall z = 2; those of `apart` look at it from far away."""
    generator = np.random.default_rng(0)
    meta = SceneMeta(folder.name, "rooms", (), {"image": Modality("frame_key", "image", "image")})
    scene, frames = WaiScene(folder, meta), []
    for view in range(views):
        name = f"{view:06d}"
        scene.store(f"images/{name}.png", generator.random((HEIGHT, WIDTH, 3)), "image")
        c2w = np.eye(4)
        c2w[0, 3] = STEP * view + (100 if view in apart else 0)
        frames.append(FrameMeta(name, c2w, {"image": f"images/{name}.png", "file_path": f"images/{name}.png"}))
    values = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": 15.5, "cy": 11.5, "w": WIDTH, "h": HEIGHT, "scale_type": "metric"}
    values |= {"shared_intrinsics": True, "camera_model": "PINHOLE", "camera_convention": "opencv"}
    modalities = dict(meta.frame_modalities)
    scene = WaiScene(folder, SceneMeta(folder.name, "rooms", tuple(frames), modalities, values=values))
    if with_depth:
        depth = np.full((HEIGHT, WIDTH), DEPTH, np.float32)
        paths = {one.name: scene.store(f"depth/{one.name}.exr", depth, "depth") for one in frames}
        scene = scene.with_frame_files("depth", "depth", "depth", paths)
    return scene.write(META_NAME)
