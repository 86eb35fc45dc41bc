"""Groups of frames of one scene, which VGGT trains on and is evaluated with: keys, and sources that load them.

    GroupKey -> FrameSource.sample_many -> FrameBatch without batch axis -> ComposedFrames (photometric augmentation)

`SceneFrames` draws groups from scenes on disk for training, `FixedGroups` holds given ones for evaluation, and the
procedural stream (data/multi_view/procedural_stream.py) renders its own.
"""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import Dataset

from data.image_io import UnreadableFileError
from data.lazy import LazyMapping
from data.multi_view.augmentation import augmented
from data.multi_view.covisible_views import EDGE_THRESHOLD, SampledViews, edges, sample_views
from data.multi_view.windows import ZoomRange, load_frames
from data.problems import LeftOut, Report, UnreadableFiles, raise_problem
from data.scene import PosedScene
from data.seeds import derived_seed, evenly_spread, seeded_generator
from geometry import FrameBatch, InputError, require

_PHOTOMETRIC_STREAM, _CHOICE_STREAM, _GEOMETRY_STREAM, _SCENE_STREAM = 11, 12, 13, 14
"""Keep the random numbers of the choices apart; another number changes which samples a run sees."""
_MOST_SCENES_TRIED = 8
_PASSED_OVER = "passed over"
COVISIBILITY = "covisibility"


@dataclass(frozen=True)
class FrameSampling:
    """Among which frames of a scene the others of a group are drawn, once the first one is."""

    ratio: float | None
    """Of how many times as many frames as wanted, the nearest ones; None: of all frames of the scene."""
    covisible: float | None = None
    """Frames that are connected by covisibility above this threshold instead (data/multi_view/covisible_views.py)."""

    @classmethod
    def parse(cls, text: str) -> "FrameSampling":
        """`uniform`, `nearby:<ratio>`, `covisibility` or `covisibility:<threshold>`.

        Raises:
            InputError: naming --frame_sampling, for anything else, a ratio below 1 or a threshold out of (0, 1).
        """
        kind, _, number = text.partition(":")
        if kind == COVISIBILITY:
            return cls(None, _threshold(text, number) if number or text.endswith(":") else EDGE_THRESHOLD)
        try:
            ratio = None if text == "uniform" else float(number)
        except ValueError:
            ratio = 0.0
        is_right = text == "uniform" or (kind == "nearby" and ratio is not None and 1 <= ratio < math.inf)
        require(
            is_right,
            "--frame_sampling: expected uniform, nearby:<ratio> with a ratio of 1 or more, or covisibility, "
            f"got {text!r}",
        )
        return cls(ratio)

    def __str__(self) -> str:
        if self.covisible is not None:
            return f"{COVISIBILITY}:{self.covisible:g}"
        return "uniform" if self.ratio is None else f"nearby:{self.ratio:g}"


def _threshold(text: str, number: str) -> float:
    try:
        threshold = float(number)
    except ValueError:
        threshold = 0.0
    require(0 < threshold < 1, f"--frame_sampling: expected covisibility:<threshold> between 0 and 1, got {text!r}")
    return threshold


UNIFORM = FrameSampling(None)


@dataclass(frozen=True)
class GroupKey:
    """One group of frames that the dataset is asked for."""

    source: int
    """Which data set of a mixture."""
    item: int
    """Which sequence (or fixed group) of that data set."""
    num_frames: int
    height: int
    """Of the images to return, pixels."""
    width: int
    seed: int
    """All random choices of this group derive from it."""


@runtime_checkable
class FrameSource(Protocol):
    """Loads the groups of keys; its items are sequences of frames."""

    name: str
    """Of the data set, for the names of its groups."""

    def __len__(self) -> int:
        """Number of sequences."""

    def sample_many(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """One group per key, in order, without batch axis: views (frame, ...), `names` and
        `traits` of one entry, scalar `seeds`.

        The keys of one call share number of frames, height and width. Depth is there (0 = unknown), masks are not.
        """


@dataclass(frozen=True)
class FrameGroup:
    """Given frames of a scene; the first one is the reference of the group."""

    scene: PosedScene
    view_ids: tuple[int, ...]


class SceneFrames:
    """Random groups of frames of one scene each, from scenes on disk; geometry is augmented or not.

    A frame whose image cannot be read is passed over and said once: what it is replaced by depends on the key and on
    which images are broken, nothing else. A scene without any readable image gives way to another one, chosen alike. A
    depth map that cannot be read counts as unknown.
    """

    def __init__(
        self,
        name: str,
        scenes: Sequence[PosedScene],
        *,
        sampling: FrameSampling = FrameSampling(2.0),
        zoom: ZoomRange | None = None,
    ) -> None:
        """`zoom`: random windows; None: those of upstream's training.

        Raises:
            InputError: for no scene at all, or a scene without frames.
        """
        require(len(scenes) > 0, f"{name}: expected at least one scene to draw frames from, got none")
        for scene in scenes:
            require(len(scene.frames) > 0, f"{name}, scene {scene.name}: expected frames, got none")
            require(
                sampling.covisible is None or scene.covisibility is not None,
                f"--frame_sampling covisibility: expected scenes with covisibility, got none for {name} {scene.name}; "
                "python -m data.wai.covisibility computes it",
            )
        self.name = name
        self.scenes = tuple(scenes)
        self.sampling = sampling
        self.zoom = zoom or ZoomRange.training()
        self.unreadable = UnreadableFiles(_PASSED_OVER, f"{name}: groups without frames that cannot be read")
        self.disconnected = UnreadableFiles(
            "images repeat in its groups", f"{name}: groups with repeated images because too few are connected"
        )

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.scenes)

    def sample_many(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """See `FrameSource`. The first frame is drawn uniformly, the others as `sampling` says."""
        return [self._sample(key) for key in keys]

    def _sample(self, key: GroupKey) -> FrameBatch:
        scene, view_ids = self._readable_scene(key)
        generator = seeded_generator(derived_seed(key.seed, _GEOMETRY_STREAM))
        views = load_frames(
            scene, view_ids, key.height, key.width, zoom=self.zoom, generator=generator, report=self.unreadable.name
        )
        return FrameBatch(views, (f"{self.name}/{scene.name}",), torch.tensor(key.seed), (scene.traits,))

    def _readable_scene(self, key: GroupKey) -> tuple[PosedScene, tuple[int, ...]]:
        """The scene of a key, else the next one with readable images in an order that the key decides; its frames.

        Raises:
            InputError: when no image of so many scenes can be read that the disk has failed rather than files.
        """
        order = torch.randperm(len(self), generator=seeded_generator(derived_seed(key.seed, _SCENE_STREAM))).tolist()
        items = [key.item, *(item for item in order if item != key.item)][:_MOST_SCENES_TRIED]
        errors: list[InputError] = []
        found: tuple[PosedScene, tuple[int, ...]] | None = None
        for item in items:
            view_ids = self._readable_frames(self.scenes[item], key, errors)
            if view_ids is not None:
                found = self.scenes[item], view_ids
                break
        for number, error in enumerate(errors):  # one group, however many files
            (self.unreadable.name if number else self.unreadable.replaced)(error)
        if found is None:
            names = ", ".join(self.scenes[item].name for item in items)
            raise InputError(f"{self.name}: expected scenes with images that can be read, got none in {names}")
        return found

    def _readable_frames(
        self, scene: PosedScene, key: GroupKey, found_errors: list[InputError]
    ) -> tuple[int, ...] | None:
        """Chosen again from the same random numbers without the frames that turn out broken; None: all are."""
        broken: set[int] = set()
        while True:
            part = _restricted(scene, [view for view in scene.frames if view not in broken]) if broken else scene
            generator = seeded_generator(derived_seed(key.seed, _CHOICE_STREAM))
            try:
                view_ids = choose_frames(part, key.num_frames, self.sampling, generator)
            except UnreadableFileError as error:  # frames of Co3D have the size of any image that can be read
                found_errors.append(error)
                return None
            errors = {view: error for view in dict.fromkeys(view_ids) if (error := _image_error(scene, view))}
            if not errors:
                self._report_repeats(scene, view_ids)
                return view_ids
            found_errors += errors.values()
            broken |= set(errors)
            if len(broken) == len(scene.frames):
                return None

    def _report_repeats(self, scene: PosedScene, view_ids: Sequence[int]) -> None:
        if self.sampling.covisible is not None and len(set(view_ids)) < len(view_ids):
            wanted = f"expected connected frames above covisibility {self.sampling.covisible:g} for every group"
            self.disconnected.replaced(InputError(f"{self.name}, scene {scene.name}: {wanted}, got fewer"))


class FixedGroups:
    """Given groups, each one an item; nothing is random, nothing is cut off but what the aspect demands."""

    def __init__(self, name: str, groups: Sequence[FrameGroup], *, survives: bool = False) -> None:
        """Groups in the order in which they are numbered.

        `survives`: another frame takes the place of one that cannot be read, which is said once, so that a training
        does not end at its validation. An evaluation stops instead: its figures are those of the frames it names.
        """
        self.survives = survives
        self.unreadable = UnreadableFiles(_PASSED_OVER)
        self.name = name
        self.groups = tuple(groups)

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.groups)

    def sample_many(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """See `FrameSource`.

        Raises:
            InputError: for a number of frames other than the group's.
        """
        batches = []
        for key in keys:
            group = self.groups[key.item]
            if len(group.view_ids) != key.num_frames:
                raise InputError(
                    f"{self.name}/{group.scene.name}: expected a key for {len(group.view_ids)} frames, "
                    f"got {key.num_frames}"
                )
            views = load_frames(
                group.scene,
                _readable_group(group, self.unreadable.name) if self.survives else group.view_ids,
                key.height,
                key.width,
                zoom=ZoomRange.none(),
                generator=None,
                report=self.unreadable.name if self.survives else raise_problem,
            )
            name = f"{self.name}/{group.scene.name}"
            batches.append(FrameBatch(views, (name,), torch.tensor(key.seed), (group.scene.traits,)))
        return batches

    def image_shape(self, item: int) -> tuple[int, int]:
        """(height, width) on disk of a group's first frame."""
        group = self.groups[item]
        frame = group.scene.frames[group.view_ids[0]]
        return frame.height, frame.width


class ComposedFrames(Dataset[FrameBatch]):
    """Several sources as one dataset; indices are `GroupKey`s."""

    def __init__(self, sources: Sequence[FrameSource], *, is_augmented: bool, is_blurred: bool = False) -> None:
        """`is_augmented`: colors are jittered (data/multi_view/augmentation.py), with `is_blurred` also blurred."""
        self.sources = tuple(sources)
        self.is_augmented = is_augmented
        self.is_blurred = is_blurred

    def __len__(self) -> int:
        """Number of sequences of all sources."""
        return sum(len(source) for source in self.sources)

    def __getitem__(self, key: GroupKey) -> FrameBatch:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[GroupKey]) -> list[FrameBatch]:
        """Groups in the order of the keys; every source is asked once, so that it may work on its keys together."""
        found: dict[GroupKey, FrameBatch] = {}
        for number in sorted({key.source for key in keys}):
            mine = [key for key in keys if key.source == number]
            found |= dict(zip(mine, self.sources[number].sample_many(mine), strict=True))
        return [self._augmented(found[key]) for key in keys]

    def _augmented(self, group: FrameBatch) -> FrameBatch:
        if not self.is_augmented:
            return group
        generator = seeded_generator(derived_seed(int(group.seeds), _PHOTOMETRIC_STREAM))
        images = augmented(group.views.images, generator, is_blurred=self.is_blurred)
        return replace(group, views=replace(group.views, images=images))


def choose_frames(
    scene: PosedScene, num_frames: int, sampling: FrameSampling, generator: torch.Generator
) -> tuple[int, ...]:
    """A frame drawn uniformly (among those with depth, if any has), then others in random order, all or those near it.

    Near: in a video the frames at most int(num_frames * ratio) before or after, else the int(num_frames * ratio) best
    neighbors (docs/vggt.md, "Frames of a group"). Frames repeat only where there are too few. With a threshold of
    covisibility: connected frames of a random walk (docs/wai.md, "Sampling of views").
    """
    views = list(scene.frames)
    if sampling.covisible is not None:
        return tuple(views[at] for at in _connected(scene, num_frames, sampling.covisible, generator).views)
    shuffled = (views[i] for i in torch.randperm(len(views), generator=generator).tolist())
    anchor = next((view for view in shuffled if scene.read_depth is None or scene.has_depth(view)), views[0])
    reach = len(views) if sampling.ratio is None else int(num_frames * sampling.ratio)
    if sampling.ratio is None:
        near = [view for view in views if view != anchor]
    elif scene.is_video:
        ordered = sorted(scene.frames)
        at = ordered.index(anchor)
        near = [*ordered[max(0, at - reach) : at], *ordered[at + 1 : at + reach + 1]]
    else:
        near = list(scene.neighbors[anchor][:reach])
    others = [near[i] for i in torch.randperm(len(near), generator=generator).tolist()][: num_frames - 1]
    pool = [anchor, *near]
    while len(others) < num_frames - 1:
        others.append(pool[_below(len(pool), generator)])
    return (anchor, *others)


def evaluation_groups(
    scenes: Sequence[PosedScene],
    num_views: int,
    max_groups: int | None = None,
    *,
    trained_scans: Collection[str] = (),
    report: Report = raise_problem,
) -> list[FrameGroup]:
    """For every view of every scene the view and its `num_views - 1` best neighbors; at most `max_groups`, spread.

    Of a scan that is also trained on (a root with a single scan) only held-out views are starting points.

    Raises:
        InputError: (unless `report` collects) naming a scene with too few views, which is left out.
    """
    starts = []
    for scene in scenes:
        if len(scene.frames) < num_views:
            few = f"expected at least {num_views} views to evaluate together, got {len(scene.frames)}"
            report(LeftOut("scenes with too few views to evaluate", f"scene {scene.name}: {few}"))
            continue
        views = scene.held_out_views if scene.scan in trained_scans else tuple(scene.frames)
        starts += [(scene, view) for view in views]
    chosen = starts if max_groups is None else evenly_spread(starts, max_groups)
    return [FrameGroup(scene, (view, *scene.neighbors[view][: num_views - 1])) for scene, view in chosen]


def training_part(scenes: Sequence[PosedScene], evaluated_scans: Collection[str]) -> list[PosedScene]:
    """The scenes as far as they may be trained on: of a scan that is also evaluated the training views only."""
    return [_restricted(scene, scene.train_views) if scene.scan in evaluated_scans else scene for scene in scenes]


def _restricted(scene: PosedScene, views: Sequence[int]) -> PosedScene:
    kept = frozenset(views)
    return replace(
        scene,
        # not made now: every frame of Co3D opens a file
        frames=LazyMapping([view for view in scene.frames if view in kept], scene.frames.__getitem__),
        neighbors=LazyMapping(views, partial(_neighbors_among, scene.neighbors, kept)),
    )


def _neighbors_among(neighbors: Mapping[int, tuple[int, ...]], kept: Collection[int], view: int) -> tuple[int, ...]:
    return tuple(other for other in neighbors[view] if other in kept)


def _connected(scene: PosedScene, num_frames: int, threshold: float, generator: torch.Generator) -> SampledViews:
    """Positions among the frames of a scene that knows its covisibility."""
    neighbors = edges(scene.covisibility.among(list(scene.frames)), threshold)
    seed = int(torch.randint(2**62, (), generator=generator))
    return sample_views(neighbors, num_frames, np.random.default_rng(seed))


def _image_error(scene: PosedScene, view: int) -> InputError | None:
    """Why the image of a view cannot be used; decoded images are kept, so that this costs nothing more."""
    try:
        scene.image(view)
    except InputError as error:
        return error
    return None


def _readable_group(group: FrameGroup, report: Report) -> tuple[int, ...]:
    """The frames of a group; those that cannot be read replaced by the next best neighbors of the first one."""
    errors = {view: error for view in group.view_ids if (error := _image_error(group.scene, view))}
    for error in errors.values():
        report(error)
    if not errors:
        return group.view_ids
    others = (view for view in group.scene.neighbors[group.view_ids[0]] if view not in group.view_ids)
    spares = (view for view in others if _image_error(group.scene, view) is None)
    kept = [view for view in group.view_ids if view not in errors]
    found = [*kept, *itertools.islice(spares, len(errors))]
    if not found:
        raise next(iter(errors.values()))
    return tuple((found * len(group.view_ids))[: len(group.view_ids)])


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
