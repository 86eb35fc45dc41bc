"""Memory of questions about scenes at full size, without any weights: `python -m benchmarks.vqa_memory`.

Networks are built on the meta device and counted. A weight that learns takes 16 bytes: bfloat16 weight and gradient,
float32 copy and two moments of Adam; frozen weights are bfloat16. Logits are float32 and exist twice with gradients;
they are computed at label positions only, which the last lines compare with computing all of them.
"""

import argparse
from dataclasses import replace

import torch
from torch import nn

from geometry.errors import one_line_errors, require
from models.vggt import VGGT, VGGTConfig, WeightIdentity
from models.vqa.config import LARGE_PERCEIVER, GeometryConfig, LoRAConfig, PerceiverConfig, VQAConfig
from models.vqa.language import QWEN3_4B, TINY_FOLDER, LanguageModel, TextCodec, random_language
from models.vqa.network import SceneQA

GIB = 2**30
FROZEN_BYTES, LEARNED_BYTES, LOGIT_BYTES = 2, 16, 2 * 4
STAGES = {
    "questions": (LoRAConfig(), 6, 512, 16),
    "actions": (LoRAConfig(32, 64.0, 0.05, ("q_proj", "v_proj", "o_proj")), 4, 4096, 128),
}
"""Of the published training guide: adapters, samples at once, tokens of a row; and label tokens of a row (ours)."""
PERCEIVERS = {"width 1024": PerceiverConfig(), "width 4096": LARGE_PERCEIVER}


def full_size(perceiver: PerceiverConfig, lora: LoRAConfig) -> SceneQA:
    """The network behind VGGT-1B and before Qwen3-4B on the meta device."""
    with torch.device("meta"):
        causal = random_language(QWEN3_4B, 0)
        codec = TextCodec.from_file(TINY_FOLDER / "tokenizer.json")  # not used
        config = VQAConfig(perceiver=perceiver, geometry=GeometryConfig("plain", 8), lora=lora)
        return SceneQA(config, LanguageModel(causal, codec, WeightIdentity("Qwen3-4B", "")))


def counted(module: nn.Module, *, learns: bool) -> int:
    """Weights that learn, or that do not; tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad == learns)


def table(stage: str) -> list[str]:
    """Lines of the table of a stage."""
    lora, samples, tokens, labels = STAGES[stage]
    with torch.device("meta"):
        vggt = VGGT(replace(VGGTConfig(), camera_head=None, depth_head=None, point_head=None, track_head=None))
    backbone = sum(parameter.numel() for parameter in vggt.parameters())
    lines = [f"{stage:<28}" + "".join(f"{name:>16}" for name in PERCEIVERS)]
    networks = [full_size(perceiver, lora) for perceiver in PERCEIVERS.values()]
    language = [counted(network.language, learns=False) for network in networks]
    learned = [counted(network, learns=True) for network in networks]
    adapters = [counted(network.language, learns=True) for network in networks]
    perceivers = [counted(network.perceiver, learns=True) for network in networks]

    def line(name: str, values: list[str]) -> None:
        lines.append(f"{name:<28}" + "".join(f"{value:>16}" for value in values))

    line("Qwen3-4B, weights", [f"{count:,}" for count in language])
    line("VGGT aggregator, weights", [f"{backbone:,}" for _ in networks])
    line("Perceiver, weights", [f"{count:,}" for count in perceivers])
    line("adapters, weights", [f"{count:,}" for count in adapters])
    line("all that learns, weights", [f"{count:,}" for count in learned])
    static = [
        ((frozen + backbone) * FROZEN_BYTES + count * LEARNED_BYTES) / GIB
        for frozen, count in zip(language, learned, strict=True)
    ]
    line("Qwen3-4B, GiB", [f"{count * FROZEN_BYTES / GIB:.1f}" for count in language])
    line("VGGT aggregator, GiB", [f"{backbone * FROZEN_BYTES / GIB:.1f}" for _ in networks])
    line("what learns, GiB", [f"{count * LEARNED_BYTES / GIB:.1f}" for count in learned])
    line("together, GiB", [f"{value:.1f}" for value in static])
    vocabulary = networks[0].language.inner.config.vocab_size
    for what, length in (("all logits", tokens), ("logits at labels", labels)):
        gib = samples * length * vocabulary * LOGIT_BYTES / GIB
        line(f"{what}, {samples} x {length}, GiB", [f"{gib:.2f}" for _ in networks])
    return lines


@one_line_errors
def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vqa_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=list(STAGES), help=f"out of {', '.join(STAGES)}")
    options = parser.parse_args(arguments)
    unknown = [stage for stage in options.stages if stage not in STAGES]
    require(not unknown, f"--stages: expected some of {', '.join(STAGES)}, got {unknown[:1]}")
    print("\n\n".join("\n".join(table(stage)) for stage in options.stages))


if __name__ == "__main__":
    main()
