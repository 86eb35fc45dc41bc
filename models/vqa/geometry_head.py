"""What is known about cameras and depth of views -> tokens for the language model."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from geometry.errors import require
from models.vqa.config import GeometryConfig

PLAIN_FEATURES = 37
"""Rotation 9, translation 3, intrinsics 9, histogram 16."""
RELATIVE_FEATURES = 32
"""Rotation 6, translation 3, its scale 1, intrinsics 4, histogram 16, its ends 2."""


def plain_features(
    rotations: Float[Tensor, "*batch view 3 3"],
    translations: Float[Tensor, "*batch view 3"],
    intrinsics: Float[Tensor, "*batch view 3 3"],
    histogram: Float[Tensor, "*batch view 16"],
) -> Float[Tensor, "*batch view 37"]:
    """The numbers as they are, matrices row by row."""
    return torch.cat([rotations.flatten(-2), translations, intrinsics.flatten(-2), histogram], dim=-1)


def relative_to_first(
    rotations: Float[Tensor, "*batch view 3 3"], translations: Float[Tensor, "*batch view 3"]
) -> tuple[Float[Tensor, "*batch view 3 3"], Float[Tensor, "*batch view 3"]]:
    """P P_0^-1 of poses P = (R, t): from the camera of view 0 to that of each view where P maps world to camera."""
    relative = rotations @ rotations[..., :1, :, :].mT
    moved = torch.einsum("...vij,...j->...vi", relative, translations[..., 0, :])
    return relative, translations - moved


def relative_features(
    rotations: Float[Tensor, "*batch view 3 3"],
    translations: Float[Tensor, "*batch view 3"],
    intrinsics: Float[Tensor, "*batch view 3 3"],
    image_size: Float[Tensor, "*batch view 2"],
    histogram: Float[Tensor, "*batch view 16"],
    depth_range: Float[Tensor, "*batch view 2"],
) -> Float[Tensor, "*batch view 32"]:
    """Numbers that do not depend on the world's frame, of camera-to-world poses in meters.

    Two columns of the rotation from view 0 to each view (Zhou et al. 2019), its translation divided by the largest
    distance from view 0 and ln(1 + that distance), focal lengths and principal point in image sizes, the histogram of
    depth with ln(1 + its ends).
    """
    to_camera = rotations.mT
    shifts = -torch.einsum("...vij,...vj->...vi", to_camera, translations)
    relative, moved = relative_to_first(to_camera, shifts)
    scale = moved.norm(dim=-1).amax(-1, keepdim=True)[..., None].expand(*moved.shape[:-1], 1)
    lens = torch.stack([intrinsics[..., 0, 0], intrinsics[..., 1, 1]], dim=-1) / image_size
    center = intrinsics[..., :2, 2] / image_size
    parts = [relative[..., :2].flatten(-2), moved / scale.clamp(min=1e-6), scale.log1p()]
    return torch.cat([*parts, lens, center, histogram, depth_range.log1p()], dim=-1)


class GeometryHead(nn.Module):
    """Two linear layers on the numbers of each view; learned vectors stand for what is not known."""

    output_rms: Tensor
    """Size of the tokens: that of word embeddings."""

    def __init__(self, config: GeometryConfig, out_dim: int) -> None:
        super().__init__()
        self.config = config
        features = PLAIN_FEATURES if config.style == "plain" else RELATIVE_FEATURES
        self.mlp = nn.Sequential(nn.Linear(features, out_dim), nn.SiLU(), nn.Linear(out_dim, out_dim))
        self.none = nn.Parameter(torch.randn(config.num_tokens, out_dim))
        self.register_buffer("output_rms", torch.ones(()))

    def forward(
        self,
        features: Float[Tensor, "batch view feature"],
        view_mask: Bool[Tensor, "batch view"],
        known: Bool[Tensor, " batch"],
    ) -> Float[Tensor, "batch token out"]:
        """`known` says of which samples there are features; hidden views count as not known.

        Raises:
            InputError: for more views than tokens.
        """
        count, views = self.config.num_tokens, features.shape[1]
        none = self.none * self.output_rms
        is_given = view_mask & known[:, None]
        # zeros first: what stands for unknown geometry may not be finite, and 0 * nan would reach the gradients
        features = torch.where(is_given[..., None], features, torch.zeros_like(features))
        if self.config.style == "plain":
            weights = is_given.to(features) / is_given.sum(1, keepdim=True).clamp(min=1)
            token = self.mlp((features * weights[..., None]).sum(1)) * self.output_rms
            return torch.where(is_given.any(1)[:, None, None], token[:, None], none)
        require(views <= count, f"views: expected at most {count} with geometry tokens, got {views}")
        tokens = self.mlp(features) * self.output_rms
        filled = torch.where(is_given[..., None], tokens, none[:views])
        return torch.cat([filled, none[views:].expand(len(features), -1, -1)], dim=1)
