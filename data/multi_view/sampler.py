"""Which groups of frames a batch holds: a pure function of (seed, batch number), so that a resumed run sees the same.

All groups of a batch, on all processes, share the number of frames and the image size (docs/vggt.md, "Batches";
upstream draws the number per process and cannot be resumed).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from data.multi_view.sources import GroupKey
from data.seeds import derived_seed, seeded_generator
from geometry import require

_FRAMES_STREAM, _ASPECT_STREAM, _SOURCE_STREAM, _ITEM_STREAM, _GROUP_STREAM = 21, 22, 23, 24, 25
"""Keep the random numbers of the choices apart; another number changes which batches a run sees."""
_EPSILON = 1e-6
"""Pixels: a product like 100 * 0.29, which is 28.999999999999996 in binary, counts as the integer it means."""


@dataclass(frozen=True)
class BatchShape:
    """What the groups of a batch have in common, and how many of them fit."""

    image_size: int
    """Width of the images, pixels; a multiple of the patch size."""
    aspect: tuple[float, float]
    """Least and greatest height / width; drawn uniformly, rounded to 0.01."""
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
        size, patch, (low, high), (min_frames, max_frames) = self.image_size, self.patch_size, self.aspect, self.n_views
        require(
            size >= patch and size % patch == 0,
            f"--image_size: expected a multiple of the patch size {patch}, got {size}",
        )
        require(0 < low <= high, f"--aspect: expected height / width as low high, above 0, got {low:g} {high:g}")
        require(
            int(size * low + _EPSILON) >= patch,
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

    def height(self, aspect: float) -> int:
        """Image height for an aspect ratio: rounded down to whole patches."""
        return int(self.image_size * aspect + _EPSILON) // self.patch_size * self.patch_size

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
    ) -> None:
        """`lengths` and `weights` per source; `next_batch()` tells, when an iteration starts, how many were done.

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
        num_frames, height = self._frames_and_height(batch)
        count = self.shape.groups(num_frames) * self.world_size
        generator = seeded_generator(derived_seed(self.seed, _SOURCE_STREAM, batch))
        sources = torch.multinomial(
            torch.tensor(self.weights, dtype=torch.float64), count, replacement=True, generator=generator
        ).tolist()
        pools = {source: iter(self._items(source, batch, sources.count(source))) for source in set(sources)}
        keys = [
            GroupKey(
                source=source,
                item=next(pools[source]),
                num_frames=num_frames,
                height=height,
                width=self.shape.image_size,
                seed=derived_seed(self.seed, _GROUP_STREAM, batch, number),
            )
            for number, source in enumerate(sources)
        ]
        return keys[self.rank :: self.world_size]

    def _frames_and_height(self, batch: int) -> tuple[int, int]:
        low, high = self.shape.n_views
        generator = seeded_generator(derived_seed(self.seed, _FRAMES_STREAM, batch))
        num_frames = int(torch.randint(low, high + 1, (), generator=generator))
        min_aspect, max_aspect = self.shape.aspect
        draw = torch.rand((), generator=seeded_generator(derived_seed(self.seed, _ASPECT_STREAM, batch))).item()
        aspect = min(max(round(min_aspect + (max_aspect - min_aspect) * draw, 2), min_aspect), max_aspect)
        return num_frames, self.shape.height(aspect)

    def _items(self, source: int, batch: int, count: int) -> list[int]:
        """Items of a source for all processes: uniform, all different as long as there are enough."""
        generator = random.Random(derived_seed(self.seed, _ITEM_STREAM, batch, source))
        length, items = self.lengths[source], []
        while len(items) < count:
            items += generator.sample(range(length), min(length, count - len(items)))
        return items
