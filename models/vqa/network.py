"""The whole network: features of views and what is known of cameras -> embeddings in a prompt -> answer.

Only Perceiver, codes, geometry head and adapters learn. The base of the language model is part of the module, so that
it moves and is shared out among processes like the rest, but not of its state dict: checkpoints hold what was trained.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geometry.errors import require
from geometry.tensor_struct import TensorStruct
from models.vqa.config import VQAConfig
from models.vqa.geometry_head import GeometryHead
from models.vqa.language import Generated, LanguageModel
from models.vqa.perceiver import Perceiver
from models.vqa.prompt import PromptBuilder, TextRows
from models.vqa.spelling import spelling_losses
from models.vqa.visual import VisualEncoder

_ADAPTER_MARK = ".lora_"
"""In the names of adapter weights, by peft."""


@dataclass(frozen=True)
class SceneInputs(TensorStruct):
    """What is seen and known of scenes."""

    features: Float[Tensor, "batch view level channel rows cols"]
    """See `visual.scene_features`; of views that are not shown anything."""
    view_mask: Bool[Tensor, "batch view"]
    geometry: Float[Tensor, "batch view feature"]
    """Of the configuration's style; no features: 0 channels."""
    geometry_mask: Bool[Tensor, " batch"]


@dataclass(frozen=True)
class TokenLosses:
    """Negative log-likelihood of answers, terminators included, nats."""

    sums: Float[Tensor, " batch"]
    counts: Int[Tensor, " batch"]
    """Tokens of each answer."""
    is_exact: Bool[Tensor, " batch"]
    """Every token is the likeliest one: greedy decoding would give this answer and stop."""
    spelling: Float[Tensor, " batch"]
    """See `spelling.spelling_losses`; 0 where nothing is to be spelled."""

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Over all tokens of the batch."""
        return self.sums.sum() / self.counts.sum()


class SceneQA(nn.Module):
    """Answers questions about scenes."""

    def __init__(self, config: VQAConfig, language: LanguageModel) -> None:
        """`language` gets adapters here; it must have none."""
        super().__init__()
        require(not language.has_adapters, "SceneQA: expected a language model without adapters, got one with them")
        language.add_adapters(config.lora)
        self.config = config
        self.language = language
        self.visual = VisualEncoder(config.visual)
        self.perceiver = Perceiver(config.perceiver, config.visual.dim, language.dim)
        self.geometry = GeometryHead(config.geometry, language.dim) if config.geometry.count else None
        self.prompts = PromptBuilder(language.codec, config.prompt_format, config.num_visual, config.max_length)
        if config.perceiver.is_scaled:
            rms = 1.0 if language.is_hollow else language.embedding_rms()
            self.perceiver.output_rms.fill_(rms)
            if self.geometry is not None:
                self.geometry.output_rms.fill_(rms)
        self.register_state_dict_post_hook(_without_base)
        self.register_load_state_dict_pre_hook(_with_base)

    def visual_embeddings(self, inputs: SceneInputs) -> Float[Tensor, "batch visual dim"]:
        """Geometry tokens, then the Perceiver's."""
        tokens, codes, visible = self.visual(inputs.features, inputs.view_mask)
        found = self.perceiver(tokens, visible, codes)
        if self.geometry is None:
            return found
        return torch.cat([self.geometry(inputs.geometry, inputs.view_mask, inputs.geometry_mask), found], dim=1)

    def embedded(
        self, rows: TextRows, visual: Float[Tensor, "batch visual dim"] | None
    ) -> Float[Tensor, "batch token dim"]:
        """Word embeddings with the visual ones in the placeholders, in order; None: zeros there."""
        words = self.language.embed(rows.input_ids)
        if visual is None:
            return words.masked_fill(rows.visual[..., None], 0.0)
        return words.masked_scatter(rows.visual[..., None], visual.to(words.dtype))

    def losses(
        self, inputs: SceneInputs, rows: TextRows, spelled: Int[Tensor, "batch place word"] | None = None
    ) -> TokenLosses:
        """Of every answer, and of the words that the Perceiver is to write where `spelled` has any."""
        visual = self.visual_embeddings(inputs)
        losses = token_losses(self.language, self.embedded(rows, visual), rows)
        if spelled is None or not spelled.shape[1]:
            return losses
        words = self.language.inner.get_input_embeddings().weight
        return replace(losses, spelling=spelling_losses(visual[:, self.config.geometry.count :], words, spelled))

    def forward(
        self,
        inputs: SceneInputs,
        rows: TextRows,
        spelled: Int[Tensor, "batch place word"] | None = None,
        *,
        micro_batch: int = 0,
    ) -> TokenLosses:
        """`losses`, of `micro_batch` samples at a time, whose activations are computed again backwards; 0: all at once.

        Sums, counts and gradients do not depend on it but for rounding.
        """
        count = len(rows.input_ids)
        if not 0 < micro_batch < count or not torch.is_grad_enabled():
            return self.losses(inputs, rows, spelled)
        found = []
        for first in range(0, count, micro_batch):
            part = slice(first, first + micro_batch)
            words = None if spelled is None else spelled[part]
            found.append(checkpoint(self._plain_losses, inputs[part], rows[part], words, use_reentrant=False))
        return TokenLosses(*(torch.cat(values) for values in zip(*found, strict=True)))

    def _plain_losses(self, inputs: SceneInputs, rows: TextRows, spelled: Tensor | None) -> tuple[Tensor, ...]:
        losses = self.losses(inputs, rows, spelled)
        return losses.sums, losses.counts, losses.is_exact, losses.spelling

    @torch.no_grad()
    def answer(
        self,
        inputs: SceneInputs | None,
        questions: Sequence[str],
        situations: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 64,
        processors: Sequence[Any] = (),
    ) -> Generated:
        """Greedy answers; `inputs` None: with zeros for visual embeddings. Every row is independent of the others."""
        device = self.perceiver.latents.device
        rows = self.prompts.inference(questions, situations).to(device)
        visual = None if inputs is None else self.visual_embeddings(inputs)
        return self.language.generate(
            self.embedded(rows, visual),
            rows.attention_mask,
            max_new_tokens=max_new_tokens,
            stops=self.prompts.stops,
            pad=self.prompts.pad,
            processors=processors,
        )

    @torch.no_grad()
    def attention(self, inputs: SceneInputs) -> Float[Tensor, "batch view rows cols"]:
        """How much the latents read of each cell: mean of layers, heads and latents; sums to 1 over a sample."""
        tokens, codes, visible = self.visual(inputs.features, inputs.view_mask)
        weights = self.perceiver.with_attention(tokens, visible, codes)[1].mean(1)
        visual = self.config.visual
        rows, cols = (
            math.ceil(math.ceil(side / visual.pooling) / visual.merging) for side in inputs.features.shape[-2:]
        )
        return weights.unflatten(1, (inputs.features.shape[1], rows, cols))

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The bare language model answers."""
        with self.language.without_adapters():
            yield


def token_losses(language: LanguageModel, embeddings: Float[Tensor, "batch token dim"], rows: TextRows) -> TokenLosses:
    """Of rows of text whose embeddings are given."""
    losses, is_likeliest, samples = language.token_losses(
        embeddings, rows.attention_mask, rows.position_ids, rows.labels
    )
    count = len(rows.labels)
    sums = losses.new_zeros(count).index_add(0, samples, losses)
    counts = torch.bincount(samples, minlength=count)
    is_exact = torch.bincount(samples[is_likeliest], minlength=count) == counts
    return TokenLosses(sums, counts, is_exact, torch.zeros_like(sums))


def is_base(name: str) -> bool:
    """Whether a weight of `SceneQA` belongs to the frozen base of its language model."""
    return name.startswith("language.") and _ADAPTER_MARK not in name


def _without_base(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for name in [key for key in state if key.startswith(prefix) and is_base(key.removeprefix(prefix))]:
        del state[name]


def _with_base(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """What is loaded lacks the base, which is there already."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if is_base(name):
            state.setdefault(prefix + name, parameter.detach())
