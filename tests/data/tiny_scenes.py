"""Tiny scenes in every layout, written by hand so that readers are tested against known numbers.

One wall z = 700 with photograph-like texture, seen by cameras that shift sideways: depth is 700 everywhere.
"""

import json
import math
from pathlib import Path

import cv2
import numpy as np

from data.image_io import write_image, write_pfm

HEIGHT, WIDTH = 64, 80
FOCAL = 100.0
DEPTH = 700.0
STEP = 14.0
"""Sideways shift between neighboring cameras; 2 pixels at DEPTH."""


def wall() -> np.ndarray:
    """Smooth texture, wider than any view needs."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 2, WIDTH * 2, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH * 4, HEIGHT), interpolation=cv2.INTER_CUBIC)


def picture(view: int) -> np.ndarray:
    """The wall as camera `view` sees it."""
    left = 2 * view
    return np.ascontiguousarray(wall()[:, left : left + WIDTH])


def w2c(view: int) -> np.ndarray:
    """Camera at (STEP * view, 0, 0), axes of the world."""
    matrix = np.eye(4)
    matrix[0, 3] = -STEP * view
    return matrix


def intrinsics(scale: float = 1.0) -> np.ndarray:
    """For pixel centers at integers."""
    return np.array([[FOCAL * scale, 0, 39.5 * scale], [0, FOCAL * scale, 31.5 * scale], [0, 0, 1]])


def camera_text(w2c_matrix: np.ndarray, intrinsics_matrix: np.ndarray, last_line: str) -> str:
    """MVSNet's camera file."""
    rows = [" ".join(repr(float(value)) for value in row) for row in w2c_matrix]
    lines = [" ".join(repr(float(value)) for value in row) for row in intrinsics_matrix]
    return "\n".join(["extrinsic", *rows, "", "intrinsic", *lines, "", last_line, ""])


def write_dtu(
    root: Path, *, scans: tuple[str, ...] = ("scan24",), views: int = 6, lights: tuple[int, ...] = (3,)
) -> Path:
    """DTU layout with depth at image size and masks."""
    for view in range(views):
        path = root / "Cameras" / "train" / f"{view:08d}_cam.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(camera_text(w2c(view), intrinsics(0.25), "425.0 2.5"))
        for scan in scans:
            for light in lights:
                name = f"rect_{view + 1:03d}_{light}_r5000.png"
                write_image(root / "Rectified" / f"{scan}_train" / name, picture(view))
            write_pfm(root / "Depths" / scan / f"depth_map_{view:04d}.pfm", np.full((HEIGHT, WIDTH), DEPTH, np.float32))
            write_image(root / "masks" / scan / f"{view:03d}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    return root


def write_blendedmvs(root: Path, *, views: int = 6, last_line: str = "425.0 2.5 128 900.0") -> Path:
    """One BlendedMVS scene with depth and pair file."""
    for view in range(views):
        write_image(root / "blended_images" / f"{view:08d}.jpg", picture(view))
        write_image(root / "blended_images" / f"{view:08d}_masked.jpg", picture(view))
        write_pfm(root / "rendered_depth_maps" / f"{view:08d}.pfm", np.full((HEIGHT, WIDTH), DEPTH, np.float32))
        (root / "cams").mkdir(exist_ok=True)
        (root / "cams" / f"{view:08d}_cam.txt").write_text(camera_text(w2c(view), intrinsics(), last_line))
    pairs = [str(views)]
    for view in range(views):
        others = [other for other in reversed(range(views)) if other != view]
        pairs += [str(view), " ".join([str(len(others)), *(f"{other} 1.5" for other in others)])]
    (root / "cams" / "pair.txt").write_text("\n".join(pairs) + "\n")
    return root


def write_idr(root: Path, *, views: int = 6, has_spheres: bool = True) -> Path:
    """IDR / NeuS layout."""
    matrices = {}
    for view in range(views):
        write_image(root / "image" / f"{view:06d}.png", picture(view))
        write_image(root / "mask" / f"{view:03d}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        projection = np.eye(4)
        projection[:3] = intrinsics() @ w2c(view)[:3]
        matrices[f"world_mat_{view}"] = 2.5 * projection
        if has_spheres:
            matrices[f"scale_mat_{view}"] = np.array(
                [[150.0, 0, 0, 0], [0, 150.0, 0, 0], [0, 0, 150.0, DEPTH], [0, 0, 0, 1]]
            )
    np.savez(root / "cameras.npz", **matrices)
    return root


def write_llff(root: Path, *, views: int = 9) -> Path:
    """LLFF layout: the original images are 4 times as large as images_4, which is there besides images_2."""
    rows = []
    for view in range(views):
        write_image(root / "images_4" / f"IMG_{view:03d}.png", picture(view))
        write_image(root / "images_2" / f"IMG_{view:03d}.png", np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8))
        # axes of the world in OpenCV order: down = +y, right = +x, back = -z
        matrix = np.array(
            [[0, 1, 0, STEP * view, 4 * HEIGHT], [1, 0, 0, 0, 4 * WIDTH], [0, 0, -1, 0, 4 * FOCAL]], dtype=np.float64
        )
        rows.append([*matrix.flatten(), 600.0 + view, 800.0 + view])
    np.save(root / "poses_bounds.npy", np.array(rows))
    return root


def write_blender(root: Path, *, views: int = 4, held_out: str | None = "val") -> Path:
    """NeRF-synthetic layout, RGBA with a transparent corner."""
    for split, count in {"train": views, **({held_out: 2} if held_out else {})}.items():
        frames = []
        for view in range(count):
            rgba = np.dstack([picture(view), np.full((HEIGHT, WIDTH), 255, np.uint8)])
            rgba[0, 0] = 0
            write_image(root / split / f"r_{view}.png", rgba)
            c2w = np.linalg.inv(w2c(view)) @ np.diag([1.0, -1, -1, 1])
            frames.append({"file_path": f"./{split}/r_{view}", "transform_matrix": c2w.tolist()})
        content = {"camera_angle_x": 2 * math.atan(0.5 * WIDTH / FOCAL), "frames": frames}
        (root / f"transforms_{split}.json").write_text(json.dumps(content))
    return root


def write_colmap(root: Path, *, views: int = 9) -> Path:
    """One scene with a COLMAP text model: pixel centers at 0.5, a grid of points on the wall."""
    model = root / "sparse" / "0"
    model.mkdir(parents=True)
    grid = [(x, y) for x in range(4, WIDTH + 2 * views, 8) for y in range(4, HEIGHT, 8)]
    tracks: dict[int, list[str]] = {point: [] for point in range(1, len(grid) + 1)}
    images = []
    for view in range(views):
        write_image(root / "images" / f"{view:03d}.png", picture(view))
        seen = [(point, x - 2 * view, y) for point, (x, y) in enumerate(grid, 1) if 0 <= x - 2 * view < WIDTH]
        for index, (point, *_) in enumerate(seen):
            tracks[point].append(f"{view + 1} {index}")
        images.append(f"{view + 1} 1 0 0 0 {-STEP * view} 0 0 1 {view:03d}.png")
        images.append(" ".join(f"{x} {y} {point}" for point, x, y in seen))
    points = [
        f"{point} {(x - WIDTH / 2) * DEPTH / FOCAL} {(y - HEIGHT / 2) * DEPTH / FOCAL} {DEPTH} 128 128 128 0.1 "
        + " ".join(tracks[point])
        for point, (x, y) in enumerate(grid, 1)
        if len(tracks[point]) > 1
    ]
    (model / "cameras.txt").write_text(f"1 PINHOLE {WIDTH} {HEIGHT} {FOCAL} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    (model / "images.txt").write_text("\n".join(images) + "\n")
    (model / "points3D.txt").write_text("\n".join(points) + "\n")
    return root
