"""Which scenes and views a step sees: a pure function of (seed, step), so that a resumed run sees the same ones."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.utils.data import Dataset, Sampler

from data.base import PosedScene
from data.view_selection import nearest_by_center, select_sources
from geometry import InputError, SceneBatch, rigid_inverse

Item = TypeVar("Item")


@dataclass(frozen=True)
class SampleKey:
    """What the dataset is asked for."""

    item: int
    num_views: int
    seed: int
    """All random choices of this sample derive from it."""
    scale: float = 1.0
    """Resize factor of its images."""


def derived_seed(*parts: int) -> int:
    """A seed that changes completely when any part changes by one; the same on every machine."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = ((state ^ (part + 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state % 2**62


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
        order = torch.randperm(self.num_items, generator=_generator(derived_seed(self.seed, 1, epoch))).tolist()
        low, high = self.n_views
        num_views = torch.randint(low, high + 1, (), generator=_generator(derived_seed(self.seed, 2, step))).item()
        scale = self.scales[
            torch.randint(len(self.scales), (), generator=_generator(derived_seed(self.seed, 5, step))).item()
        ]
        slots = range(
            index * self.scenes_per_step * self.world_size, (index + 1) * self.scenes_per_step * self.world_size
        )
        mine = slots[self.rank :: self.world_size]
        return [
            SampleKey(order[slot % self.num_items], num_views, derived_seed(self.seed, 3, epoch, slot), scale)
            for slot in mine
        ]


@dataclass(frozen=True)
class Target:
    """One image to reproduce and the views that may serve as its sources, best first."""

    scene: PosedScene
    view_id: int
    candidates: tuple[int, ...]


class MultiViewDataset(Dataset[SceneBatch]):
    """Targets with source views chosen for them."""

    def __init__(self, targets: Sequence[Target], *, is_random: bool, extra_views: int = 2) -> None:
        """`is_random`: sources are drawn from `extra_views` more than needed of the best (training), else the best."""
        self.targets = targets
        self.is_random = is_random
        self.extra_views = extra_views
        # all or none: a batch, and the processes of a distributed run, must agree on what they hold
        self.has_depth = all(target.scene.has_depth(target.view_id) for target in targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: SampleKey) -> SceneBatch:
        target = self.targets[key.item]
        generator = _generator(key.seed) if self.is_random else None
        source_ids = select_sources(target.candidates, key.num_views, extra=self.extra_views, generator=generator)
        return SceneBatch(
            source=target.scene.views(source_ids, key.scale, wants_depth=False),
            target=target.scene.views([target.view_id], key.scale, wants_depth=self.has_depth),
            names=(target.scene.name,),
            seeds=torch.tensor(derived_seed(key.seed, 4)),
        )


def cross_scene_targets(scenes: Sequence[PosedScene], evaluated_scans: Collection[str]) -> list[Target]:
    """Every view of every scene, with the neighbours its data set lists.

    Of a scan that is also evaluated (a root with a single scan, LLFF, Blender) only the training views take part.
    """
    targets = []
    for scene in scenes:
        views = scene.train_views if scene.scan in evaluated_scans else tuple(scene.frames)
        allowed = frozenset(views)
        for view_id in views:
            candidates = tuple(other for other in scene.neighbors[view_id] if other in allowed)
            targets.append(Target(scene, view_id, candidates))
    return targets


def pool_targets(scene: PosedScene, view_ids: Sequence[int]) -> list[Target]:
    """Some views of a scene as targets; sources are the scene's training views, nearest first, never the target."""
    targets = []
    for view_id in view_ids:
        pool = [other for other in scene.train_views if other != view_id]
        centers = {one: rigid_inverse(scene.frames[one].w2c)[:3, 3] for one in [view_id, *pool]}
        targets.append(Target(scene, view_id, tuple(nearest_by_center(centers, view_id, pool))))
    return targets


def require_candidates(targets: Sequence[Target], num_views: int) -> None:
    """Refuse at the start what would fail in the middle of an epoch.

    Raises:
        InputError: naming the first target with fewer candidates than source views are wanted.
    """
    for target in targets:
        if len(target.candidates) < num_views:
            raise InputError(
                f"scene {target.scene.name}, view {target.view_id}: expected {num_views} source views (--n_views), "
                f"got only {len(target.candidates)} other views"
            )


def share_of_process(items: Sequence[Item], rank: int, world_size: int) -> list[Item]:
    """Every `world_size`-th item from `rank` on; processes get equally many, the last turn is filled from the front."""
    return [items[(rank + turn * world_size) % len(items)] for turn in range(-(-len(items) // world_size))]


def evenly_spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, spread over the whole list."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
