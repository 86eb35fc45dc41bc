"""A network of some ten thousand weights behind a VGGT that is only imagined, on the toy language model."""

import torch

from models.vqa.config import GeometryConfig, LoRAConfig, PerceiverConfig, VisualConfig, VQAConfig
from models.vqa.geometry_head import RELATIVE_FEATURES
from models.vqa.language import load_language
from models.vqa.network import SceneInputs, SceneQA

CONFIG = VQAConfig(
    visual=VisualConfig(layers=(0, 3), channels=12, max_views=4),
    perceiver=PerceiverConfig(width=16, num_latents=5, num_layers=2, num_heads=2, ffn_dim=24, dropout=0.0),
    geometry=GeometryConfig("relative", 3),
    lora=LoRAConfig(rank=2, alpha=4.0, dropout=0.0),
    max_length=128,
)
QUESTIONS = ("what color is the ball?", "which view shows the red box?", "how many boxes are there?")
ANSWERS = ("red", "2", "3")


def tiny_network(config: VQAConfig = CONFIG) -> SceneQA:
    """With adapters that already do something: they start at zero."""
    torch.manual_seed(3)
    network = SceneQA(config, load_language("tiny:1"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return network.eval()


def tiny_inputs(batch: int = 3, views: int = 3, seed: int = 5) -> SceneInputs:
    """Random features of 2x3 cells; the geometry of the last sample is not known."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.ones(batch, dtype=torch.bool)
    known[-1] = batch == 1
    return SceneInputs(
        features=torch.randn(batch, views, 2, 12, 2, 3, generator=generator),
        view_mask=torch.ones(batch, views, dtype=torch.bool),
        geometry=torch.randn(batch, views, RELATIVE_FEATURES, generator=generator),
        geometry_mask=known,
    )
