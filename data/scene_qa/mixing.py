"""Which record a training sample is: a pure function of (seed, number of the draw), so that a run can go on anywhere.

Out of every 100 draws each data set gets its share exactly, at places that differ from hundred to hundred; each data
set is walked through in permutations of its own, so no record comes again before all have come. Batches take
consecutive draws, dealt to the processes in turn: w processes see together what one with w times the batch sees.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from torch.utils.data import Sampler

from data.seeds import derived_seed
from geometry import require

BLOCK = 100
"""Draws over which the shares are exact."""
_SLOT_STREAM, _ORDER_STREAM, _SAMPLE_STREAM = 81, 82, 83


class Draw(NamedTuple):
    """A sample to load."""

    source: int
    item: int
    seed: int | None = None
    """Of the choices made for a training sample; None: to evaluate with, nothing is random."""
    number: int = -1
    """Of the draw since the start of the run."""


def shares(weights: Sequence[float]) -> tuple[int, ...]:
    """Draws out of `BLOCK` for each weight; what rounding leaves goes to the largest remainders.

    Raises:
        InputError: for weights that are not positive, or too small to get one draw.
    """
    require(
        len(weights) > 0 and all(0 < weight < float("inf") for weight in weights),
        f"--weights: expected positive numbers, got {list(weights)}",
    )
    exact = [BLOCK * weight / sum(weights) for weight in weights]
    counts = [int(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda number: counts[number] - exact[number])
    for number in order[: BLOCK - sum(counts)]:
        counts[number] += 1
    require(min(counts) > 0, f"--weights: expected at least 1 of {BLOCK} draws for each data set, got {counts}")
    return tuple(counts)


class Mixture:
    """Numbered draws from several lists."""

    def __init__(self, lengths: Sequence[int], weights: Sequence[float], seed: int) -> None:
        """One length and one weight for each list.

        Raises:
            InputError: as `shares`, and for an empty list.
        """
        require(
            len(lengths) == len(weights), f"--weights: expected one per data set ({len(lengths)}), got {len(weights)}"
        )
        require(all(length > 0 for length in lengths), f"expected records in every data set, got {list(lengths)}")
        self.lengths, self.seed = tuple(lengths), seed
        self.shares = shares(weights)
        self._block = lru_cache(maxsize=4)(self._block_of)
        self._order = lru_cache(maxsize=2 * len(lengths))(self._order_of)

    def draw(self, number: int) -> Draw:
        """Draw `number`, counted from 0."""
        block, slot = divmod(number, BLOCK)
        source, rank = self._block(block)[slot]
        turn, place = divmod(block * self.shares[source] + rank, self.lengths[source])
        item = self._order(source, turn)[place]
        return Draw(source, item, derived_seed(self.seed, _SAMPLE_STREAM, number), number)

    def _block_of(self, block: int) -> list[tuple[int, int]]:
        """For each place the data set, and how many of its draws come before in the block."""
        places = [source for source, count in enumerate(self.shares) for _ in range(count)]
        random.Random(derived_seed(self.seed, _SLOT_STREAM, block)).shuffle(places)
        before = [0] * len(self.shares)
        found = []
        for source in places:
            found.append((source, before[source]))
            before[source] += 1
        return found

    def _order_of(self, source: int, turn: int) -> list[int]:
        order = list(range(self.lengths[source]))
        random.Random(derived_seed(self.seed, _ORDER_STREAM, source, turn)).shuffle(order)
        return order


class DrawSampler(Sampler[list[Draw]]):
    """Batches of one process, `batches_per_epoch` per epoch exactly."""

    def __init__(
        self,
        mixture: Mixture,
        batch_size: int,
        *,
        batches_per_epoch: int,
        rank: int,
        world_size: int,
        next_batch: Callable[[], int],
    ) -> None:
        """`next_batch()` tells, when an iteration starts, how many batches were done since the start of the run."""
        require(batches_per_epoch >= 1, f"expected at least 1 batch per epoch, got {batches_per_epoch}")
        self.mixture, self.batch_size, self.batches_per_epoch = mixture, batch_size, batches_per_epoch
        self.rank, self.world_size, self.next_batch = rank, world_size, next_batch

    def __len__(self) -> int:
        """Batches per epoch."""
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[Draw]]:
        """The rest of the current epoch."""
        first = self.next_batch()
        end = (first // len(self) + 1) * len(self)
        for batch in range(first, end):
            yield self.draws_of(batch)

    def draws_of(self, batch: int) -> list[Draw]:
        """Draws of this process for a batch, counted from the start of the run."""
        start = batch * self.batch_size * self.world_size
        numbers = range(start + self.rank, start + self.batch_size * self.world_size, self.world_size)
        return [self.mixture.draw(number) for number in numbers]
