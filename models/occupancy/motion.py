"""Future poses from past ones: constant motion, corrected by what a network has learned, with standard deviations."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geometry.body_poses import ORIENTATION, POSITION, VELOCITY, continued, product, unit_quaternion
from models.layers import mlp
from models.occupancy.inputs import ForecastInputs
from models.occupancy.objective.poses import PosePrediction, sigmas

_CORRECTIONS, _DEVIATIONS = 12, 6
"""Numbers per step: position, half a rotation vector, velocities; standard deviations of position and rotation."""
_VELOCITY_UNIT = 10.0
"""m/s and rad/s per unit of input, so that inputs are about 1; chosen by hand."""


class MotionHead(nn.Module):
    """The last step repeats in the body frame, plus corrections that begin at zero."""

    def __init__(self, history: int, future: int, width: int) -> None:
        super().__init__()
        self.future = future
        self.agents = nn.Embedding(2, width)
        self.encode = nn.Linear(13 * history, width)
        self.decode = mlp(width, width, future * (_CORRECTIONS + _DEVIATIONS))
        for parameter in self.decode[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: ForecastInputs) -> PosePrediction:
        """Of all future frames."""
        past = inputs.relative_history
        constant = continued(past, self.future).to(self.encode.weight.dtype)
        features = torch.cat([past[..., : VELOCITY.start], past[..., VELOCITY.start :] / _VELOCITY_UNIT], dim=-1)
        hidden = self.encode(features.flatten(1).to(self.encode.weight.dtype)) + self.agents(inputs.agent)
        found = self.decode(torch.relu(hidden)).float().unflatten(-1, (self.future, -1))
        corrections, deviations = found.split([_CORRECTIONS, _DEVIATIONS], dim=-1)
        return PosePrediction(corrected(constant, corrections), sigmas(deviations))


def corrected(
    poses: Float[Tensor, "batch step 13"], corrections: Float[Tensor, "batch step 12"]
) -> Float[Tensor, "batch step 13"]:
    """Positions and velocities get increments, orientations a further turn in the body frame."""
    ones = torch.ones_like(corrections[..., :1])
    turn = unit_quaternion(torch.cat([ones, corrections[..., 3:6]], dim=-1))
    return torch.cat(
        [
            poses[..., POSITION] + corrections[..., :3],
            product(poses[..., ORIENTATION], turn),
            poses[..., VELOCITY.start :] + corrections[..., 6:],
        ],
        dim=-1,
    )
