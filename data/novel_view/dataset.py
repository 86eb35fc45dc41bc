"""Targets of radiance fields with the source views they are rendered from."""

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset

from data.image_io import UnreadableFileError
from data.novel_view.color_jitter import jittered
from data.novel_view.sampler import SampleKey
from data.problems import Report, UnreadableFiles
from data.scene import PosedScene
from data.seeds import derived_seed, seeded_generator
from data.view_selection.neighbors import nearest_by_center, select_sources, with_far_sources
from geometry import InputError, SceneBatch
from geometry.turned_views import mirrored

_MOST_REPLACED = 64
"""Targets tried in place of an unreadable one; if all of them fail, the disk has, rather than a file."""


@dataclass(frozen=True)
class Target:
    """One image to reproduce and the views that may serve as its sources, best first."""

    scene: PosedScene
    view_id: int
    candidates: tuple[int, ...]


class MultiViewDataset(Dataset[SceneBatch]):
    """Targets with source views chosen for them.

    A target for which a file cannot be read (which no check at the start can know, short of decoding everything) gives
    way to another one, a function of its key and of what is on disk alone: a resumed run sees the same.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        is_random: bool,
        extra_views: int = 2,
        far_sources: float = 0.0,
        color_jitter: float = 0.0,
        mirrors: float = 0.0,
        wants_mask: bool = False,
        unreadable: UnreadableFiles | None = None,
    ) -> None:
        """`is_random`: sources are drawn from `extra_views` more than needed of the best (training), else the best.

        `far_sources`: share of samples some of whose sources are drawn from all other candidates instead, see
        `with_far_sources`; `color_jitter`: see `jittered`; `mirrors`: share of samples that are `mirrored`.
        """
        self.targets = targets
        self.is_random = is_random
        self.extra_views = extra_views
        self.far_sources = far_sources
        self.color_jitter = color_jitter
        self.mirrors = mirrors
        self.wants_mask = wants_mask
        self.unreadable = unreadable or UnreadableFiles()
        # a batch, and the processes of a distributed run, must agree on what they hold: 0 = unknown where there is none
        self.has_depth = any(target.scene.has_depth(target.view_id) for target in targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: SampleKey) -> SceneBatch:
        """The sample of a key, or of the target that takes its place.

        Raises:
            InputError: when as many as `_MOST_REPLACED` others in turn cannot be read either.
        """
        try:
            return self._sample(self.targets[key.item], key)
        except UnreadableFileError as error:
            self.unreadable.replaced(error)
            failure = error
        for target in self._replacements(key):
            with contextlib.suppress(UnreadableFileError):
                return self._sample(target, key)
        raise InputError(f"{failure}; expected another target to take its place, got none that can be read")

    def _replacements(self, key: SampleKey) -> Iterator[Target]:
        """Other targets with images of the same size, since those of a batch must agree, in an order of their own."""
        size = _image_size(self.targets[key.item])
        order = torch.randperm(len(self.targets), generator=seeded_generator(derived_seed(key.seed, 6))).tolist()
        others = (self.targets[item] for item in order if item != key.item)
        alike = (target for target in others if size in (None, _image_size(target)))
        return itertools.islice(alike, _MOST_REPLACED)

    def _sample(self, target: Target, key: SampleKey) -> SceneBatch:
        generator = seeded_generator(key.seed) if self.is_random else None
        source_ids = select_sources(target.candidates, key.num_views, extra=self.extra_views, generator=generator)
        if self.far_sources:
            stream = seeded_generator(derived_seed(key.seed, 7))
            if float(torch.rand((), generator=stream)) < self.far_sources:
                others = target.candidates[key.num_views + self.extra_views :]
                source_ids = with_far_sources(source_ids, others, stream)
        reproduced = target.scene.views(
            [target.view_id], key.scale, wants_depth=self.has_depth, wants_mask=self.wants_mask
        )
        if self.has_depth and reproduced.depth is None:
            reproduced = replace(reproduced, depth=torch.zeros_like(reproduced.images[:, 0]))
        source = target.scene.views(source_ids, key.scale, wants_depth=False, wants_mask=False)
        if self.color_jitter:
            stream = seeded_generator(derived_seed(key.seed, 8))
            source, reproduced = jittered(source, reproduced, self.color_jitter, stream)
        if self.mirrors:
            stream = seeded_generator(derived_seed(key.seed, 9))
            if float(torch.rand((), generator=stream)) < self.mirrors:
                source, reproduced = mirrored(source), mirrored(reproduced)
        return SceneBatch(
            source=source,
            target=reproduced,
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


def with_sources(targets: Sequence[Target], num_views: int, report: Report) -> list[Target]:
    """The targets with at least `num_views` candidates; the others are reported."""
    kept = []
    for target in targets:
        if len(target.candidates) >= num_views:
            kept.append(target)
        else:
            report(
                InputError(
                    f"scene {target.scene.name}, view {target.view_id}: expected {num_views} source views (--n_views), "
                    f"got only {len(target.candidates)} other views"
                )
            )
    return kept


def _image_size(target: Target) -> tuple[int, int] | None:
    """(height, width); None if that is in an unreadable file."""
    try:
        frame = target.scene.frames[target.view_id]
    except UnreadableFileError:
        return None
    return frame.height, frame.width
