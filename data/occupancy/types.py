"""What the loaders of occupancy yield and a training step gets."""

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from geometry.body_poses import relative_to
from geometry.tensor_struct import TensorStruct
from geometry.voxels import EgoGrid

GROUND, AERIAL = 0, 1
"""Agents: a rover or car, a drone."""


@dataclass(frozen=True)
class OccupancyBatch(TensorStruct):
    """Windows of H past and F future grids, each in the frame of its own vehicle pose, with these poses.

    The loader's item has no batch axis; `stack` is the collate function. All windows of a data set share an `EgoGrid`.
    """

    HOST_FIELDS = frozenset({"seeds", "frames"})

    history: UInt8[Tensor, "*batch history x y z"]
    """0 empty, 1 occupied; of a semantic data set the class. The last one is now."""
    future: UInt8[Tensor, "*batch future x y z"]
    history_poses: Float[Tensor, "*batch history 13"]
    """World poses, float64 (a city's coordinates do not fit into float32 at a voxel's thousandth)."""
    future_poses: Float[Tensor, "*batch future 13"]
    """Where the future grids stand: the true poses."""
    agent: Int[Tensor, "*batch"]
    """`GROUND` or `AERIAL`."""
    ground_height: Float[Tensor, "*batch"]
    """World z below which a voxel center counts as ground in metrics, meters; nan: not known. Meaningless for data
    whose classes name the ground."""
    frames: Int[Tensor, "*batch frame"]
    """Numbers of the H + F frames in their session."""
    seeds: Int[Tensor, "*batch"]
    """All random choices made for a window in a step derive from this number."""
    sessions: tuple[str, ...]
    """Name of the session or world of each window."""
    commands: Float[Tensor, "*batch future 13"] | None = None
    """Planned poses relative to the last history pose (`relative_to`), where a plan is known before it is driven."""
    visible: Bool[Tensor, "*batch future x y z"] | None = None
    """Voxels of the future grids that count, where labels cover less than the grid (seen by a camera, for example)."""
    moving: Bool[Tensor, "*batch future x y z"] | None = None
    """Voxels of the future grids that belong to moving bodies, where known."""
    steps: Float[Tensor, "*batch frame 2"] | None = None
    """OccWorld: motion in the plane that led into each of the H + F frames (x right, y forward, meters)."""
    maneuvers: Int[Tensor, "*batch frame"] | None = None
    """OccWorld: 0 right, 1 left, 2 straight, of each of the H + F frames."""

    @property
    def relative_history(self) -> Float[Tensor, "*batch history 13"]:
        """History poses as the last of them sees them: what a network is given. The last is the identity."""
        return relative_to(self.history_poses[..., -1:, :], self.history_poses)

    @property
    def relative_future(self) -> Float[Tensor, "*batch future 13"]:
        """True future poses as the last history pose sees them: what a pose head predicts."""
        return relative_to(self.history_poses[..., -1:, :], self.future_poses)


class WindowSource(Dataset[OccupancyBatch]):
    """Base of the data sets; items are windows without batch axis."""

    num_classes: int = 2
    """2: empty and occupied."""
    empty_class: int = 0
    """Label of free space."""
    ground_classes: tuple[int, ...] = ()
    """Labels of the ground; (): the ground is what lies below `ground_height`."""
    space: EgoGrid
    """Grid and frame of all items."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, item: int) -> OccupancyBatch:
        raise NotImplementedError
