"""Targets of radiance fields with the source views they are rendered from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from data.novel_view.sampler import SampleKey
from data.scene import PosedScene
from data.seeds import derived_seed, seeded_generator
from data.view_selection.neighbors import nearest_by_center, select_sources
from geometry import InputError, SceneBatch


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
        generator = seeded_generator(key.seed) if self.is_random else None
        source_ids = select_sources(target.candidates, key.num_views, extra=self.extra_views, generator=generator)
        return SceneBatch(
            source=target.scene.views(source_ids, key.scale, wants_depth=False),
            target=target.scene.views([target.view_id], key.scale, wants_depth=self.has_depth),
            names=(target.scene.name,),
            seeds=torch.tensor(derived_seed(key.seed, 4)),
        )


def cross_scene_targets(scenes: Sequence[PosedScene], evaluated_scans: Collection[str]) -> list[Target]:
    """Every view of every scene, with the neighbors its data set lists.

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
        centers = {one: scene.frames[one].center for one in [view_id, *pool]}
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
