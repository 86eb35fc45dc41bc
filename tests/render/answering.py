"""An answerer without a network, which looks at the brightest view; and a tiny network of random weights in a file."""

from pathlib import Path

import torch

from models.vggt import FrozenVGGT, WeightIdentity
from models.vqa.config import GeometryConfig, PerceiverConfig, VisualConfig, VQAConfig
from models.vqa.language import load_language
from models.vqa.network import SceneQA
from models.vqa.weights import save_weights
from render.answering import MAX_TOKENS, Answer, ShownViews

VGGT = Path(__file__).parents[2] / "ckpts" / "vggt_nano.safetensors"


def write_weights(path: Path, image_size: int = 32) -> Path:
    """Behind the shipped nano VGGT, for three views."""
    vggt = FrozenVGGT.load(VGGT, (0, 3))
    config = VQAConfig(
        visual=VisualConfig(layers=(0, 3), channels=vggt.channels, max_views=4),
        perceiver=PerceiverConfig(width=16, num_latents=4, num_layers=1, num_heads=2, ffn_dim=16),
        geometry=GeometryConfig("relative", 3),
    )
    torch.manual_seed(0)
    network = SceneQA(config, load_language("tiny"))
    save_weights(path, network, WeightIdentity(str(VGGT), vggt.identity.sha256), image_size)
    return path


class BrightestView:
    """Says which view is brightest, and the question."""

    image_size = 16
    max_views = 4

    def __init__(self, text: str = "", *, is_complete: bool = True) -> None:
        self.text, self.is_complete = text, is_complete
        self.asked: list[tuple[str, str, int]] = []

    def ask(
        self,
        views: ShownViews,
        question: str,
        situation: str = "",
        *,
        max_new_tokens: int = MAX_TOKENS,
        is_constrained: bool = False,
    ) -> Answer:
        """Attention is the brightness of each half."""
        self.asked.append((question, situation, max_new_tokens))
        halves = torch.nn.functional.adaptive_avg_pool2d(views.images.mean(1), (1, 2)) + 1e-6
        brightest = int(halves.flatten(1).sum(1).argmax()) + 1
        return Answer(self.text or f"view {brightest}", self.is_complete, halves / halves.sum())
