"""Which groups of frames VGGT is validated and evaluated with: named protocols."""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from data.multi_view.sources import FrameGroup, evaluation_groups
from data.problems import LeftOut, Report, raise_problem
from data.scene import PosedScene
from data.seeds import derived_seed, evenly_spread, seeded_generator

NEIGHBORS = "neighbours"
RANDOM10 = "co3d-random10"


class EvaluationProtocol(Protocol):
    """Chooses the groups; the same ones in every run."""

    @property
    def num_frames(self) -> int | None:
        """Frames of a group; None: as many as `--eval_views` says."""

    @property
    def seed(self) -> int | None:
        """Of the choice; None: nothing is random."""

    @property
    def has_histogram(self) -> bool:
        """Published figures of this protocol are areas under a histogram of whole degrees: they are reported too."""

    def groups(
        self,
        scenes: Sequence[PosedScene],
        num_views: int,
        max_groups: int | None,
        trained_scans: Collection[str],
        report: Report = raise_problem,
    ) -> list[FrameGroup]:
        """At most `max_groups`, spread over the scenes; of `trained_scans` only held-out views count.

        Raises:
            InputError: (unless `report` collects) naming a scene with too few views, which is left out.
        """


@dataclass(frozen=True)
class Neighbors:
    """Every view of every scene with its best neighbors."""

    num_frames: int | None = None
    seed: int | None = None
    has_histogram: bool = False

    def groups(
        self,
        scenes: Sequence[PosedScene],
        num_views: int,
        max_groups: int | None,
        trained_scans: Collection[str],
        report: Report = raise_problem,
    ) -> list[FrameGroup]:
        """See `evaluation_groups`."""
        return evaluation_groups(scenes, num_views, max_groups, trained_scans=trained_scans, report=report)


@dataclass(frozen=True)
class RandomFrames:
    """One group of every scene: frames drawn from all of it without replacement, the first one the reference.

    A scene's frames depend on the seed, its name and its views, not on which other scenes are evaluated.
    """

    num_frames: int | None = 10
    seed: int | None = 0
    has_histogram: bool = True

    def groups(
        self,
        scenes: Sequence[PosedScene],
        num_views: int,
        max_groups: int | None,
        trained_scans: Collection[str],
        report: Report = raise_problem,
    ) -> list[FrameGroup]:
        """See `EvaluationProtocol`; `num_views` does nothing."""
        count, seed = self.num_frames or num_views, self.seed or 0
        found = []
        for scene in scenes:
            is_trained = scene.scan in trained_scans
            views = list(scene.held_out_views if is_trained else scene.frames)
            kind = "held-out views" if is_trained else "views"
            if len(views) < count:
                few = f"expected at least {count} {kind} to draw a group from, got {len(views)}"
                report(LeftOut("scenes with too few views to evaluate", f"scene {scene.name}: {few}"))
                continue
            generator = seeded_generator(derived_seed(seed, zlib.crc32(scene.name.encode())))
            order = torch.randperm(len(views), generator=generator)[:count].tolist()
            found.append(FrameGroup(scene, tuple(views[at] for at in order)))
        return found if max_groups is None else evenly_spread(found, max_groups)


PROTOCOLS: dict[str, EvaluationProtocol] = {NEIGHBORS: Neighbors(), RANDOM10: RandomFrames()}
