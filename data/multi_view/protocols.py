"""Which groups of frames VGGT is validated and evaluated with: named protocols."""

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from data.multi_view.sources import FrameGroup, evaluation_groups
from data.problems import LeftOut, Report, raise_problem
from data.scene import PosedScene
from data.seeds import derived_seed, evenly_spread, seeded_generator

NEIGHBORS = "neighbours"
RANDOM10 = "co3d-random10"
MOTIONS = "procedural-motions"


@dataclass(frozen=True)
class EvaluationProtocol:
    """Chooses the groups; the same ones in every run."""

    num_frames: int | None = None
    """Frames of a group; None: as many as `--eval_views` says."""
    seed: int | None = None
    """Frames are drawn from the whole scene by this seed; None: every view with its best neighbors."""
    has_histogram: bool = False
    """Published figures of this protocol are areas under a histogram of whole degrees: they are reported too."""
    is_rendered: bool = False
    """Groups come from the procedural stream instead of data on disk."""

    def groups(
        self,
        scenes: Sequence[PosedScene],
        num_views: int,
        max_groups: int | None,
        trained_scans: Collection[str],
        report: Report = raise_problem,
    ) -> list[FrameGroup]:
        """At most `max_groups`, spread over the scenes; of `trained_scans` only held-out views count.

        `num_views`: frames of a group, where the protocol leaves that open.

        Raises:
            InputError: (unless `report` collects) naming a scene with too few views, which is left out.
        """
        count = self.num_frames or num_views
        if self.seed is None:
            return evaluation_groups(scenes, count, max_groups, trained_scans=trained_scans, report=report)
        found = _random_groups(scenes, count, self.seed, trained_scans, report)
        return found if max_groups is None else evenly_spread(found, max_groups)


def _random_groups(
    scenes: Sequence[PosedScene], count: int, seed: int, trained_scans: Collection[str], report: Report
) -> list[FrameGroup]:
    """One group of every scene: frames drawn from all of it without replacement, the first one the reference.

    A scene's frames depend on the seed, its name and its views, not on which other scenes are evaluated.
    """
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
    return found


PROTOCOLS = {
    NEIGHBORS: EvaluationProtocol(),
    RANDOM10: EvaluationProtocol(num_frames=10, seed=0, has_histogram=True),
    MOTIONS: EvaluationProtocol(is_rendered=True),
}
