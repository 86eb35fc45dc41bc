"""Which target and how many views a step sees: a pure function of (seed, step), so a resumed run sees the same ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

from data.seeds import derived_seed, seeded_generator


@dataclass(frozen=True)
class SampleKey:
    """What the dataset is asked for."""

    item: int
    num_views: int
    seed: int
    """All random choices of this sample derive from it."""
    scale: float = 1.0
    """Resize factor of its images."""


class StepSampler(Sampler[list[SampleKey]]):
    """Batches of keys: a new permutation of all items per epoch, dealt to the processes of a distributed run.

    One process with `scenes_per_step` = 2 sees in each step what two processes with 1 each see together.
    """

    def __init__(
        self,
        num_items: int,
        *,
        scenes_per_step: int,
        n_views: tuple[int, int],
        scales: tuple[float, ...],
        seed: int,
        rank: int,
        world_size: int,
        next_step: Callable[[], int],
    ) -> None:
        """`next_step()` tells, whenever an iteration starts, how many optimizer steps were made before."""
        self.num_items = num_items
        self.scenes_per_step = scenes_per_step
        self.n_views = n_views
        self.scales = scales
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.next_step = next_step

    def __len__(self) -> int:
        """Steps per epoch; every item is seen at least once, the last step is filled up from the front."""
        return -(-self.num_items // (self.scenes_per_step * self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """The rest of the current epoch."""
        first = self.next_step()
        epoch = first // len(self)
        for step in range(first, (epoch + 1) * len(self)):
            yield self.keys_of(step)

    def keys_of(self, step: int) -> list[SampleKey]:
        """Keys of this process for an optimizer step, counted from the start of the run."""
        epoch, index = divmod(step, len(self))
        low, high = self.n_views
        num_views = low + self._drawn(high + 1 - low, 2, step)
        scale = self.scales[self._drawn(len(self.scales), 5, step)]
        items = self.items_of(step)
        return [
            SampleKey(items[slot], num_views, derived_seed(self.seed, 3, epoch, index * len(items) + slot), scale)
            for slot in range(len(items))[self.rank :: self.world_size]
        ]

    def items_of(self, step: int) -> list[int]:
        """Targets of an optimizer step, of all processes."""
        epoch, index = divmod(step, len(self))
        order = torch.randperm(self.num_items, generator=seeded_generator(derived_seed(self.seed, 1, epoch))).tolist()
        count = self.scenes_per_step * self.world_size
        return [order[slot % self.num_items] for slot in range(index * count, (index + 1) * count)]

    def _drawn(self, count: int, stream: int, step: int) -> int:
        """A number below `count`, the same for all processes."""
        return int(torch.randint(count, (), generator=seeded_generator(derived_seed(self.seed, stream, step))))
