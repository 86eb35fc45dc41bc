"""Records of questions about scenes, and the batches that go from the loader to the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from geometry import InputError
from geometry.tensor_struct import TensorStruct

HISTOGRAM_BINS = 16
"""Equal bins between the least and the greatest valid depth of an image."""


@dataclass(frozen=True)
class ViewGeometry(TensorStruct):
    """What is known of the cameras and of the depth of views; nothing here is learned."""

    rotations: Float[Tensor, "*batch view 3 3"]
    """Camera to world, OpenCV axes."""
    translations: Float[Tensor, "*batch view 3"]
    """Camera centers in the world, meters."""
    intrinsics: Float[Tensor, "*batch view 3 3"]
    """Pixels of the original image, centers at +0.5."""
    image_size: Float[Tensor, "*batch view 2"]
    """Width and height of the original image, pixels, as the intrinsics need them."""
    depth_histogram: Float[Tensor, "*batch view 16"]
    """Shares of the valid depths in equal bins of `depth_range`; all zero where no depth is known."""
    depth_range: Float[Tensor, "*batch view 2"]
    """Least and greatest valid depth, meters; zeros where no depth is known."""

    @classmethod
    def none(cls, num_views: int) -> "ViewGeometry":
        """Stands in a batch for a sample without geometry: identities and zeros, behind a mask."""
        eye = torch.eye(3).expand(num_views, 3, 3)
        zeros = [torch.zeros(num_views, size) for size in (3, 2, HISTOGRAM_BINS, 2)]
        return cls(eye, zeros[0], eye, torch.ones_like(zeros[1]), zeros[2], zeros[3])

    def padded(self, num_views: int) -> "ViewGeometry":
        """As `none` in the views that are missing."""
        more = num_views - self.translations.shape[0]
        if more == 0:
            return self
        rest = ViewGeometry.none(more)
        return replace(
            self,
            **{
                name: torch.cat([getattr(self, name), getattr(rest, name).to(getattr(self, name).dtype)])
                for name in self.__dataclass_fields__
            },
        )


@dataclass(frozen=True)
class QARecord:
    """One question about the views of a scene, as a file or a builder gives it."""

    images: tuple[Path, ...]
    """In the order that "view 1", "view 2", ... in the texts refer to."""
    question: str
    answers: tuple[str, ...]
    """References, any of which is right; empty for a question to answer only."""
    action: dict[str, Any] | None = None
    """Of a stage-2 record, whose only reference is this object as JSON."""
    geometry: ViewGeometry | None = None
    task: str = "qa"
    """Source or kind of the question: metrics are split by it."""
    scene: str = ""
    """Splits keep scenes together."""
    id: str = ""
    """Unique within an evaluation."""
    situation: str = ""
    """Where the asker stands (SQA3D): a prompt has it before the question."""
    evidence: tuple[int, ...] = ()
    """Views, from 0, that the answer depends on, where that is known: procedural rooms."""


@dataclass(frozen=True)
class QASample:
    """A record with the pixels of its views, or with what a frozen backbone made of them."""

    record: QARecord
    answer: str
    """The reference to train on: one of `record.answers`; "" where there are none."""
    images: Float[Tensor, "view 3 height width"] | None
    features: Float[Tensor, "view layer channel rows cols"] | None
    view_mask: Bool[Tensor, " view"]
    """False: this view is hidden."""


@dataclass(frozen=True)
class QABatch(TensorStruct):
    """What a loader yields and a training step gets; shorter samples are padded with hidden views at the end.

    A view keeps its number when others are hidden. Hidden views must not reach a backbone that mixes views, nor any
    attention over tokens; their pixels and tokens are zero.
    """

    images: Float[Tensor, "batch view 3 height width"] | None
    """RGB in [0, 1]; None when tokens take their place."""
    features: Float[Tensor, "batch view layer channel rows cols"] | None
    """Patch tokens of a frozen backbone that saw all views, of the layers that the run asks for."""
    view_mask: Bool[Tensor, "batch view"]
    """True: this view is there."""
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    """The reference to train on, one per sample; "" where there is none."""
    references: tuple[tuple[str, ...], ...]
    """All references, to evaluate with."""
    situations: tuple[str, ...]
    """"" where there is none."""
    tasks: tuple[str, ...]
    scenes: tuple[str, ...]
    ids: tuple[str, ...]
    geometry: ViewGeometry
    """Whatever `none` gives where it is unknown."""
    geometry_mask: Bool[Tensor, " batch"]
    """True: the geometry of this sample is known."""
    indices: Int[Tensor, " batch"]
    """Number of the draw since the start of the run, for error messages; -1 outside training."""

    HOST_FIELDS = frozenset({"indices"})

    @property
    def num_samples(self) -> int:
        """Samples of the batch."""
        return len(self.questions)

    @classmethod
    def collate(cls, samples: Sequence[QASample], indices: Sequence[int] | None = None) -> "QABatch":
        """Pad to the most views of the samples.

        Raises:
            InputError: for images or features of different sizes.
        """
        records = [sample.record for sample in samples]
        num_views = max(len(sample.view_mask) for sample in samples)
        known = [record.geometry is not None for record in records]
        return cls(
            images=_padded([sample.images for sample in samples], num_views, records, "images"),
            features=_padded([sample.features for sample in samples], num_views, records, "features"),
            view_mask=torch.stack(
                [F.pad(sample.view_mask, (0, num_views - len(sample.view_mask))) for sample in samples]
            ),
            questions=tuple(record.question for record in records),
            answers=tuple(sample.answer for sample in samples),
            references=tuple(record.answers for record in records),
            situations=tuple(record.situation for record in records),
            tasks=tuple(record.task for record in records),
            scenes=tuple(record.scene for record in records),
            ids=tuple(record.id for record in records),
            geometry=ViewGeometry.stack(
                [
                    ViewGeometry.none(num_views) if record.geometry is None else record.geometry.padded(num_views)
                    for record in records
                ]
            ),
            geometry_mask=torch.tensor(known),
            indices=torch.tensor([-1] * len(samples) if indices is None else list(indices)),
        )


def _padded(parts: Sequence[Tensor | None], num_views: int, records: Sequence[QARecord], what: str) -> Tensor | None:
    """One tensor, zero in missing views."""
    tensors = [part for part in parts if part is not None]
    if not tensors:
        return None
    shapes = sorted({tuple(part.shape[1:]) for part in tensors})
    if len(tensors) != len(parts) or len(shapes) != 1:
        raise InputError(
            f"cannot stack {what} of records {[record.id for record in records]}: expected one size, got {shapes}"
        )
    stacked = tensors[0].new_zeros(len(tensors), num_views, *shapes[0])
    for row, part in zip(stacked, tensors, strict=True):
        row[: len(part)] = part
    return stacked
