"""Look at a WAI scene in a browser: `python -m data.wai.view /path/to/wai/room` (docs/wai.md, "Look at a scene").

Cameras with their images, points from depth maps, and covisibility as lines between cameras.
"""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data.multi_view.covisible_views import EDGE_THRESHOLD, edges
from data.readers.wai import read_wai_scene
from data.scene import PosedScene
from data.seeds import evenly_spread
from data.wai.stages import Parser, find_scenes
from geometry import InputError, one_line_errors, require
from geometry.cameras import rigid_inverse

_THUMBNAIL = 96
"""Pixels of the long side of the images shown in the cameras."""
_CAMERA_SIZE = 0.12
"""Size of a camera's frustum in units of its near plane's distance; chosen by hand."""


class Cloud(NamedTuple):
    """Colored points."""

    points: Float[np.ndarray, "point 3"]
    colors: UInt8[np.ndarray, "point 3"]


def cloud_of(scene: PosedScene, num_points: int, num_views: int) -> Cloud:
    """World points of depth maps, spread over some views."""
    views = evenly_spread([view for view in scene.frames if scene.has_depth(view)], num_views)
    parts, colors = [np.zeros((0, 3), np.float32)], [np.zeros((0, 3), np.uint8)]
    for view in views:
        frame, depth, image = scene.frames[view], scene.depth(view), scene.image(view)
        rows, columns = np.nonzero(depth)
        chosen = evenly_spread(range(len(rows)), num_points // len(views))
        rows, columns = rows[chosen], columns[chosen]
        pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=-1)
        local = pixels @ np.linalg.inv(frame.intrinsics.double().numpy()).T * depth[rows, columns, None]
        c2w = rigid_inverse(frame.w2c.double()).numpy()
        parts.append((local @ c2w[:3, :3].T + c2w[:3, 3]).astype(np.float32))
        colors.append(image[rows, columns])
    return Cloud(np.concatenate(parts), np.concatenate(colors))


def covisible_pairs(scene: PosedScene, threshold: float) -> list[tuple[int, int]]:
    """Pairs of views that are neighbors in either direction; none where covisibility is not known."""
    if scene.covisibility is None:
        return []
    views = list(scene.frames)
    neighbors = edges(scene.covisibility.among(views), threshold)
    return [(views[i], views[j]) for i, j in np.argwhere(np.triu(neighbors | neighbors.T)).tolist()]


def serve(scene: PosedScene, *, port: int, threshold: float, num_points: int, seconds: float | None) -> None:
    """Serve the page until Ctrl-C, or for some seconds."""
    import viser  # slow to import, and nothing else here needs it

    from data.private_server import PrivateServer

    server = PrivateServer(port=port)
    try:
        cloud = cloud_of(scene, num_points, 16)
        server.scene.set_up_direction("-y")
        server.scene.add_point_cloud("/points", cloud.points, cloud.colors, point_size=_size(scene) / 200)
        for view, frame in scene.frames.items():
            c2w = rigid_inverse(frame.w2c.double()).numpy()
            server.scene.add_camera_frustum(
                f"/cameras/{view}",
                fov=2 * float(np.arctan(frame.height / 2 / float(frame.intrinsics[1, 1]))),
                aspect=frame.width / frame.height,
                scale=_size(scene),
                image=_thumbnail(scene.image(view)),
                wxyz=viser.transforms.SO3.from_matrix(c2w[:3, :3]).wxyz,
                position=c2w[:3, 3],
            )
        pairs = covisible_pairs(scene, threshold)
        if pairs:
            ends = np.array([[scene.frames[view].center.numpy() for view in pair] for pair in pairs])
            server.scene.add_line_segments("/covisibility", ends, colors=(60, 160, 90))
        what = f"{len(scene.frames)} cameras, {len(cloud.points)} points, {len(pairs)} covisible pairs"
        sys.stdout.write(f"{scene.name}: {what}; http://localhost:{server.get_port()}\n")
        sys.stdout.flush()
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            time.sleep(0.05)
    finally:
        server.stop()


def _size(scene: PosedScene) -> float:
    near = np.median([frame.near for frame in scene.frames.values()])
    return _CAMERA_SIZE * float(near)


def _thumbnail(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "small_height small_width 3"]:
    scale = min(1.0, _THUMBNAIL / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = Parser(prog="python -m data.wai.view", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("scene", type=Path, metavar="SCENE", help="folder with a scene_meta.json")
    parser.add_argument("--port", type=int, default=8080, help="of the page; 0: any that is free")
    parser.add_argument("--threshold", type=float, default=EDGE_THRESHOLD, help="covisibility of connected cameras")
    parser.add_argument("--points", type=int, default=200_000, help="at most so many")
    parser.add_argument("--seconds", type=float, help="end after so long; default: on Ctrl-C")
    options = parser.parse_args(arguments)
    require(options.points >= 0, f"--points: expected 0 or more, got {options.points}")
    require(0 < options.threshold < 1, f"--threshold: expected a number between 0 and 1, got {options.threshold:g}")
    require(0 <= options.port <= 65535, f"--port: expected 0 to 65535, got {options.port}")
    is_given = options.seconds is not None
    require(not is_given or 0 < options.seconds < math.inf, f"--seconds: expected above 0, got {options.seconds}")
    found = find_scenes(options.scene)
    if len(found) != 1:
        raise InputError(f"{options.scene}: expected the folder of one scene, got {len(found)} scenes")
    ((name, folder),) = found.items()
    scene = read_wai_scene(folder, name)
    serve(scene, port=options.port, threshold=options.threshold, num_points=options.points, seconds=options.seconds)


if __name__ == "__main__":
    main()
