"""Batches of questions -> what the network is given: features of the frozen VGGT, numbers of cameras, rows of text."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.scene_qa.types import QABatch, ViewGeometry
from geometry import InputError
from models.vggt.frozen import FrozenVGGT
from models.vqa.config import VisualConfig, VQAConfig
from models.vqa.geometry_head import plain_features, relative_features
from models.vqa.network import SceneInputs, SceneQA
from models.vqa.prompt import PromptBuilder, TextRows
from models.vqa.spelling import SEPARATOR, spelled_rows
from models.vqa.visual import scene_features

CAPTION = "caption"
"""Task of records that describe what views show."""


def scene_inputs(batch: QABatch, config: VQAConfig, vggt: FrozenVGGT | None) -> SceneInputs:
    """What is seen and known; `vggt` is needed for batches of images only.

    Raises:
        InputError: for images without a VGGT.
    """
    features = batch.features
    if features is None:
        if vggt is None:
            raise InputError("expected a VGGT for images, got none")
        features = features_of_shown(vggt, config.visual, batch)
    return SceneInputs(
        features=features,
        view_mask=batch.view_mask,
        geometry=geometry_features(batch.geometry, config.geometry.style),
        geometry_mask=batch.geometry_mask,
    )


@torch.no_grad()
def features_of_shown(vggt: FrozenVGGT, config: VisualConfig, batch: QABatch) -> Tensor:
    """VGGT mixes its views, so each sample shows it only those that are not hidden; zeros for the others."""
    images, mask = batch.images, batch.view_mask
    assert images is not None
    found: Tensor | None = None
    counts = mask.sum(1)
    for count in counts.unique().tolist():
        chosen = counts == count
        shown = mask[chosen]
        features = scene_features(vggt, config, images[chosen][shown].unflatten(0, (-1, count)))
        if found is None:
            found = features.new_zeros(*mask.shape, *features.shape[2:])
        part = found[chosen]
        part[shown] = features.flatten(0, 1)
        found[chosen] = part
    assert found is not None
    return found


def geometry_features(geometry: ViewGeometry, style: str) -> Float[Tensor, "batch view feature"]:
    """Numbers of each view in a style of `GEOMETRY_STYLES`; none: 0 channels."""
    if style == "plain":
        return plain_features(
            geometry.rotations, geometry.translations, geometry.intrinsics, geometry.depth_histogram
        ).float()
    if style == "relative":
        return relative_features(
            geometry.rotations,
            geometry.translations,
            geometry.intrinsics,
            geometry.image_size,
            geometry.depth_histogram,
            geometry.depth_range,
        ).float()
    return geometry.translations[..., :0].float()


def training_rows(batch: QABatch, prompts: PromptBuilder) -> TextRows:
    """Prompts with their answers, on the batch's device."""
    names = [
        f"{name or 'without id'} ({task}, draw {index})"
        for name, task, index in zip(batch.ids, batch.tasks, batch.indices.tolist(), strict=True)
    ]
    rows = prompts.training(batch.questions, batch.answers, batch.situations, names)
    return rows.to(batch.view_mask.device)


def spelled_captions(batch: QABatch, network: SceneQA) -> Int[Tensor, "batch place word"]:
    """Words of the captions that tell of every view of a sample, all of which are shown; -100 elsewhere."""
    num_views = batch.view_mask.sum(1).tolist()
    captions = [
        answer if task == CAPTION and len(answer.split(SEPARATOR)) == views > 1 else ""
        for task, answer, views in zip(batch.tasks, batch.answers, num_views, strict=True)
    ]
    rows = spelled_rows(network.language.codec, captions, network.config.perceiver.num_latents)
    return rows.to(batch.view_mask.device)
