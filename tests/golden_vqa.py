"""Recorded text layouts, a tiny Qwen3 with adapters, a projector and geometry tokens, for `tests.goldens`.

Folders are recognized by the files in them. Arithmetic is float64 from the recorded float32 numbers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.scene_qa.geometry import depth_histogram
from geometry.errors import InputError
from models.vggt.weights import WeightIdentity
from models.vqa.config import GeometryConfig, LoRAConfig, PerceiverConfig
from models.vqa.geometry_head import GeometryHead, plain_features, relative_to_first
from models.vqa.language import LanguageModel, TextCodec, transformers_library
from models.vqa.network import token_losses
from models.vqa.perceiver import Perceiver
from models.vqa.prompt import IGNORED, PromptBuilder, TextRows
from tests.golden_comparison import Comparison, compared

LOGIT_TOLERANCE, LOSS_TOLERANCE, PERCEIVER_TOLERANCE = 2e-5, 1e-5, 1e-5
GRADIENT_TOLERANCE = 1e-4
"""Relative to the largest entry."""
FEATURE_TOLERANCE = 1e-12
TOKEN_TOLERANCE = 1e-5
_LONGEST = 1 << 20

Arrays = dict[str, np.ndarray]


def kind_of(folder: Path) -> Callable[[Path], dict[str, list[Comparison]]] | None:
    """The check of a folder of fixtures; None: not one of these kinds."""
    names = {path.name for path in folder.iterdir()}
    if {"cases.json", "tokenizer.json"} <= names:
        return check_layout
    if {"adapter_model.safetensors", "model.safetensors", "lora.json", "io.npz"} <= names:
        return check_language
    if "geometry_head.npz" in names:
        return check_geometry
    if {"config.json", "state_dict.safetensors", "io.npz"} <= names and "num_latents" in _json(folder / "config.json"):
        return check_perceiver
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"fixture {path} is not valid JSON: {error}") from None


def _arrays(path: Path) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"arrays {path} cannot be read: {error}") from error


def _relative_to_largest(name: str, expected: np.ndarray, got: Tensor | None) -> Comparison:
    limit = GRADIENT_TOLERANCE * float(np.abs(expected).max(initial=0.0))
    return compared(name, expected, None if got is None else got.detach().numpy(), absolute=limit)


# ---- layout


def check_layout(folder: Path) -> dict[str, list[Comparison]]:
    """Rows of training and prompts of both formats, each padded as in the record."""
    record = _json(folder / "cases.json")
    codec = TextCodec.from_file(folder / "tokenizer.json")
    results = [
        compared(f"id of {token}", np.array(number), np.array(codec.special(token)))
        for token, number in record["ids"].items()
    ]
    for index, case in enumerate(record["cases"]):
        builder = PromptBuilder(codec, case["format"], record["num_visual"], _LONGEST)
        builder.pad = record["pad_id"]
        name = f"{index} {case['format']}"
        if "train" in case:
            results += _rows_compared(f"{name} train", case["train"], builder, case, is_left=False)
            results += _rows_compared(f"{name} inference", case["inference"], builder, case, is_left=True)
        else:
            rows = _rows(builder, case, is_left=False)
            counts = {
                "image_placeholders": (rows.input_ids == record["ids"]["<|image_pad|>"]).sum(),
                "label_tokens": (rows.labels != IGNORED).sum(),
            }
            results += [
                compared(f"{name} {what}", np.array(case[what]), np.array(int(counts[what])))
                for what in counts
                if what in case
            ]
    return {"cases.json": results}


def _rows(builder: PromptBuilder, case: dict[str, Any], *, is_left: bool) -> TextRows:
    answer = case["answer"] if isinstance(case["answer"], str) else json.dumps(case["answer"], ensure_ascii=False)
    situations = [case.get("situation", "")]
    if is_left:
        return builder.inference([case["question"]], situations)
    return builder.training([case["question"]], [answer], situations)


def _rows_compared(
    name: str, record: dict[str, Any], builder: PromptBuilder, case: dict[str, Any], *, is_left: bool
) -> list[Comparison]:
    """Ids, mask, labels and the positions of what is no padding; the record is padded to its longest row."""
    rows = _rows(builder, case, is_left=is_left)
    length, missing = len(record["input_ids"]), len(record["input_ids"]) - rows.input_ids.shape[1]
    if missing < 0:
        return [Comparison(name, float("inf"), f"{length} tokens, got {length - missing}", False)]
    before, behind = (missing, 0) if is_left else (0, missing)
    filled = {"input_ids": builder.pad, "attention_mask": 0, "labels": IGNORED, "position_ids": 0}
    results = []
    for field, fill in filled.items():
        if field not in record:
            continue
        got = np.pad(getattr(rows, field)[0].long().numpy(), (before, behind), constant_values=fill)
        expected = np.array(record[field])
        if field == "position_ids":
            shown = np.array(record["attention_mask"]) > 0
            got, expected = got[shown], expected[shown]
        results.append(compared(f"{name} {field}", expected, got))
    return results


# ---- language model


def load_recorded_language(folder: Path, lora: dict[str, Any] | None = None) -> LanguageModel:
    """The recorded model, with adapters of the recorded settings where they are given; no tokenizer.

    Not by transformers' eager attention, whose softmax is float32: float64 masks become infinite there.
    """
    library = transformers_library()
    causal = library.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    language = LanguageModel(causal.eval(), TextCodec(None), WeightIdentity(str(folder), ""))
    if lora is not None:
        settings = LoRAConfig(
            lora["r"], float(lora["lora_alpha"]), lora.get("lora_dropout", 0.0), tuple(lora["target_modules"])
        )
        language.add_adapters(settings)
        language.load_adapters(load_file(folder / "adapter_model.safetensors"), str(folder))
    return language.double().eval()


def check_language(folder: Path) -> dict[str, list[Comparison]]:
    """Logits, losses, gradients, greedy tokens and merged weights of the tiny model with and without adapters."""
    record = _arrays(folder / "io.npz")
    language = load_recorded_language(folder, _json(folder / "lora.json"))
    tensors = {name: torch.from_numpy(value) for name, value in record.items()}
    rows = _recorded_rows(tensors, "input_ids", "attention_mask", "labels")
    visual = tensors["visual"].double().requires_grad_(True)
    words = language.embed(rows.input_ids)
    embeddings = words.masked_scatter(rows.visual[..., None], visual)
    shown = rows.attention_mask[..., None]

    def logits() -> np.ndarray:
        hidden = language.hidden(embeddings, rows.attention_mask, rows.position_ids)
        return (language.logits(hidden) * shown).detach().numpy()

    losses = token_losses(language, embeddings, rows)
    results = [
        compared("lora.logits", record["lora.logits"], logits(), absolute=LOGIT_TOLERANCE),
        compared("lora.loss", record["lora.loss"], losses.mean.detach().numpy(), absolute=LOSS_TOLERANCE),
        compared(
            "per_sample_nll_sum",
            record["per_sample_nll_sum"],
            losses.sums.detach().numpy(),
            absolute=LOSS_TOLERANCE * 10,
        ),
        compared("per_sample_tokens", record["per_sample_tokens"], losses.counts.numpy()),
    ]
    results += _gradients(language, losses.mean, visual, record)
    with torch.no_grad(), language.without_adapters():
        results += [
            compared("base.logits", record["base.logits"], logits(), absolute=LOGIT_TOLERANCE),
            compared(
                "base.loss", record["base.loss"], token_losses(language, embeddings, rows).mean.numpy(),
                absolute=LOSS_TOLERANCE,
            ),
        ]  # fmt: skip
    results += _greedy(language, tensors, record)
    merged = language.merged_state()["model.layers.0.self_attn.q_proj.weight"].numpy()
    results.append(compared("merged.q_proj_0", record["merged.q_proj_0"], merged, absolute=1e-6))
    return {"io.npz": results}


def _recorded_rows(tensors: dict[str, Tensor], ids: str, mask: str, labels: str | None) -> TextRows:
    shown = tensors[mask].bool()
    found = tensors[ids]
    is_image = (found == tensors["image_id"]) & shown
    marked = torch.full_like(found, IGNORED) if labels is None else tensors[labels]
    return TextRows(found, shown, marked, (shown.long().cumsum(1) - 1).clamp(min=0), is_image)


def _gradients(language: LanguageModel, loss: Tensor, visual: Tensor, record: Arrays) -> list[Comparison]:
    adapters = [name for name in record if name.startswith("grad:")]
    parameters = dict(language.inner.named_parameters())
    wanted = {name: parameters.get(_injected(name.removeprefix("grad:"))) for name in adapters}
    known = {name: parameter for name, parameter in wanted.items() if parameter is not None}
    found = torch.autograd.grad(loss, [visual, *known.values()])
    gradients = {"lora.d_visual": found[0], **dict(zip(known, found[1:], strict=True))}
    return [_relative_to_largest(name, record[name], gradients.get(name)) for name in ("lora.d_visual", *adapters)]


def _injected(name: str) -> str:
    return name.replace(".lora_A.weight", ".lora_A.default.weight").replace(".lora_B.weight", ".lora_B.default.weight")


def _greedy(language: LanguageModel, tensors: dict[str, Tensor], record: Arrays) -> list[Comparison]:
    """Without a token that ends it, as recorded."""
    prompts = _recorded_rows(tensors, "prompt_ids", "prompt_mask", None)
    words = language.embed(prompts.input_ids)
    embeddings = words.masked_scatter(prompts.visual[..., None], tensors["visual"].double())
    name = next(name for name in record if name.startswith("greedy_") and name != "greedy_margin")
    ids = language.greedy_ids(embeddings, prompts.attention_mask, max_new_tokens=record[name].shape[1], stops=(), pad=0)
    return [compared(name, record[name], ids.numpy())]


# ---- projector and geometry


def check_perceiver(folder: Path) -> dict[str, list[Comparison]]:
    """Output and gradients of the published projector."""
    sizes, record = _json(folder / "config.json"), _arrays(folder / "io.npz")
    config = PerceiverConfig(
        width=sizes["latent_dim"],
        num_latents=sizes["num_latents"],
        num_layers=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        ffn_dim=sizes["ffn_dim"],
        dropout=float(sizes.get("dropout", 0.0)),
        is_scaled=False,
    )
    perceiver = Perceiver(config, sizes["in_dim"], sizes["out_dim"])
    perceiver.load_state_dict(load_file(folder / "state_dict.safetensors"))
    perceiver.double().eval()
    tokens = torch.from_numpy(record["tokens"]).double().requires_grad_(True)
    output = perceiver(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))
    (output * torch.from_numpy(record["cotangent"])).sum().backward()
    parameters = dict(perceiver.named_parameters())
    results = [
        compared("output", record["output"], output.detach().numpy(), absolute=PERCEIVER_TOLERANCE),
        compared("d_tokens", record["d_tokens"], tokens.grad.numpy(), absolute=PERCEIVER_TOLERANCE),
    ]
    for name in (name for name in record if name.startswith("grad:")):
        parameter = parameters.get(name.removeprefix("grad:"))
        got = None if parameter is None or parameter.grad is None else parameter.grad.numpy()
        limit = PERCEIVER_TOLERANCE * max(1.0, float(np.abs(record[name]).max()))
        results.append(compared(name, record[name], got, absolute=limit))
    return {"io.npz": results}


def check_geometry(folder: Path) -> dict[str, list[Comparison]]:
    """Histogram, the 37 numbers, the averaged token and poses relative to view 0."""
    path = folder / "geometry_head.npz"
    record = _arrays(path)
    tensors = {name: torch.from_numpy(value).double() for name, value in record.items()}
    rotations, translations = tensors["R"], tensors["t"]
    features = plain_features(rotations, translations, tensors["K"], tensors["depth_hist"])
    head = GeometryHead(GeometryConfig("plain", 1), tensors["b2"].shape[0]).double()
    weights = {"0.weight": "W1", "0.bias": "b1", "2.weight": "W2", "2.bias": "b2"}
    head.mlp.load_state_dict({key: tensors[name] for key, name in weights.items()})
    shown = torch.ones(1, len(rotations), dtype=torch.bool)
    token = head(features[None], shown, torch.ones(1, dtype=torch.bool))[0, 0].detach()
    relative, moved = relative_to_first(rotations, translations)
    histograms = np.stack([np.asarray(depth_histogram(depth)[0], dtype=np.float64) for depth in record["depth"]])
    found = {
        "depth_hist": (histograms, 1e-6),
        "features_37": (features.numpy(), FEATURE_TOLERANCE),
        "reference_token": (token.numpy(), TOKEN_TOLERANCE * max(1.0, float(np.abs(record["reference_token"]).max()))),
        "relative_R_to_view0": (relative.numpy(), FEATURE_TOLERANCE),
        "relative_t_to_view0": (moved.numpy(), FEATURE_TOLERANCE * 10),
    }
    return {path.name: [compared(name, record[name], got, absolute=limit) for name, (got, limit) in found.items()]}
