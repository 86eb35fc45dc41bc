"""Camera tokens -> pose encodings, refined over a few iterations (docs/vggt.md, "Camera head")."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.vggt.config import CameraHeadConfig
from models.vggt.heads.activations import POSE_ACTIVATIONS
from models.vggt.layers import Block, Mlp
from models.vggt.pose_encoding import PoseEncoding

NUM_ITERATIONS = 4
"""As the weights were trained (docs/vggt.md, "Camera head")."""


class CameraHead(nn.Module):
    """Attention over the views' camera tokens, modulated by the pose of the previous iteration."""

    def __init__(self, dim: int, config: CameraHeadConfig) -> None:
        """`dim` is the width of an aggregated token."""
        super().__init__()
        self.config = config
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, 9))
        self.embed_pose = nn.Linear(9, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.Sequential(
            *(
                Block(
                    dim,
                    config.num_heads,
                    mlp_ratio=config.mlp_ratio,
                    init_values=config.init_values,
                    recompute_in_training=False,
                )
                for _ in range(config.trunk_depth)
            )
        )
        self.pose_branch = Mlp(dim, dim // 2, 9)

    def forward(
        self, tokens: Float[Tensor, "batch view token channel"], *, num_iterations: int = NUM_ITERATIONS
    ) -> list[Float[Tensor, "batch view 9"]]:
        """Pose encodings after each iteration, the last being the prediction; `tokens` is the last layer.

        Gradients do not pass from one iteration's pose to the next, which starts from the pose before activation.
        """
        camera_tokens = self.token_norm(tokens[:, :, 0].to(self.token_norm.weight.dtype))
        normalized = F.layer_norm(camera_tokens, camera_tokens.shape[-1:], eps=1e-6)
        pose: Tensor | None = None
        encodings = []
        for _ in range(num_iterations):
            previous = self.empty_pose_tokens.expand(*tokens.shape[:2], -1) if pose is None else pose.detach()
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(previous)).chunk(3, dim=-1)
            modulated = camera_tokens + gate * (normalized * (1 + scale) + shift)
            update = self.pose_branch(self.trunk_norm(self.trunk(modulated)))
            pose = update if pose is None else pose.detach() + update
            encodings.append(self._activate(pose))
        return encodings

    def _activate(self, pose: PoseEncoding) -> PoseEncoding:
        names = (self.config.trans_act, self.config.quat_act, self.config.fl_act)
        parts = pose.split([3, 4, 2], dim=-1)
        return torch.cat([POSE_ACTIVATIONS[name](part) for name, part in zip(names, parts, strict=True)], dim=-1)
