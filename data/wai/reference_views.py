"""A frame as the reference's data sets give it to a network: image rules and the quantities derived of a view.

Keetha et al. 2025 (MapAnything). Training here cuts windows instead, which resample once and keep cameras exact
(data/multi_view/windows.py); this is for comparing with the reference, and for weights that were trained on its images.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from data.wai.formats import load
from data.wai.scene import WaiScene
from data.wai.scene_meta import find_modality, modalities

_SCALE_SLACK = 1e-8
"""Added to the scale, so that rounding down gives the target's size."""


@dataclass(frozen=True)
class ImageRule:
    """How an image is brought to a size."""

    width: int
    """Pixels."""
    height: int
    is_centered: bool = False
    """First the largest part around the principal point is cut out, if it is larger than the result."""
    extra_pixels: int = 0
    """Both sides are resized to so many pixels more, and cut to the result."""


class ResizedFrame(NamedTuple):
    """An image with what belongs to its pixels."""

    image: UInt8[np.ndarray, "height width 3"]
    depth: Float[np.ndarray, "height width"]
    mask: Bool[np.ndarray, "height width"]
    intrinsics: Float[np.ndarray, "3 3"]
    """Integer pixel centers."""


def apply_rule(frame: ResizedFrame, rule: ImageRule) -> ResizedFrame:
    """Cut around the principal point, resize, cut to the size from the middle.

    The scale of the intrinsics is the one asked for, not floor(W s) / W of the image: as the reference, an error below
    half a pixel.
    """
    target = np.array([rule.width, rule.height])
    if rule.is_centered:
        frame = _centered(frame, target)
    size = np.array([frame.image.shape[1], frame.image.shape[0]])
    scale = float(((target + rule.extra_pixels) / size).max()) + _SCALE_SLACK
    new = np.floor(size * scale).astype(int)
    matrix = frame.intrinsics.astype(np.float64)
    matrix[:2, 2] = (matrix[:2, 2] + 0.5) * scale - 0.5 * (size * scale - new) - 0.5
    matrix[[0, 1], [0, 1]] *= scale
    filtered = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    image = np.asarray(Image.fromarray(frame.image).resize(tuple(new.tolist()), filtered))
    depth, mask = (
        cv2.resize(one, tuple(new.tolist()), interpolation=cv2.INTER_NEAREST)
        for one in (frame.depth, frame.mask.astype(np.uint8))
    )
    left, top = np.rint(0.5 * (new - target)).astype(int).tolist()
    matrix[:2, 2] -= (left, top)
    part = slice(top, top + rule.height), slice(left, left + rule.width)
    return ResizedFrame(image[part], depth[part], mask[part].astype(bool), matrix)


def reference_view(scene: WaiScene, index: int, rule: ImageRule) -> dict[str, Any]:
    """A frame by the reference's names, float32: image in [0, 1], pose, depth, rays and points.

    Depth is 0 where it is not finite, and where the mask `pred_mask` says that it is ambiguous. Where it is not
    positive, `depth_along_ray` is 0 (the reference gives the length of the vector, which is positive).
    """
    meta = scene.meta.frames[index]
    loaded = scene.load_frame(index, ["image", "depth"])
    camera = loaded.camera
    image = np.rint(255 * loaded.modalities["image"][:3].transpose(1, 2, 0)).astype(np.uint8)
    depth = np.nan_to_num(loaded.modalities["depth"], nan=0.0, posinf=0.0, neginf=0.0)
    mask = np.ones(depth.shape, bool)
    if any(name.partition("/")[0] == "pred_mask" for name, _ in modalities(scene.meta.frame_modalities)):
        _, modality = find_modality(scene.meta.frame_modalities, "pred_mask", scene.meta.where)
        path = scene.path_of(meta, modality)
        mask = mask if path is None else load(path, modality.kind)
    mask = cv2.resize(mask.astype(np.uint8), (camera.width, camera.height), interpolation=cv2.INTER_NEAREST) > 0
    depth = np.where(mask, depth, 0).astype(np.float32)
    done = apply_rule(ResizedFrame(image, depth, mask, camera.intrinsics.astype(np.float32)), rule)
    return {
        "img": done.image.transpose(2, 0, 1).astype(np.float32) / 255,
        "instance": f"images/{meta.name}",
        "true_shape": np.array(done.depth.shape, np.int32),
        "non_ambiguous_mask": done.mask,
        **_geometry(done.depth, done.intrinsics.astype(np.float32), loaded.c2w.astype(np.float32)),
    }


def _centered(frame: ResizedFrame, target: np.ndarray) -> ResizedFrame:
    height, width = frame.depth.shape
    x, y = np.rint(frame.intrinsics[:2, 2]).astype(int).tolist()
    if not (0 < x < width and 0 < y < height):
        return frame
    half_x, half_y = min(x, width - x), min(y, height - y)
    if not (2 * half_x > target[0] and 2 * half_y > target[1]):
        return frame
    part = slice(y - half_y, y + half_y), slice(x - half_x, x + half_x)
    matrix = frame.intrinsics.copy()
    matrix[:2, 2] -= (x - half_x, y - half_y)
    return ResizedFrame(frame.image[part], frame.depth[part], frame.mask[part], matrix)


def _geometry(depth: np.ndarray, matrix: np.ndarray, c2w: np.ndarray) -> dict[str, np.ndarray]:
    height, width = depth.shape
    x = (np.arange(width, dtype=np.float32) - matrix[0, 2]) / matrix[0, 0]
    y = (np.arange(height, dtype=np.float32)[:, None] - matrix[1, 2]) / matrix[1, 1]
    rays = np.stack(np.broadcast_arrays(x, y, np.float32(1)), axis=-1)
    lengths = np.linalg.norm(rays, axis=-1, keepdims=True)
    known, along = depth > 0, (np.maximum(depth, 0)[..., None] * lengths)
    points_cam = depth[..., None] * rays
    return {
        "depthmap": depth[..., None],
        "camera_pose": c2w,
        "camera_intrinsics": matrix,
        "camera_pose_quats": Rotation.from_matrix(c2w[:3, :3]).as_quat().astype(np.float32),
        "camera_pose_trans": c2w[:3, 3],
        "valid_mask": known,
        "depth_along_ray": along,
        "ray_directions_cam": rays / lengths,
        "pts3d_cam": points_cam,
        "pts3d": points_cam @ c2w[:3, :3].T + c2w[:3, 3],
    }
