"""MVSNet's camera text file (DTU, BlendedMVS), and the check that intrinsics belong to an image's size."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from geometry import InputError
from geometry.plain_files import plain_file

_NUM_DEPTHS = 192
"""Planes that MVSNet sweeps on DTU; its camera files give nearest depth and interval only."""
_CENTER_TOLERANCE = 0.2
"""Share of the image's side; with intrinsics for twice or half the size it is off by 0.5 or 0.25."""


@dataclass(frozen=True)
class MvsCamera:
    """What the file says, double precision."""

    w2c: Float[Tensor, "4 4"]
    """World to camera, the file's unit."""
    intrinsics: Float[Tensor, "3 3"]
    """Pixel centers at integers; for whatever image size the file was written."""
    depth_line: tuple[float, ...]
    """Two to four numbers whose meaning depends on the data set."""

    @property
    def depth_range(self) -> tuple[float, float]:
        """(near, far) from `min interval`, `min interval count`, `min interval count max`, or `min max`.

        Two numbers are min and max when the second is the larger (Tanks and Temples, Altizure exports), else an
        interval between 192 planes (DTU).
        """
        first, second, *rest = self.depth_line
        if len(rest) == 2:
            return first, rest[1]
        if rest:
            return first, first + second * rest[0]
        return first, second if second > first else first + second * _NUM_DEPTHS


def read_mvs_camera(path: Path) -> MvsCamera:
    """Parse `extrinsic` + 16 numbers, `intrinsic` + 9 numbers, and the depth line.

    Raises:
        InputError: for a missing file, another layout, or a depth line that gives no range 0 < near < far.
    """
    try:
        words = plain_file(path).read_text().split()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: expected a camera file, got none") from None
    layout_fits = 29 <= len(words) <= 31 and words[0] == "extrinsic" and words[17] == "intrinsic"
    if not layout_fits:
        raise InputError(
            f"{path}: expected `extrinsic` and 16 numbers, `intrinsic` and 9, then 2 to 4, got {len(words)} words"
        )
    try:
        numbers = [float(word) for word in words[1:17] + words[18:]]
    except ValueError as error:
        raise InputError(f"{path}: expected numbers, got {error}") from None
    matrices = torch.tensor(numbers[:25], dtype=torch.float64)
    camera = MvsCamera(matrices[:16].reshape(4, 4), matrices[16:].reshape(3, 3), tuple(numbers[25:]))
    near, far = camera.depth_range
    if not 0 < near < far < float("inf"):
        raise InputError(f"{path}: expected 0 < near < far, got near {near:g} and far {far:g} from the last line")
    return camera


def check_principal_point(intrinsics: Float[Tensor, "3 3"], height: int, width: int, where: str) -> None:
    """Refuse intrinsics for an image of another size: those put the principal point far from the image's center.

    Raises:
        InputError: naming `where`, when it is off by 20 percent of the size or more (a factor of 2 is then caught).
    """
    x, y = intrinsics[:2, 2].tolist()
    off_center = max(abs(x / width - 0.5), abs(y / height - 0.5))
    if not off_center < _CENTER_TOLERANCE:
        raise InputError(
            f"{where}: expected a principal point near the center of the {width}x{height} image, "
            f"got ({x:.1f}, {y:.1f}): intrinsics are for another image size?"
        )
