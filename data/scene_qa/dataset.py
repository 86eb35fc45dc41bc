"""Draws -> samples: images or cached tokens, a reference to train on, hidden views; and what ablations show instead."""

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset

from data.image_io import UnreadableFileError
from data.problems import UnreadableFiles
from data.scene_qa.feature_cache import TokenCache, Wanted
from data.scene_qa.mixing import Draw
from data.scene_qa.sources import QASource
from data.scene_qa.types import QABatch, QARecord, QASample
from data.seeds import derived_seed
from geometry import InputError, require

ABLATIONS = ("none", "zeroed", "shuffled", "first_view")
"""What is shown of a record's views: all; black images without geometry; those of another scene; the first alone."""
_MOST_REPLACED = 16
"""Records in turn that cannot be read before training stops."""
_SHUFFLE_SEED = 7
"""Of the images that other scenes get; the number itself is arbitrary."""


class Numbered(NamedTuple):
    """A sample, and which draw it is."""

    sample: QASample
    number: int


def collate(parts: Sequence[Numbered]) -> QABatch:
    """For a DataLoader."""
    return QABatch.collate([part.sample for part in parts], [part.number for part in parts])


class QADataset(Dataset[Numbered]):
    """Samples of several sources; `Draw`s index it."""

    def __init__(
        self,
        sources: Sequence[QASource],
        *,
        cache: TokenCache | None = None,
        ablation: str = "none",
        view_dropout: float = 0.0,
        unreadable: UnreadableFiles | None = None,
    ) -> None:
        """With a `cache` samples hold tokens instead of images; `fill` it first.

        `view_dropout`: probability that a view of a training sample is hidden; never all are. `unreadable` counts the
        training samples that others take the place of, since their images cannot be read.

        Raises:
            InputError: for an unknown ablation, or "shuffled" with a single scene.
        """
        require(ablation in ABLATIONS, f"expected one of {', '.join(ABLATIONS)}, got {ablation!r}")
        require(0 <= view_dropout < 1, f"--view_dropout: expected 0 or more and less than 1, got {view_dropout:g}")
        self.sources, self.cache, self.ablation, self.view_dropout = tuple(sources), cache, ablation, view_dropout
        self.unreadable = unreadable or UnreadableFiles()
        self._others = [_other_scenes(source.records) if ablation == "shuffled" else {} for source in self.sources]

    def evaluation_draws(self) -> list[Draw]:
        """Every record once, in order."""
        return [Draw(number, item) for number, source in enumerate(self.sources) for item in range(len(source.records))]

    def __getitem__(self, draw: Draw) -> Numbered:
        """The sample of a draw; in training another record of its source where images cannot be read.

        Raises:
            InputError: when as many as `_MOST_REPLACED` others in turn cannot be read either.
        """
        try:
            return self._sample(draw)
        except UnreadableFileError as error:
            if draw.seed is None:
                raise
            self.unreadable.replaced(error)
            failure = error
        rng = random.Random(derived_seed(draw.seed, 3))
        for _ in range(_MOST_REPLACED):
            with contextlib.suppress(UnreadableFileError):
                return self._sample(draw._replace(item=rng.randrange(len(self.sources[draw.source].records))))
        raise InputError(f"{failure}; expected another record to take its place, got none that can be read")

    def _sample(self, draw: Draw) -> Numbered:
        source, record = self.sources[draw.source], self.sources[draw.source].records[draw.item]
        shown = self._shown(draw.source, record)
        geometry = None if self.ablation == "zeroed" else source.geometry(shown)
        images = tokens = None
        if self.cache is None:
            images = self._images(source, shown)
        else:
            tokens = self.cache.load(self._key(source, shown))
            if tokens is None:
                self._images(source, shown)  # may be what cannot be read
                raise InputError(
                    f"record {record.id!r}: expected its tokens in {self.cache.folder}, got none; the folder was "
                    f"changed or emptied since the start of the run"
                )
        mask = self._view_mask(len(shown.images), draw.seed)
        if images is not None:
            images = images * mask[:, None, None, None]
        if tokens is not None:
            tokens = tokens * mask[:, None, None, None, None]
        sample = QASample(replace(record, geometry=geometry), _reference(record, draw.seed), images, tokens, mask)
        return Numbered(sample, draw.number)

    def wanted(self) -> list[Wanted]:
        """Everything that the cache must hold."""
        require(self.cache is not None, "expected a token cache, got none")
        found: dict[str, Wanted] = {}
        for number, source in enumerate(self.sources):
            seen: set[tuple[Path, ...]] = set()
            for record in source.records:
                if record.images in seen:
                    continue
                seen.add(record.images)
                shown = self._shown(number, record)
                key = self._key(source, shown)
                found.setdefault(key, Wanted(key, len(shown.images), _Load(self, source, shown)))
        return list(found.values())

    def _shown(self, number: int, record: QARecord) -> QARecord:
        """A record with the views that are shown."""
        if self.ablation == "first_view":
            return replace(
                record,
                images=record.images[:1],
                geometry=None if record.geometry is None else record.geometry[:1],
            )
        if self.ablation == "shuffled":
            return self._others[number][record.images]
        return record

    def _images(self, source: QASource, shown: QARecord) -> Tensor:
        images = source.images(shown)
        return torch.zeros_like(images) if self.ablation == "zeroed" else images

    def _key(self, source: QASource, shown: QARecord) -> str:
        prints = source.fingerprints(shown)
        if self.ablation == "zeroed":
            prints = (f"black:{source.size}",) * len(prints)
        return self.cache.key(prints)

    def _view_mask(self, num_views: int, seed: int | None) -> Bool[Tensor, " view"]:
        mask = torch.ones(num_views, dtype=torch.bool)
        if seed is None or self.view_dropout == 0:
            return mask
        rng = random.Random(derived_seed(seed, 1))
        kept = [view for view in range(num_views) if rng.random() >= self.view_dropout]
        kept = kept or [rng.randrange(num_views)]
        mask[:] = False
        mask[kept] = True
        return mask


class _Load:
    """The images of a record, when they are wanted."""

    def __init__(self, dataset: QADataset, source: QASource, shown: QARecord) -> None:
        self._parts = (dataset, source, shown)

    def __call__(self) -> Tensor:
        dataset, source, shown = self._parts
        return dataset._images(source, shown)


def _reference(record: QARecord, seed: int | None) -> str:
    if not record.answers:
        return ""
    return record.answers[0] if seed is None else random.Random(derived_seed(seed, 2)).choice(record.answers)


def _other_scenes(records: Sequence[QARecord]) -> dict[tuple[Path, ...], QARecord]:
    """For the images of each record a record of another scene, with as many views where there is one."""
    groups: dict[tuple[Path, ...], QARecord] = {record.images: record for record in records}
    order = sorted(groups, key=lambda images: (len(images), tuple(map(str, images))))
    random.Random(_SHUFFLE_SEED).shuffle(order)
    order.sort(key=len)
    found = {}
    for place, images in enumerate(order):
        own = groups[images]
        later = (groups[order[(place + step) % len(order)]] for step in range(1, len(order)))
        others = [one for one in later if (one.scene or one.images) != (own.scene or own.images)]
        same = [one for one in others if len(one.images) == len(images)]
        require(len(others) > 0, f"shuffled images: expected records of two scenes or more, got {own.scene!r} alone")
        found[images] = (same or others)[0]
    return found
