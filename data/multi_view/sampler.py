"""Which groups of frames a batch holds: a pure function of (seed, batch number), so that a resumed run sees the same.

All groups of a batch, on all processes, share the number of frames and the image size (docs/vggt.md, "Batches";
upstream draws the number per process and cannot be resumed).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import Sampler

from data.multi_view.sources import GroupKey
from data.seeds import derived_seed, seeded_generator
from geometry import require

_FRAMES_STREAM, _ASPECT_STREAM, _SOURCE_STREAM, _ITEM_STREAM, _GROUP_STREAM, _EPOCH_STREAM = 21, 22, 23, 24, 25, 26
"""Keep the random numbers of the choices apart; another number changes which batches a run sees."""
_EPSILON = 1e-6
"""Pixels: a product like 100 * 0.29, which is 28.999999999999996 in binary, counts as the integer it means."""


@dataclass(frozen=True)
class BatchShape:
    """What the groups of a batch have in common, and how many of them fit."""

    image_size: int
    """Width of the images, pixels; a multiple of the patch size. With more than two aspects: the longer side."""
    aspect: tuple[float, ...]
    """Least and greatest height / width; drawn uniformly, rounded to 0.01. More than two: one of them is drawn."""
    patch_size: int
    n_views: tuple[int, int]
    """Fewest and most frames of a group; drawn uniformly per batch."""
    max_img_per_gpu: int
    """Images that one process may hold: a batch has max(1, max_img_per_gpu // frames) groups."""

    def __post_init__(self) -> None:
        """Refuse impossible ranges.

        Raises:
            InputError: naming the option.
        """
        size, patch, (min_frames, max_frames) = self.image_size, self.patch_size, self.n_views
        low, high = (self.aspect[0], self.aspect[-1]) if len(self.aspect) == 2 else (min(self.aspect), max(self.aspect))
        require(
            size >= patch and size % patch == 0,
            f"--image_size: expected a multiple of the patch size {patch}, got {size}",
        )
        require(0 < low <= high, f"--aspect: expected height / width as low high, above 0, got {low:g} {high:g}")
        require(
            len(self.aspect) > 2 or int(size * low + _EPSILON) >= patch,
            f"--aspect: expected images at least one patch ({patch} pixels) high, got {size * low:g} at aspect {low:g}",
        )
        require(
            1 <= min_frames <= max_frames,
            f"--n_views: expected numbers of frames as low high, got {min_frames} {max_frames}",
        )
        require(
            self.max_img_per_gpu >= max_frames,
            f"--max_img_per_gpu {self.max_img_per_gpu}: expected at least the most frames of a group, "
            f"--n_views {min_frames} {max_frames}",
        )

    def size(self, aspect: float) -> tuple[int, int]:
        """(height, width) for an aspect ratio: the height is rounded down to whole patches, of a list as `fitted`."""
        if len(self.aspect) > 2:
            return self.fitted(round(aspect * 10_000), 10_000)
        return int(self.image_size * aspect + _EPSILON) // self.patch_size * self.patch_size, self.image_size

    @property
    def middle(self) -> tuple[int, int]:
        """(height, width) of images in the middle of the range or of the list."""
        ordered = sorted(self.aspect)
        return self.size(ordered[len(ordered) // 2] if len(ordered) > 2 else sum(ordered) / 2)

    def groups(self, num_frames: int) -> int:
        """Groups of so many frames in a process's batch."""
        return max(1, self.max_img_per_gpu // num_frames)

    @property
    def mean_groups(self) -> float:
        """Groups in a process's batch, on average."""
        low, high = self.n_views
        return sum(self.groups(count) for count in range(low, high + 1)) / (high - low + 1)

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) for images to evaluate: the long side is `image_size`, their aspect to a patch."""
        short = round(self.image_size * min(height, width) / max(height, width) / self.patch_size) * self.patch_size
        short = max(self.patch_size, short)
        return (short, self.image_size) if height <= width else (self.image_size, short)


class _Set(NamedTuple):
    """One group of an epoch."""

    source: int
    item: int


def turns(length: int, count: int, generator: np.random.Generator) -> Int[np.ndarray, " count"]:
    """`count` of `length` items: in an order that is drawn once, all before one comes again: 5 of 3 -> 2 0 1 2 0."""
    order = generator.permutation(length)
    return np.resize(order, count) if count > length else order[:count]


class GroupSampler(Sampler[list[GroupKey]]):
    """Batches of keys of one process of a distributed run, `batches_per_epoch` per epoch exactly.

    The groups of batch b are numbered over all processes; process r of w takes numbers r, r + w, ... So two processes
    see together what one process with twice the groups per batch sees (with the same number of frames, that is where
    2 * (max_img_per_gpu // n) == (2 * max_img_per_gpu) // n).
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[int],
        shape: BatchShape,
        *,
        batches_per_epoch: int,
        seed: int,
        rank: int,
        world_size: int,
        next_batch: Callable[[], int],
        in_turn: bool = False,
    ) -> None:
        """`lengths` and `weights` per source; `next_batch()` tells, when an iteration starts, how many were done.

        `in_turn`: groups come off one endless list of epochs, each of which has `weights` groups of every source, their
        items in turns (`turns`), in random order; so all that were drawn are used, whatever the sizes of batches, and a
        batch may hold the end of an epoch and the beginning of the next. Else every batch draws its own.

        Raises:
            InputError: for weights that are not positive or not one per source.
        """
        require(
            len(weights) == len(lengths) > 0 and all(weight > 0 for weight in weights),
            f"--len_train: expected one positive number per data set ({len(lengths)}), got {list(weights)}",
        )
        require(batches_per_epoch >= 1, f"expected at least 1 batch per epoch, got {batches_per_epoch}")
        self.lengths = tuple(lengths)
        self.weights = tuple(weights)
        self.shape = shape
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.next_batch = next_batch
        self.in_turn = in_turn
        self._reached = (0, 0)
        self._epochs: dict[int, Int[np.ndarray, "set 2"]] = {}

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[GroupKey]]:
        """The rest of the current epoch."""
        first = self.next_batch()
        end = (first // len(self) + 1) * len(self)
        for batch in range(first, end):
            yield self.keys_of(batch)

    def keys_of(self, batch: int) -> list[GroupKey]:
        """Keys of this process for a batch, counted from the start of the run."""
        num_frames, (height, width) = self._num_frames(batch), self._image_size(batch)
        count = self.shape.groups(num_frames) * self.world_size
        sets = self._in_turn(batch, count) if self.in_turn else self._drawn(batch, count)
        keys = [
            GroupKey(
                source=one.source,
                item=one.item,
                num_frames=num_frames,
                height=height,
                width=width,
                seed=derived_seed(self.seed, _GROUP_STREAM, batch, number),
            )
            for number, one in enumerate(sets)
        ]
        return keys[self.rank :: self.world_size]

    def _num_frames(self, batch: int) -> int:
        low, high = self.shape.n_views
        generator = seeded_generator(derived_seed(self.seed, _FRAMES_STREAM, batch))
        return int(torch.randint(low, high + 1, (), generator=generator))

    def _image_size(self, batch: int) -> tuple[int, int]:
        draw = torch.rand((), generator=seeded_generator(derived_seed(self.seed, _ASPECT_STREAM, batch))).item()
        if len(self.shape.aspect) > 2:
            return self.shape.size(self.shape.aspect[int(draw * len(self.shape.aspect))])
        low, high = self.shape.aspect
        return self.shape.size(min(max(round(low + (high - low) * draw, 2), low), high))

    def _drawn(self, batch: int, count: int) -> list[_Set]:
        """Sources by weight, items uniformly."""
        generator = seeded_generator(derived_seed(self.seed, _SOURCE_STREAM, batch))
        sources = torch.multinomial(
            torch.tensor(self.weights, dtype=torch.float64), count, replacement=True, generator=generator
        ).tolist()
        pools = {source: iter(self._items(source, batch, sources.count(source))) for source in set(sources)}
        return [_Set(source, next(pools[source])) for source in sources]

    def _in_turn(self, batch: int, count: int) -> list[_Set]:
        """The next `count` of the endless list."""
        total, sets, at = sum(self.weights), [], self._position(batch)
        while len(sets) < count:
            epoch, first = divmod(at + len(sets), total)
            part = self._epoch(epoch)[first : first + count - len(sets)]
            sets += [_Set(source, item) for source, item in part.tolist()]
        return sets

    def _position(self, batch: int) -> int:
        """Groups of all batches before one; counted on from the one asked for last."""
        done, position = self._reached if self._reached[0] <= batch else (0, 0)
        for one in range(done, batch):
            position += self.shape.groups(self._num_frames(one)) * self.world_size
        self._reached = (batch, position)
        return position

    def _epoch(self, epoch: int) -> Int[np.ndarray, "set 2"]:
        """(source, item) of every group of an epoch."""
        if epoch not in self._epochs:
            parts = []
            for source, (length, count) in enumerate(zip(self.lengths, self.weights, strict=True)):
                generator = np.random.default_rng(derived_seed(self.seed, _EPOCH_STREAM, epoch, source))
                items = turns(length, count, generator)
                parts.append(np.stack([np.full(count, source), items], axis=-1))
            order = np.random.default_rng(derived_seed(self.seed, _EPOCH_STREAM, epoch)).permutation(sum(self.weights))
            self._epochs = {epoch: np.concatenate(parts)[order]}  # one at a time: a large one takes megabytes
        return self._epochs[epoch]

    def _items(self, source: int, batch: int, count: int) -> list[int]:
        """Items of a source for all processes: uniform, all different as long as there are enough."""
        generator = random.Random(derived_seed(self.seed, _ITEM_STREAM, batch, source))
        length, items = self.lengths[source], []
        while len(items) < count:
            items += generator.sample(range(length), min(length, count - len(items)))
        return items
