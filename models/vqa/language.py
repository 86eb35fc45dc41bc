"""Qwen3 by transformers with low-rank adapters by peft; the only file that imports either, and only when it is used.

A language model is `tiny[:SEED]` (random weights, a few hundred thousand of them), a folder as `save_pretrained` writes
it, or a hub id like `Qwen/Qwen3-4B-Instruct-2507`.
"""

import copy
import functools
import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from geometry.errors import InputError, require
from models.vggt.weights import WeightIdentity, file_sha256
from models.vqa.config import LoRAConfig
from models.vqa.prompt import IGNORED

TINY = "tiny"
TINY_FOLDER = Path(__file__).parent / "configs" / "tiny"
QWEN3_4B = Path(__file__).parent / "configs" / "qwen3_4b"
"""Sizes of Qwen/Qwen3-4B-Instruct-2507 without its weights."""
ADAPTER = "adapter"
"""Prefix of adapter weights in files of this task; after it come peft's own names."""


def transformers_library() -> Any:
    """The module.

    Raises:
        InputError: naming the extra, where it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"questions about scenes need transformers: pip install -e .[vqa] ({error})") from None
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    return transformers


def peft_library() -> Any:
    """The module.

    Raises:
        InputError: naming the extra, where it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError(f"questions about scenes need peft: pip install -e .[vqa] ({error})") from None
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")  # peft asks transformers by its older name
    warnings.filterwarnings("ignore", ".*a tied layer is part of the adapter.*")  # see `LanguageModel.save_merged`
    return peft


class TextCodec:
    """A tokenizer of transformers that never reads special tokens out of text."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._encoded = functools.lru_cache(maxsize=1 << 15)(self._encode)

    @classmethod
    def from_file(cls, path: Path) -> "TextCodec":
        """A `tokenizer.json`."""
        return cls(transformers_library().PreTrainedTokenizerFast(tokenizer_file=str(path)))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def encode(self, text: str) -> list[int]:
        """See `prompt.Tokenizer`."""
        return list(self._encoded(text))

    def special(self, token: str) -> int:
        """See `prompt.Tokenizer`.

        Raises:
            InputError: for a token that the vocabulary lacks: it is never enlarged.
        """
        found = self.tokenizer.get_vocab().get(token)
        require(found is not None, f"tokenizer: expected the special token {token} of Qwen3, got none")
        return int(found)

    def token_bytes(self) -> dict[int, bytes]:
        """What each token that is not special stands for, of a byte-level vocabulary: it spells bytes as letters.

        The 188 printable bytes of Latin-1 are themselves, the others the letters from U+0100 on, in order.
        """
        own = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in own]
        letters = {chr(byte): byte for byte in own} | {chr(256 + number): byte for number, byte in enumerate(others)}
        special = set(self.tokenizer.get_added_vocab())
        return {
            token: bytes(letters[letter] for letter in text)
            for text, token in self.tokenizer.get_vocab().items()
            if text and text not in special and letters.keys() >= set(text)
        }

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


@dataclass(frozen=True)
class Generated:
    """Answers to a batch of prompts."""

    texts: list[str]
    stopped: list[bool]
    """Whether each ended by itself, not for its length."""


class LanguageModel(nn.Module):
    """A causal language model that is fed embeddings; frozen but for its adapters, if it has any."""

    def __init__(self, causal: Any, codec: TextCodec, identity: WeightIdentity) -> None:
        super().__init__()
        self.causal = causal
        self.codec = codec
        self.identity = identity
        self.causal.requires_grad_(False)
        self.has_adapters = False

    @property
    def inner(self) -> Any:
        """The model of transformers, whose layers may carry adapters."""
        return self.causal.get_base_model() if self.has_adapters else self.causal

    @property
    def is_hollow(self) -> bool:
        """Whether the weights are on the meta device."""
        return next(self.causal.parameters()).is_meta

    def get_memory(self, device: torch.device) -> None:
        """On a device for the weights of a hollow model, or for this process's share of them; what is in it is left."""
        for module in self.causal.modules():
            if any(one.is_meta for one in module.parameters(recurse=False)):
                module.to_empty(device=device, recurse=False)
        if self.inner.config.tie_word_embeddings:
            _base(self.inner.lm_head).weight = _base(self.inner.get_input_embeddings()).weight

    @property
    def dim(self) -> int:
        """Channels of embeddings."""
        return self.inner.config.hidden_size

    def embedding_rms(self) -> float:
        """Root mean square of the word embeddings."""
        with torch.no_grad():
            return float(self.inner.get_input_embeddings().weight.float().square().mean().sqrt())

    def add_adapters(self, config: LoRAConfig) -> None:
        """Put adapters into the attention of every layer but the first `frozen_layers`.

        Raises:
            InputError: for targets that the model does not have.
        """
        peft = peft_library()
        layers = range(config.frozen_layers, self.inner.config.num_hidden_layers)
        require(
            len(layers) > 0,
            f"LoRA: expected fewer than {self.inner.config.num_hidden_layers} frozen layers, "
            f"got {config.frozen_layers}",
        )
        settings = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
            layers_to_transform=list(layers) if config.frozen_layers else None,
            bias="none",
        )
        try:
            self.causal = peft.get_peft_model(self.causal, settings)
        except ValueError as error:
            raise InputError(f"LoRA: {' '.join(str(error).split())[:200]}") from None
        self.has_adapters = True

    def adapter_state(self) -> dict[str, Tensor]:
        """Weights of the adapters by peft's names."""
        return dict(peft_library().get_peft_model_state_dict(self.causal, save_embedding_layers=False))

    def load_adapters(self, state: dict[str, Tensor], where: str) -> None:
        """Strictly.

        Raises:
            InputError: naming keys that are missing, unexpected or of another shape.
        """
        own = self.adapter_state()
        wrong = sorted(own.keys() ^ state.keys())
        wrong += [key for key in sorted(own.keys() & state.keys()) if own[key].shape != state[key].shape]
        if wrong:
            raise InputError(f"{where}: expected adapters of this size, got {len(wrong)} that differ: {wrong[:3]}")
        peft_library().set_peft_model_state_dict(self.causal, state)

    def without_adapters(self) -> Any:
        """A context in which the bare language model answers."""
        return self.causal.disable_adapter()

    def embed(self, ids: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token dim"]:
        """Word embeddings."""
        return self.inner.get_input_embeddings()(ids)

    def hidden(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        attention_mask: Bool[Tensor, "batch token"],
        position_ids: Int[Tensor, "batch token"],
    ) -> Float[Tensor, "batch token dim"]:
        """What the head reads."""
        found = self.inner.model(
            inputs_embeds=embeddings, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return found.last_hidden_state

    def logits(self, hidden: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows vocabulary"]:
        """Of the rows that are wanted: all of them at once would be the largest tensor of a step."""
        return self.inner.lm_head(hidden)

    def token_losses(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        attention_mask: Bool[Tensor, "batch token"],
        position_ids: Int[Tensor, "batch token"],
        labels: Int[Tensor, "batch token"],
    ) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"], Int[Tensor, " row"]]:
        """Of every label that is trained on: negative log-likelihood in nats, whether it is the likeliest, its sample.

        Logits exist for these positions only.
        """
        hidden = self.hidden(embeddings, attention_mask, position_ids)
        wanted = labels[:, 1:] != IGNORED  # a position predicts the next token
        logits = self.logits(hidden[:, :-1][wanted]).float()
        losses = nn.functional.cross_entropy(logits, labels[:, 1:][wanted], reduction="none")
        is_likeliest = logits.detach().argmax(-1) == labels[:, 1:][wanted]
        samples = torch.arange(len(labels), device=labels.device)[:, None].expand_as(wanted)[wanted]
        return losses, is_likeliest, samples

    @torch.no_grad()
    def greedy_ids(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        attention_mask: Bool[Tensor, "batch token"],
        *,
        max_new_tokens: int,
        stops: Sequence[int],
        pad: int,
        processors: Sequence[Any] = (),
    ) -> Int[Tensor, "batch new"]:
        """The likeliest tokens one after the other, behind prompts that are padded on the left, without penalties.

        Qwen3-Instruct's own defaults would draw at random. After one of `stops` a row is filled up with `pad`.
        """
        library = transformers_library()
        settings = library.GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stops) or None,
            pad_token_id=pad,
            use_cache=True,
        )
        self.inner.generation_config = library.GenerationConfig()
        return self.inner.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask.long(),
            generation_config=settings,
            logits_processor=library.LogitsProcessorList(processors),
        )

    def generate(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        attention_mask: Bool[Tensor, "batch token"],
        *,
        max_new_tokens: int,
        stops: Sequence[int],
        pad: int,
        processors: Sequence[Any] = (),
    ) -> Generated:
        """`greedy_ids` as text."""
        ids = self.greedy_ids(
            embeddings, attention_mask, max_new_tokens=max_new_tokens, stops=stops, pad=pad, processors=processors
        )
        texts, stopped = [], []
        for row in ids.tolist():
            end = next((index for index, token in enumerate(row) if token in stops), None)
            stopped.append(end is not None)
            texts.append(self.codec.decode(row[:end]))
        return Generated(texts, stopped)

    def set_checkpointing(self, is_on: bool) -> None:
        """Compute activations again backwards: less memory."""
        if is_on:
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.inner.gradient_checkpointing_disable()

    @torch.no_grad()
    def merged_state(self) -> dict[str, Tensor]:
        """Weights of the plain model that does the same: W + alpha / rank B A."""
        changes = {
            f"{name}.weight": module.get_delta_weight("default")
            for name, module in self.inner.named_modules()
            if hasattr(module, "get_delta_weight") and "default" in getattr(module, "lora_A", {})
        }
        state = {}
        for key, value in self.inner.state_dict().items():
            plain = key.replace(".base_layer.", ".")
            if ".lora_" not in key:
                state[plain] = (value + changes[plain].to(value)) if plain in changes else value.clone()
        return state

    def save_merged(self, folder: Path) -> None:
        """A folder for transformers in which the adapters are part of the weights; this model stays as it is."""
        state, config = self.merged_state(), copy.deepcopy(self.inner.config)
        ends = [_base(layer) is not layer for layer in (self.inner.lm_head, self.inner.get_input_embeddings())]
        if any(ends):
            config.tie_word_embeddings = False  # one of the two has changed
        with torch.device("meta"):
            plain = type(self.inner)(config)
        plain.load_state_dict(state, assign=True)
        plain.tie_weights()
        plain.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)

    def save(self, folder: Path) -> None:
        """A folder for transformers, of a model without adapters."""
        self.causal.save_pretrained(folder)
        self.codec.tokenizer.save_pretrained(folder)


def _base(layer: Any) -> Any:
    """A layer without the adapter around it."""
    return getattr(layer, "base_layer", layer)


def load_language(source: str, *, dtype: torch.dtype = torch.float32, is_hollow: bool = False) -> LanguageModel:
    """Weights and tokenizer of a source, on the CPU, without adapters.

    `is_hollow`: its weights are on the meta device, for a process that gets its share of them from another one.

    Raises:
        InputError: for a folder that is missing or holds no Qwen3, and for a hub id that cannot be had.
    """
    name, _, seed = source.partition(":")
    if name == TINY:
        return _tiny(seed, is_hollow=is_hollow)
    folder = _folder_of(source)
    library = transformers_library()
    require((folder / "config.json").is_file(), f"--language_model {source}: expected config.json there, got none")
    try:
        if is_hollow:
            causal = _hollow(folder, dtype)
        else:
            causal = library.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--language_model {source}: expected a causal language model, got: {reason}") from None
    return LanguageModel(causal.eval(), TextCodec(tokenizer), WeightIdentity(source, folder_sha256(folder)))


def random_language(config: Path, seed: int) -> Any:
    """A causal model of the sizes in `config`/config.json with random weights; torch's own state is left alone."""
    library = transformers_library()
    sizes = library.AutoConfig.from_pretrained(config, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return library.AutoModelForCausalLM.from_config(sizes, dtype=torch.float32)


def _hollow(config: Path, dtype: torch.dtype) -> Any:
    """A causal model of the sizes in `config`/config.json without memory for its weights; what is computed is there."""
    library = transformers_library()
    sizes = library.AutoConfig.from_pretrained(config, local_files_only=True)
    with torch.device("meta"):
        causal = library.AutoModelForCausalLM.from_config(sizes, dtype=dtype)
    causal.model.rotary_emb = type(causal.model.rotary_emb)(causal.config)  # its frequencies are in no file
    return causal


def _tiny(seed: str, *, is_hollow: bool) -> LanguageModel:
    require(seed.isdecimal() or not seed, f"--language_model tiny:SEED: expected a number, got {seed!r}")
    causal = random_language(TINY_FOLDER, int(seed or 0))
    codec = TextCodec.from_file(TINY_FOLDER / "tokenizer.json")
    identity = WeightIdentity(f"{TINY}:{int(seed or 0)}", state_sha256(causal.state_dict()))
    if is_hollow:
        causal = _hollow(TINY_FOLDER, torch.float32)
    return LanguageModel(causal.eval(), codec, identity)


def _folder_of(source: str) -> Path:
    """A path first: for a folder that is missing, transformers would speak of hub ids."""
    path = Path(source)
    if path.is_dir():
        return path
    parts = source.split("/")
    require(
        len(parts) == 2 and all(parts) and not path.is_absolute() and not source.startswith("."),
        f"--language_model {source}: expected tiny, a folder or a hub id such as Qwen/Qwen3-4B-Instruct-2507, "
        f"got nothing there",
    )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--language_model {source}: no such folder, and not to be had from the hub ({reason})"
        ) from None


def folder_sha256(folder: Path) -> str:
    """Of all weight files in a folder, in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    require(bool(files), f"language model {folder}: expected *.safetensors there, got none")
    if len(files) == 1:
        return file_sha256(files[0])
    return hashlib.sha256("".join(file_sha256(path) for path in files).encode()).hexdigest()


def state_sha256(state: dict[str, Tensor]) -> str:
    """Of the bytes of all tensors in the order of their names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sizes_of(folder: Path) -> dict[str, Any]:
    """The `config.json` of a folder."""
    return json.loads((folder / "config.json").read_text())
