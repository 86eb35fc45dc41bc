"""Voxel grids around a vehicle: metre <-> index, where a grid stands in the world, and one grid seen from another.

A grid is an array [x][y][z] (x forward, y left, z up). Voxel i covers [min + i * voxel, min + (i + 1) * voxel) along an
axis; its center is min + (i + 1/2) * voxel. "Grid frame" is the frame of these meters.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from geometry.body_poses import ORIENTATION, POSITION, rigid, rotation_about_z, rotation_of, unit_quaternion, yaw_of
from geometry.cameras import rigid_inverse
from geometry.errors import require

Triple = tuple[float | int, float | int, float | int]
ORIENTATIONS = ("yaw", "full")
Z_REFERENCES = ("vehicle", "world")
_MAX_VOXELS = 2**31 - 1
"""Of a grid: a byte each is 2 GiB."""
SIZE_TOLERANCE = 1e-6
"""Of a voxel: (40 - -40) / 0.4 rounds to below 200 in floating point and still means 200."""


@dataclass(frozen=True)
class VoxelGrid:
    """Range and resolution of a grid in its own frame, meters."""

    minimum: Triple
    maximum: Triple
    """As asked for. What does not fill a voxel is cut off: see `covered`."""
    voxel: Triple
    """Size of a voxel along x, y, z."""

    def __post_init__(self) -> None:
        """Refuse empty ranges."""
        for name in ("minimum", "maximum", "voxel"):
            values = tuple(float(value) for value in getattr(self, name))
            require(
                len(values) == 3 and all(math.isfinite(value) for value in values),
                f"grid: expected three finite numbers for {name}, got {getattr(self, name)}",
            )
            object.__setattr__(self, name, values)
        asked = f"{self.voxel} in {self.minimum} to {self.maximum}"
        require(all(size > 0 for size in self.voxel), f"grid: expected voxels > 0, got {asked}")
        counts = [(high - low) / step for low, high, step in zip(self.minimum, self.maximum, self.voxel, strict=True)]
        require(max(counts) < _MAX_VOXELS, f"grid: expected at most {_MAX_VOXELS} voxels, got {asked}")
        require(all(count > 0 for count in self.size), f"grid: expected voxels that fit at least once, got {asked}")
        require(math.prod(self.size) <= _MAX_VOXELS, f"grid: expected at most {_MAX_VOXELS} voxels, got {asked}")

    @property
    def size(self) -> tuple[int, int, int]:
        """Voxels along x, y, z: whole ones only."""
        x, y, z = (
            math.floor((high - low) / step + SIZE_TOLERANCE)
            for low, high, step in zip(self.minimum, self.maximum, self.voxel, strict=True)
        )
        return x, y, z

    @property
    def covered(self) -> Triple:
        """Upper bound of the voxels: at most `maximum` (152 m in steps of 1.25 m end after 121 steps, at 151.25 m)."""
        x, y, z = (low + count * step for low, count, step in zip(self.minimum, self.size, self.voxel, strict=True))
        return x, y, z

    def description(self) -> str:
        """Size and what it covers, for logs."""
        x, y, z = self.size
        spans = ", ".join(f"{low:g} to {high:g}" for low, high in zip(self.minimum, self.covered, strict=True))
        lost = [high - end for high, end in zip(self.maximum, self.covered, strict=True)]
        cut = f" ({', '.join(f'{one:g}' for one in lost)} m of the range cut off)" if max(lost) > 1e-3 else ""
        return f"{x}x{y}x{z} voxels covering {spans} m{cut}"

    def coordinates(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Continuous index of points in meters: the center of voxel i is i + 1/2."""
        return (points - points.new_tensor(self.minimum)) / points.new_tensor(self.voxel)

    def metres(self, coordinates: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points in the grid frame of continuous indices: the inverse of `coordinates`."""
        return coordinates * coordinates.new_tensor(self.voxel) + coordinates.new_tensor(self.minimum)

    def indices(self, points: Float[Tensor, "*batch 3"]) -> tuple[Int[Tensor, "*batch 3"], Bool[Tensor, "*batch"]]:
        """Voxel of each point, and whether it has one: a point on the upper bound is outside."""
        index = self.coordinates(points).floor()
        size = index.new_tensor(self.size)
        inside = ((index >= 0) & (index < size)).all(-1)
        return index.clamp(-1, max(self.size)).long(), inside

    def centers(
        self, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "x y z 3"]:
        """Centers of all voxels in the grid frame."""
        axes = [torch.arange(count, device=device, dtype=dtype) + 0.5 for count in self.size]
        return self.metres(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))


@dataclass(frozen=True)
class GridFrame:
    """How a grid stands in the world, given the pose of its vehicle: p_grid = R_g^T (p_world - t_g)."""

    orientation: str = "yaw"
    """`yaw`: level, turned by the heading of the vehicle; `full`: the vehicle's body frame."""
    z_reference: str = "vehicle"
    """`vehicle`: t_g is its position; `world`: t_g.z = 0, heights above the datum of the world."""

    def __post_init__(self) -> None:
        """Refuse unknown switches."""
        require(
            self.orientation in ORIENTATIONS,
            f"grid frame: expected orientation {' or '.join(ORIENTATIONS)}, got {self.orientation!r}",
        )
        require(
            self.z_reference in Z_REFERENCES,
            f"grid frame: expected z_reference {' or '.join(Z_REFERENCES)}, got {self.z_reference!r}",
        )

    def grid2world(self, poses: Float[Tensor, "*batch 13"]) -> Float[Tensor, "*batch 4 4"]:
        """Maps points of the grid frame to the world."""
        rotation = rotation_of(unit_quaternion(poses[..., ORIENTATION]))
        origin = poses[..., POSITION]
        if self.orientation == "yaw":
            rotation = rotation_about_z(yaw_of(rotation))
        if self.z_reference == "world":
            origin = origin * origin.new_tensor([1.0, 1.0, 0.0])
        return rigid(rotation, origin)

    def motion(
        self, source: Float[Tensor, "*#batch 13"], target: Float[Tensor, "*#batch 13"]
    ) -> Float[Tensor, "*pair 4 4"]:
        """Maps points of the target vehicle's grid frame to the source's; poses broadcast.

        World coordinates can be large: call it in float64 and round the result.
        """
        return rigid_inverse(self.grid2world(source)) @ self.grid2world(target)


@dataclass(frozen=True)
class EgoGrid:
    """A grid and how it stands: what all grids of a data set share, stored beside them."""

    grid: VoxelGrid
    frame: GridFrame

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "minimum": list(self.grid.minimum),
            "maximum": list(self.grid.maximum),
            "voxel": list(self.grid.voxel),
            "size": list(self.grid.size),
            **asdict(self.frame),
        }

    @classmethod
    def from_record(cls, record: Any) -> "EgoGrid":
        """Inverse of `record`.

        Raises:
            InputError: for missing or unknown entries, and a stated size that does not follow from the rest.
        """
        expected = {"minimum", "maximum", "voxel", "orientation", "z_reference"}
        require(
            isinstance(record, dict) and expected <= set(record) <= expected | {"size"},
            f"grid: expected the entries {', '.join(sorted(expected))}, got {record}",
        )
        require(
            all(_is_triple(record[name]) for name in ("minimum", "maximum", "voxel")),
            f"grid: expected lists of three numbers, got {record}",
        )
        grid = VoxelGrid(tuple(record["minimum"]), tuple(record["maximum"]), tuple(record["voxel"]))
        size = record.get("size", list(grid.size))
        require(list(grid.size) == size, f"grid: expected size {list(grid.size)} of its range, got {size}")
        switches = record["orientation"], record["z_reference"]
        require(all(isinstance(one, str) for one in switches), f"grid frame: expected two names, got {switches}")
        return cls(grid, GridFrame(*switches))

    def heights(self, poses: Float[Tensor, "*batch 13"]) -> Float[Tensor, "*batch x y z"]:
        """World z of every voxel center."""
        centers = self.grid.centers(device=poses.device, dtype=poses.dtype)
        upright = self.frame.grid2world(poses)[..., 2, :]  # *batch 4
        return torch.einsum("xyzc,...c->...xyz", centers, upright[..., :3]) + upright[..., 3, None, None, None]


def _is_triple(values: Any) -> bool:
    is_list = isinstance(values, list | tuple) and len(values) == 3
    return is_list and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


def source_coordinates(grid: VoxelGrid, motion: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch x y z 3"]:
    """Where the centers of a target grid lie in the source grid, as continuous indices.

    `motion` maps the target's grid frame to the source's (`GridFrame.motion`). It is affine in the index, so that three
    columns of numbers do for all voxels.
    """
    x, y, z = grid.size
    voxel, minimum = motion.new_tensor(grid.voxel), motion.new_tensor(grid.minimum)
    linear = motion[..., :3, :3] * voxel / voxel[:, None]  # source voxels per target voxel
    offset = (motion[..., :3, :3] @ minimum + motion[..., :3, 3] - minimum) / voxel
    parts = [
        (torch.arange(count, device=motion.device, dtype=motion.dtype) + 0.5)[:, None] * linear[..., None, :, axis]
        for axis, count in enumerate((x, y, z))
    ]  # each *batch count 3
    along_x = (parts[0] + offset[..., None, :])[..., :, None, None, :]
    return along_x + parts[1][..., None, :, None, :] + parts[2][..., None, None, :, :]


def warp_nearest(
    grid: VoxelGrid, volumes: Shaped[Tensor, "*batch x y z"], motion: Float[Tensor, "*batch 4 4"]
) -> tuple[Shaped[Tensor, "*batch x y z"], Bool[Tensor, "*batch x y z"]]:
    """Source grids seen from the target's: the value of the voxel in which each target center lies, and where known.

    Outside the source grid the value is 0 and the mask False. Any dtype; for targets, classes and metrics.
    """
    index = source_coordinates(grid, motion).floor()
    size = index.new_tensor(grid.size)
    known = ((index >= 0) & (index < size)).all(-1)
    x, y, z = index.clamp(torch.zeros_like(size), size - 1).long().unbind(-1)
    flat = (x * grid.size[1] + y) * grid.size[2] + z
    values = volumes.flatten(-3).gather(-1, flat.flatten(-3)).view_as(flat)
    return values * known.to(values.dtype), known


def warp_trilinear(
    grid: VoxelGrid, volumes: Float[Tensor, "batch channel x y z"], motion: Float[Tensor, "batch 4 4"]
) -> tuple[Float[Tensor, "batch channel x y z"], Float[Tensor, "batch 1 x y z"]]:
    """Source grids seen from the target's, between voxels, and the share of each value that the source grid knows.

    What lies outside the source grid counts as 0; the share is the sum of the weights inside it, in [0, 1]. Gradients
    reach volumes and motion. Computed in float32 at least (a bfloat16 index is off by whole voxels); the result has the
    dtype of `volumes`.
    """
    dtype = torch.promote_types(volumes.dtype, torch.float32)
    size = motion.new_tensor(grid.size)
    position = source_coordinates(grid, motion) * (2 / size) - 1
    position = position.flip(-1).to(dtype)  # grid_sample counts the last axis first
    ones = torch.ones_like(volumes[:, :1], dtype=dtype)
    known = functional.grid_sample(ones, position, align_corners=False)
    warped = functional.grid_sample(volumes.to(dtype), position, align_corners=False)
    return warped.to(volumes.dtype), known.to(volumes.dtype)
