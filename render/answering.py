"""Answers to questions about views, and where the network looked: for `render.ask`, the viewer and the notebook."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from data.scene import PosedScene
from data.scene_qa.geometry import scene_geometry
from data.scene_qa.sources import square_pixels
from data.scene_qa.types import QABatch, QARecord, QASample, ViewGeometry
from data.seeds import evenly_spread
from geometry import InputError, require
from models.vggt.frozen import FROZEN_HEADS, FrozenVGGT
from models.vqa.constrained import Constraint
from models.vqa.network import SceneQA
from models.vqa.weights import located
from render.reconstruct.photo_files import read_photo
from training.backbone import announce_license
from training.pictures import as_bytes
from training.vqa.actions import action_constraint
from training.vqa.checkpoint import load_vqa
from training.vqa.inputs import scene_inputs

MAX_TOKENS = 256
"""Of an answer unless it ends before: enough for an action."""
_PHOTO_SIDE = 2048
"""Pixels of the long side that photographs are read at; far more than any network sees."""
_MIN_TILE, _CAPTION, _TEXT = 160, 18, 14
"""Pixels of the attention picture: least side of a view, height of its caption and of a line of text."""
_OPACITY = 0.65
"""Of the color map where attention is strongest."""


@dataclass(frozen=True)
class ShownViews:
    """What a question is about."""

    images: Float[Tensor, "view 3 size size"]
    """RGB in [0, 1]; "view 1" is the first."""
    geometry: ViewGeometry | None
    """None: nothing is known of the cameras."""
    names: tuple[str, ...]
    """Of the files or of the scene's views."""


@dataclass(frozen=True)
class Answer:
    """What the network says."""

    text: str
    is_complete: bool
    """It ended by itself, not at the longest length."""
    attention: Float[Tensor, "view rows cols"]
    """How much was read of each cell of each view; sums to 1."""

    @property
    def shares(self) -> list[float]:
        """Of each view."""
        return self.attention.flatten(1).sum(1).tolist()

    @property
    def view(self) -> int:
        """The one that was read most of, from 0."""
        return int(self.attention.flatten(1).sum(1).argmax())


@runtime_checkable
class Answerer(Protocol):
    """Whatever answers questions about views."""

    image_size: int
    max_views: int

    def ask(
        self,
        views: ShownViews,
        question: str,
        situation: str = "",
        *,
        max_new_tokens: int = MAX_TOKENS,
        is_constrained: bool = False,
    ) -> Answer:
        """Answer one question; `is_constrained`: with an action and nothing else."""
        ...


class NetworkAnswerer:
    """A trained network behind its frozen VGGT."""

    def __init__(self, network: SceneQA, vggt: FrozenVGGT, image_size: int, device: torch.device) -> None:
        """`image_size`: side of the square images that it was trained with, pixels."""
        self.network, self.vggt = network.eval().to(device), vggt.to(device)
        self.image_size, self.device = image_size, device
        self.max_views = network.config.max_views

    @classmethod
    def load(
        cls, ckpt: str, device: torch.device, *, language_model: str = "", vggt_ckpt: str = ""
    ) -> "NetworkAnswerer":
        """From a checkpoint or weight file of train_vqa.py; where the language model and VGGT lie, if elsewhere now.

        Raises:
            InputError: for files that are missing or damaged, or another language model or VGGT than in training.
        """
        require(Path(ckpt).is_file(), f"--ckpt {ckpt}: expected a checkpoint or weights of train_vqa.py, got no file")
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        loaded = load_vqa(ckpt, language_model, dtype=dtype)
        visual = loaded.network.config.visual
        source = vggt_ckpt or located(loaded.vggt.source, Path(ckpt))
        vggt = FrozenVGGT.load(source, visual.layers, FROZEN_HEADS if visual.has_points else ())
        announce_license(vggt)
        require(
            vggt.identity.sha256 == loaded.vggt.sha256,
            f"--vggt_ckpt {source}: expected the VGGT that {ckpt} was trained behind ({loaded.vggt.sha256[:8]}), "
            f"got another ({vggt.identity.sha256[:8]})",
        )
        require(loaded.vggt.image_size is not None, f"--ckpt {ckpt}: expected the size of its images, got none")
        return cls(loaded.network, vggt, int(loaded.vggt.image_size or 0), device)

    @cached_property
    def constraint(self) -> Constraint:
        """To actions."""
        return action_constraint(self.network)

    @torch.no_grad()
    def ask(
        self,
        views: ShownViews,
        question: str,
        situation: str = "",
        *,
        max_new_tokens: int = MAX_TOKENS,
        is_constrained: bool = False,
    ) -> Answer:
        """Greedy decoding.

        Raises:
            InputError: for an empty question, or more views than the network has codes for.
        """
        require(bool(question.strip()), "question: expected text, got none")
        count = len(views.images)
        require(1 <= count <= self.max_views, f"images: expected 1 to {self.max_views}, got {count}")
        record = QARecord((), question.strip(), (), geometry=views.geometry, situation=situation.strip())
        mask = torch.ones(count, dtype=torch.bool)
        batch = QABatch.collate([QASample(record, "", views.images, None, mask)]).to(self.device)
        inputs = scene_inputs(batch, self.network.config, self.vggt)
        processors = [self.constraint.processor([True])] if is_constrained else []
        found = self.network.answer(
            inputs, batch.questions, batch.situations, max_new_tokens=max_new_tokens, processors=processors
        )
        attention = self.network.attention(inputs)[0].float().cpu()
        return Answer(found.texts[0].strip(), found.stopped[0], attention)


def views_of_photos(paths: Sequence[str], size: int) -> ShownViews:
    """Photographs, upright as their EXIF says.

    Raises:
        InputError: for a file that is missing or no photograph.
    """
    images = [square_pixels(read_photo(Path(path), _PHOTO_SIDE).image, size) for path in paths]
    return ShownViews(torch.stack(images), None, tuple(Path(path).name for path in paths))


def views_of_scene(
    scene: PosedScene, size: int, max_views: int, *, view_ids: Sequence[int] = (), meters_per_unit: float = 1.0
) -> ShownViews:
    """Views of a posed scene with their geometry: the named ones, or so many spread evenly over all.

    Raises:
        InputError: for views that the scene does not have.
    """
    unknown = [view for view in view_ids if view not in scene.frames]
    require(not unknown, f"scene {scene.name}: expected views that it has, got {unknown[:5]}")
    chosen = list(view_ids) or evenly_spread(sorted(scene.frames), max_views)
    images = torch.stack([square_pixels(scene.image(view), size) for view in chosen])
    return ShownViews(images, scene_geometry(scene, chosen, meters_per_unit), tuple(map(str, chosen)))


def attention_picture(views: ShownViews, answer: Answer, question: str = "") -> UInt8[np.ndarray, "height width 3"]:
    """All views side by side, each cell colored by how much of it was read, with each view's share below."""
    tile = max(_MIN_TILE, views.images.shape[-1])
    strongest = max(float(answer.attention.max()), 1e-12)
    tiles = [
        _colored(image, heat / strongest, tile) for image, heat in zip(views.images, answer.attention, strict=True)
    ]
    lines = textwrap.wrap(f"{question} {answer.text}".strip(), max(20, len(tiles) * tile // 7))
    canvas = Image.new("RGB", (len(tiles) * tile, tile + _CAPTION + _TEXT * len(lines)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (picture, share) in enumerate(zip(tiles, answer.shares, strict=True)):
        canvas.paste(Image.fromarray(picture), (number * tile, 0))
        draw.text((number * tile + 4, tile + 3), f"view {number + 1}: {100 * share:.0f} %", fill="black")
    for number, line in enumerate(lines):
        draw.text((4, tile + _CAPTION + _TEXT * number), line, fill="black")
    return np.asarray(canvas)


def _colored(
    image: Float[Tensor, "3 size size"], heat: Float[Tensor, "rows cols"], tile: int
) -> UInt8[np.ndarray, "tile tile 3"]:
    sized = torch.nn.functional.interpolate(image[None], (tile, tile), mode="bilinear", align_corners=False)[0]
    weights = torch.nn.functional.interpolate(heat[None, None], (tile, tile), mode="nearest")[0, 0, ..., None]
    colors = torch.from_numpy(mpl.colormaps["inferno"](weights[..., 0].numpy())[..., :3]).float()
    return as_bytes((1 - _OPACITY * weights) * sized.permute(1, 2, 0) + _OPACITY * weights * colors)


def described(answer: Answer) -> str:
    """One line on how the answer came about."""
    shares = ", ".join(f"view {number} {100 * share:.0f} %" for number, share in enumerate(answer.shares, start=1))
    return f"read of {shares}" + ("" if answer.is_complete else "; cut off at the longest length")


def require_complete(answer: Answer) -> None:
    """Refuse an answer that was cut off.

    Raises:
        InputError: then.
    """
    if not answer.is_complete:
        raise InputError(f"answer: expected one that ends within --max_new_tokens, got {answer.text!r}")
