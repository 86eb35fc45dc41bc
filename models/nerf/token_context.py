"""VGGT's patch tokens -> what a patch means in the context of all views, as channels of a feature map.

Each token holds a half that its own view alone has formed and one that has attended to all views
(Wang et al. 2025, VGGT, sec. 3.2): the context across views that convolutions over one image do not have.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def projected_tokens(
    tokens: Float[Tensor, "image layer channel token_rows token_cols"],
    norms: Iterable[nn.Module],
    projections: Iterable[nn.Module],
) -> Float[Tensor, "image projected token_rows token_cols"]:
    """Sum over the layers, each normalized and projected by its own weights."""
    layers = tokens.permute(1, 0, 3, 4, 2)
    projected = [project(norm(layer)) for layer, norm, project in zip(layers, norms, projections, strict=True)]
    return torch.stack(projected).sum(0).permute(0, 3, 1, 2)


def trusted(
    context: Float[Tensor, "image channel token_rows token_cols"],
    size: tuple[int, int] | torch.Size,
    trust: Float[Tensor, " image"] | None,
) -> Float[Tensor, "image channel rows cols"]:
    """`context` at another size, times `trust` in [0, 1] (see `DepthPrior`); None = 1."""
    context = F.interpolate(context, size=size, mode="bilinear", align_corners=False)
    return context if trust is None else context * trust[:, None, None, None].to(context.dtype)


class TokenContext(nn.Module):
    """Several VGGT layers -> an addend to a feature map; all zero where VGGT is not trusted."""

    def __init__(self, token_layers: int, token_channels: int, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(token_channels) for _ in range(token_layers))
        self.projections = nn.ModuleList(nn.Linear(token_channels, channels) for _ in range(token_layers))
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self,
        tokens: Float[Tensor, "image layer channel token_rows token_cols"],
        size: tuple[int, int] | torch.Size,
        trust: Float[Tensor, " image"] | None = None,
    ) -> Float[Tensor, "image projected rows cols"]:
        """What to add to maps of `size`; tokens tile the image."""
        return trusted(self.out(F.relu(projected_tokens(tokens, self.norms, self.projections))), size, trust)

    def say_nothing(self) -> None:
        """Start from an addend of zero, for the sake of weights that have learned without tokens."""
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
