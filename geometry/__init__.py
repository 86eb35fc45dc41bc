"""Conventions of the whole code base. Every file relies on them; only `conversions.py` converts from others.

- **Frames**: `w2c` maps world points to camera points, `c2w` is its inverse; a name always says which. Camera axes
  are OpenCV's: +x right, +y down, +z forward. The world frame is the data set's own. Names carry the frame:
  `points_world`, `points_cam`.
- **Pixels**: (x, y) with x to the right and y down. The center of the top-left pixel is (0.5, 0.5), the image spans
  [0, width] x [0, height]. The same holds for feature maps, so image and map never disagree by half a pixel.
  Readers of formats with integer centers (DTU, MVSNet, BlendedMVS) add 0.5 to the principal point; kornia counts
  integer centers too, so subtract 0.5 at its boundary.
- **Depth**: `depth` is camera z. `t` is the distance along a ray with unit direction: depth = t * cos_optical. 0 in
  a depth map means unknown.
- **Units**: Scene units are the data set's (millimeters for DTU). Nothing depends on the choice: multiplying
  cameras, near, far and depth by s leaves every color unchanged and multiplies rendered depth by s.
- **Images**: RGB, float, [0, 1], channels before height and width. Normalization happens inside networks only.
- **Opacity**: A sample stands for an interval of length delta: opacity = 1 - exp(-density * delta), density in 1 /
  scene unit. No sentinel interval at the end of a ray.
- **Axes**: Always in the order batch view ray sample channel height width.
"""

import geometry.waiting  # noqa: F401  before torch

# isort: split
from geometry.cameras import (
    Cameras,
    Projection,
    check_camera,
    look_at_point,
    pixel_centers,
    possible_cameras,
    rigid_inverse,
)
from geometry.errors import InputError, Terminated, one_line_errors, require, sigterm_like_ctrl_c
from geometry.feature_sampling import sample_at_pixels
from geometry.precision import full_precision
from geometry.rays import RayBundle, RaySamples
from geometry.tensor_struct import TensorStruct
from geometry.views import FrameBatch, SceneBatch, Traits, Views

__all__ = [
    "Cameras",
    "FrameBatch",
    "InputError",
    "Projection",
    "RayBundle",
    "RaySamples",
    "SceneBatch",
    "TensorStruct",
    "Terminated",
    "Traits",
    "Views",
    "check_camera",
    "full_precision",
    "look_at_point",
    "one_line_errors",
    "pixel_centers",
    "possible_cameras",
    "require",
    "rigid_inverse",
    "sample_at_pixels",
    "sigterm_like_ctrl_c",
]
