"""What a forecast of occupancy is made from, and what it is."""

from dataclasses import dataclass

from jaxtyping import Float, Int, Integer
from torch import Tensor

from geometry.body_poses import placed_at, relative_to
from geometry.tensor_struct import TensorStruct
from models.occupancy.objective.poses import PosePrediction


@dataclass(frozen=True)
class ForecastInputs(TensorStruct):
    """Observed grids, where they were seen from, and where the vehicle is going to be, if that is known."""

    history: Integer[Tensor, "batch history x y z"]
    """0 / 1, or class numbers; the last one is now."""
    history_poses: Float[Tensor, "batch history 13"]
    """World poses of the grids, float64."""
    agent: Int[Tensor, " batch"]
    """0 on the ground, 1 in the air."""
    plan: Float[Tensor, "batch future 13"] | None = None
    """Poses that are going to be, relative to the last observed one; None: the model has to predict them."""

    @property
    def relative_history(self) -> Float[Tensor, "batch history 13"]:
        """As the last observed pose sees them."""
        return relative_to(self.history_poses[:, -1:], self.history_poses)

    def in_world(self, relative: Float[Tensor, "batch step 13"]) -> Float[Tensor, "batch step 13"]:
        """World poses, float64, of poses that the last observed one sees."""
        return placed_at(self.history_poses[:, -1:], relative.to(self.history_poses.dtype))


@dataclass(frozen=True)
class Forecast:
    """Occupancy of future frames."""

    logits: Float[Tensor, "batch step x y z"] | Float[Tensor, "batch step x y z cls"]
    """Binary, or of classes; in the grid frames of `frames`, where a model places them anywhere at all."""
    frames: Float[Tensor, "batch step 13"]
    """World poses, float64, the grids are seen from: planned ones, or predicted ones without a plan."""
    poses: PosePrediction
    """What the model says of the motion itself, plan or not; of all future frames."""
