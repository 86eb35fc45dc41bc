"""Several data sets in one training across scenes: which they are, and whose turn it is in a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch

from data.novel_view.sampler import StepSampler
from data.seeds import derived_seed, seeded_generator
from geometry import require


@dataclass(frozen=True)
class MixedSet:
    """A data set that joins the one of `--dataset_name`."""

    dataset_name: str
    datadir: str
    share: float
    """Of the steps of a run."""

    @classmethod
    def parse(cls, text: str) -> "MixedSet":
        """`<dataset_name>:<datadir>:<share>`; the folder may hold colons.

        Raises:
            InputError: naming --mix, for anything else or a share that is not between 0 and 1.
        """
        name, _, rest = text.partition(":")
        datadir, _, number = rest.rpartition(":")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        require(
            bool(name and datadir) and 0 < share < 1,
            "--mix: expected <dataset_name>:<datadir>:<share> with a share between 0 and 1, as colmap:/data/real:0.3, "
            f"got {text!r}",
        )
        return cls(name, datadir, share)


def shares_of(mixed: Sequence[MixedSet]) -> tuple[float, ...]:
    """Of all data sets; the first, that of `--dataset_name`, has what the others leave.

    Raises:
        InputError: naming --mix, if they leave nothing.
    """
    taken = sum((one.share for one in mixed), 0.0)
    require(taken < 1 - 1e-9, f"--mix: expected shares below 1 together, as the rest is --datadir's, got {taken:g}")
    return (1 - taken, *(one.share for one in mixed))


def mixed_steps_per_epoch(num_items: int, shares: Sequence[float], per_step: int) -> int:
    """As many steps as all targets together fill, and enough for every data set to have one."""
    return max(-(-num_items // per_step), math.ceil(1 / min(shares) - 1e-9))


class MixedSampler(StepSampler):
    """All targets of a step, in all processes, are from one data set; every epoch has the shares to half a step.

    The targets of a data set come in permutations that go on from epoch to epoch: none comes again before all others
    have come, whatever its data set's share.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float], **settings: Any) -> None:
        """`lengths`: targets of every data set, which are numbered one data set after the other; see `StepSampler`."""
        super().__init__(sum(lengths), **settings)
        self.lengths = tuple(lengths)
        self.shares = tuple(shares)

    def __len__(self) -> int:
        """Steps per epoch."""
        return mixed_steps_per_epoch(self.num_items, self.shares, self.scenes_per_step * self.world_size)

    def items_of(self, step: int) -> list[int]:
        """See `StepSampler`."""
        epoch, index = divmod(step, len(self))
        ends = [0, *(math.floor(share * len(self) + 0.5) for share in accumulate(self.shares))]
        turns = [source for source, (first, last) in enumerate(pairwise(ends)) for _ in range(first, last)]
        order = torch.randperm(len(self), generator=seeded_generator(derived_seed(self.seed, 7, epoch))).tolist()
        source = turns[order[index]]
        before = sum(turns[turn] == source for turn in order[:index]) + epoch * turns.count(source)
        count, length = self.scenes_per_step * self.world_size, self.lengths[source]
        places = [divmod(place, length) for place in range(before * count, (before + 1) * count)]
        return [self._shuffled(source, turn)[place] for turn, place in places]

    def _shuffled(self, source: int, turn: int) -> list[int]:
        """Items of a data set, in the order in which they come in one of their turns."""
        length, first = self.lengths[source], sum(self.lengths[:source])
        generator = seeded_generator(derived_seed(self.seed, 1, source, turn))
        return [first + item for item in torch.randperm(length, generator=generator).tolist()]
