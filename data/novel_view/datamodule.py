"""The Lightning data module that both radiance-field scripts share."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.image_io import UnreadableFileError
from data.novel_view.batches import cropped_batch
from data.novel_view.dataset import MultiViewDataset, Target, cross_scene_targets, pool_targets, with_sources
from data.novel_view.mixture import MixedSampler, MixedSet, mixed_steps_per_epoch, shares_of
from data.novel_view.sampler import SampleKey, StepSampler
from data.problems import Problems, UnreadableFiles, announce, shortened
from data.readers.options import ReaderOptions
from data.readers.registry import READERS, read_scenes
from data.readers.splits import Split
from data.scene import PosedScene
from data.seeds import evenly_spread, loader_settings, share_of_process
from geometry import InputError, SceneBatch, require


@dataclass(frozen=True, kw_only=True)
class NovelViewSpec:
    """Which data a run learns from, and what a step sees of them."""

    dataset_name: str
    datadir: str
    datadir_option: str = "--datadir"
    """What names the folder, for error messages."""
    scans: tuple[str, ...] = ()
    """None named: the data set's own lists."""
    is_per_scene: bool
    """One scene, its training views alone; else across scenes."""
    mix: tuple[MixedSet, ...] = ()
    """Further data sets, across scenes."""
    mix_side: int = 0
    """Longest side of their images at scale 1, pixels; larger ones are resized. 0: as they are."""
    n_views: tuple[int, int]
    """Fewest and most source views of a step."""
    extra_views: int = 2
    """Sources are drawn from so many more views than needed, of the best."""
    far_sources: float = 0.0
    color_jitter: float = 0.0
    mirrors: float = 0.0
    """See `MultiViewDataset`."""
    scenes_per_step: int = 1
    scales_train: tuple[float, ...] = (1.0,)
    """Resize factors of images; one of them is drawn for every step."""
    scale_val: float = 1.0
    num_val: int = 8
    """Validation images, spread evenly over the validation views."""
    val_views: int = 0
    """Per scene: training views that are kept for validation, neither targets nor sources of training; 0: none are."""
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    """How the data set is read."""
    seed: int = 0
    num_workers: int = 0

    def read(self, split: Split, problems: Problems | None = None, *, evaluated_only: bool = False) -> list[PosedScene]:
        """Scenes of a split; see `read_scenes`."""
        return read_scenes(
            self.dataset_name,
            self.datadir,
            split=split,
            scans=self.scans or None,
            evaluated_only=evaluated_only,
            options=self.reader,
            problems=problems,
        )

    def parts(self) -> "list[NovelViewSpec]":
        """One per data set, without others beside it: that of `dataset_name` first.

        Reader options that one of the data sets has are for those that have them.

        Raises:
            InputError: naming an option of the reader that none of the data sets has, or an unknown data set.
        """
        if not self.mix:
            return [self]
        named = [(self.dataset_name, self.datadir), *((one.dataset_name, one.datadir) for one in self.mix)]
        unknown = [name for name, _ in named if name not in READERS]
        require(not unknown, f"--mix: expected data sets among {', '.join(READERS)}, got {', '.join(unknown)}")
        every: dict[str, tuple[str, ...]] = {}
        for name, _ in named:
            for option, values in READERS[name].options.items():
                every[option] = tuple(dict.fromkeys([*every.get(option, ()), *values]))
        self.reader.require_known_to(" and ".join(dict.fromkeys(name for name, _ in named)), every)
        return [
            replace(
                self,
                dataset_name=name,
                datadir=datadir,
                datadir_option="--mix" if number else self.datadir_option,
                scans=() if number else self.scans,
                mix=(),
                mix_side=self.mix_side if number else 0,
                reader=self.reader.known_to(READERS[name].options),
            )
            for number, (name, datadir) in enumerate(named)
        ]


class SceneDataModule(pl.LightningDataModule):
    """Training and validation samples of one data set, across scenes or within one."""

    def __init__(self, spec: NovelViewSpec) -> None:
        """Scenes are found here; images are opened when they are asked for, within one scene at once.

        What is missing or cannot be used is left out, counted and listed.

        Raises:
            InputError: for no such data, or no target with as many source views as a step needs.
        """
        super().__init__()
        self.spec = spec
        self.steps_before = 0
        """Steps of the run that another task made on the same data; the next task goes on behind them."""
        self.unreadable = UnreadableFiles()
        problems = Problems()
        self.validated_on: dict[str, list[int]] = {}
        """View numbers that are kept from training for validation, by scan."""
        self.train_targets: list[Target] = []
        """Of all data sets, one after the other."""
        self.val_targets: list[Target] = []
        self.lengths: list[int] = []
        """Training targets of every data set."""
        parts = spec.parts()
        for number, part in enumerate(parts):
            if spec.is_per_scene:
                scenes = part.read("all", problems, evaluated_only=True)
                train_targets, val_targets = _per_scene(scenes, spec.val_views, problems)
                if spec.val_views:
                    self.validated_on[val_targets[0].scene.scan] = sorted(target.view_id for target in val_targets)
            else:
                train_targets, val_targets = _across_scenes(part, problems)
            train_targets = _usable(part, train_targets, "train", problems)
            self.lengths.append(len(train_targets))
            self.train_targets += train_targets
            # each data set its part of the validation, the first ones what does not divide
            count = max(1, -(-(spec.num_val - number) // len(parts)))
            self.val_targets += _validated(part, _usable(part, val_targets, "validate", problems), count, problems)
        require(
            not spec.far_sources
            or any(len(one.candidates) > spec.n_views[1] + spec.extra_views for one in self.train_targets),
            f"--far_sources {spec.far_sources:g}: expected views beside the {spec.n_views[1]} of --n_views and "
            f"{spec.extra_views} of --extra_views, got none in any scene",
        )
        self.problems = problems
        self.with_depth = sum(target.scene.has_depth(target.view_id) for target in self.train_targets)
        self._is_announced = False

    @property
    def train_scenes(self) -> dict[str, PosedScene]:
        """Scenes with a training target, by name."""
        return {target.scene.name: target.scene for target in self.train_targets}

    @property
    def has_depth(self) -> bool:
        """Whether any training target has a depth map."""
        return self.with_depth > 0

    @property
    def is_depth_partial(self) -> bool:
        """Whether a data set has depth maps and another one none at all."""
        known, first = [], 0
        for length in self.lengths:
            targets = self.train_targets[first : first + length]
            known.append(any(target.scene.has_depth(target.view_id) for target in targets))
            first += length
        return any(known) and not all(known)

    @property
    def trained_on(self) -> dict[str, list[int]]:
        """View numbers that serve as training targets, by scan."""
        views: dict[str, set[int]] = {}
        for target in self.train_targets:
            views.setdefault(target.scene.scan, set()).add(target.view_id)
        return {scan: sorted(numbers) for scan, numbers in views.items()}

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which every training target is seen; of several data sets, see `MixedSampler`."""
        per_step = self.spec.scenes_per_step * world_size
        if self.spec.mix:
            return mixed_steps_per_epoch(len(self.train_targets), shares_of(self.spec.mix), per_step)
        return -(-len(self.train_targets) // per_step)

    def try_loading(self) -> None:
        """Read one training and one validation sample, so that broken data stops a run before it leaves anything."""
        for targets in (self.train_targets, self.val_targets):
            dataset = MultiViewDataset(targets, is_random=False, unreadable=self.unreadable)
            dataset[SampleKey(0, self.spec.n_views[0], seed=0)]

    def prepare_data(self) -> None:
        """Lightning's hook at the start of a run: count and list what is left out and where depth is unknown, once."""
        if self._is_announced:
            return
        self._is_announced = True
        parts = self.spec.parts()
        where = " and ".join(f"{part.dataset_name} in {part.datadir}" for part in parts)
        self.problems.announce(where)
        if self.spec.mix:
            shares = zip(parts, shares_of(self.spec.mix), self.lengths, strict=True)
            announce(
                "steps: " + ", ".join(f"{share:.0%} {part.datadir} ({count} targets)" for part, share, count in shares)
            )
        if self.with_depth:
            known, every = (f"{count:,}".replace(",", " ") for count in (self.with_depth, len(self.train_targets)))
            announce(f"depth: {known} of {every} targets{_without_depth(self.train_targets)}")

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        """Endless in content; each iteration is the rest of an epoch, from the trainer's current step on."""
        settings: dict[str, Any] = {
            "scenes_per_step": self.spec.scenes_per_step,
            "n_views": self.spec.n_views,
            "scales": self.spec.scales_train,
            "seed": self.spec.seed,
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
            "next_step": lambda: self.steps_before + self.trainer.global_step,
        }
        sampler = (
            MixedSampler(self.lengths, shares_of(self.spec.mix), **settings)
            if self.spec.mix
            else StepSampler(len(self.train_targets), **settings)
        )
        # within one scene the same source views come back, so that their VGGT tokens need not be computed again
        dataset = MultiViewDataset(
            self.train_targets,
            is_random=not self.spec.is_per_scene,
            extra_views=self.spec.extra_views,
            far_sources=self.spec.far_sources,
            color_jitter=self.spec.color_jitter,
            mirrors=self.spec.mirrors,
            unreadable=self.unreadable,
        )
        return self._loader(dataset, batch_sampler=sampler)

    @property
    def num_val_items(self) -> int:
        """Targets that are validated on, of all processes together."""
        return len(self.val_targets)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        """The validation targets one at a time, dealt to the processes of a distributed run, equally many to each."""
        views, scale = self.spec.n_views[1], self.spec.scale_val
        every = [SampleKey(item, views, seed=0, scale=scale) for item in range(len(self.val_targets))]
        keys = share_of_process(every, self.trainer.global_rank, self.trainer.world_size)
        dataset = MultiViewDataset(self.val_targets, is_random=False, wants_mask=True, unreadable=self.unreadable)
        return self._loader(dataset, sampler=keys, batch_size=1)

    def teardown(self, stage: str) -> None:
        """Say how many samples other targets took the place of."""
        self.unreadable.summarize()

    def _loader(self, dataset: MultiViewDataset, **sampling: Any) -> DataLoader[SceneBatch]:
        return DataLoader(
            dataset,
            collate_fn=cropped_batch if self.spec.mix else SceneBatch.stack,
            **loader_settings(self.trainer.accelerator, self.spec.num_workers),
            **sampling,
        )


def _across_scenes(spec: NovelViewSpec, problems: Problems) -> tuple[list[Target], list[Target]]:
    """Training and validation targets of one data set. No view that is held out of a scene is in the former."""
    val_scenes, test_scenes, train_scenes = (
        _sized(spec.read(split, problems, evaluated_only=split != "train"), spec.mix_side)
        for split in ("val", "test", "train")
    )
    evaluated = {scene.scan for scene in [*val_scenes, *test_scenes]}
    train_targets = cross_scene_targets(train_scenes, evaluated)
    return train_targets, [target for scene in val_scenes for target in pool_targets(scene, scene.held_out_views)]


def _sized(scenes: list[PosedScene], side: int) -> list[PosedScene]:
    """Scenes whose images have at most `side` pixels along their longest side; 0: any."""
    if not side:
        return scenes
    sized = []
    for scene in scenes:
        for view in scene.frames:
            with contextlib.suppress(UnreadableFileError):
                height, width = scene.image_size(view)
                scale = min(1.0, side / max(height, width))
                scene = replace(scene, resized_to=(round(height * scale), round(width * scale)))
                break
        sized.append(scene)
    return sized


def _usable(spec: NovelViewSpec, targets: list[Target], what: str, problems: Problems) -> list[Target]:
    few = Problems()
    usable = with_sources(targets, spec.n_views[1], few.add)
    if not usable:
        why = shortened(few.lines) or f"no views to {what} on"
        raise InputError(f"{spec.datadir_option} {spec.datadir}: expected targets to {what} on, got none: {why}")
    problems.extend(few)
    return usable


def _validated(spec: NovelViewSpec, targets: list[Target], count: int, problems: Problems) -> list[Target]:
    """`count` of the targets without those that cannot be decoded: as few as these come back again and again."""
    chosen = evenly_spread(targets, count)
    decoded = (_decodable(target, spec.n_views[1], problems) for target in [*chosen, *targets])
    kept = [target for target in itertools.islice(decoded, len(chosen)) if target is not None]
    kept = kept or list(itertools.islice(filter(None, decoded), 1))
    if not kept:
        raise InputError(f"{spec.datadir_option} {spec.datadir}: expected images to validate on, got none that decode")
    return kept


def _per_scene(scenes: list[PosedScene], val_views: int, problems: Problems) -> tuple[list[Target], list[Target]]:
    """Training targets, and validation targets: as many of the training views as asked for, which training then does
    without, or else the training views themselves. Held-out files are not opened.

    Training views that cannot be decoded are left out of the scene, because every one of its targets may need them.
    """
    if len(scenes) != 1:
        names = sorted(scene.name for scene in scenes)
        raise InputError(f"--scans: expected exactly one scene to fine-tune on, got {len(scenes)}: {names}")
    (scene,) = scenes
    scene = scene.without([view for view in scene.train_views if not _reads(partial(scene.image, view), problems)])
    if not val_views:
        targets = pool_targets(scene, scene.train_views)
        return targets, targets
    if val_views >= len(scene.train_views):
        raise InputError(
            f"--val_views {val_views}: expected fewer than the {len(scene.train_views)} training views of {scene.name}"
        )
    # from the middle of equal parts, so that no view at the rim is left without neighbors around it
    ordered = sorted(scene.train_views)
    kept = [ordered[(2 * part + 1) * len(ordered) // (2 * val_views)] for part in range(val_views)]
    scene = replace(scene, train_views=tuple(view for view in scene.train_views if view not in kept))
    return pool_targets(scene, scene.train_views), pool_targets(scene, kept)


def _decodable(target: Target, num_views: int, problems: Problems) -> Target | None:
    """A target with candidates of which the first `num_views` can be decoded; None if it or too many of them cannot."""
    scene = target.scene
    depth = [partial(scene.depth, target.view_id)] if scene.has_depth(target.view_id) else []
    if not all(_reads(read, problems) for read in [partial(scene.image, target.view_id), *depth]):
        return None
    sound: list[int] = []
    for tried, candidate in enumerate(target.candidates):
        if len(sound) == num_views:
            return replace(target, candidates=(*sound, *target.candidates[tried:]))
        if _reads(partial(scene.image, candidate), problems):
            sound.append(candidate)
    return replace(target, candidates=tuple(sound)) if len(sound) == num_views else None


def _reads(read: Callable[[], object], problems: Problems) -> bool:
    """Whether a file can be decoded; if not, that is a problem."""
    try:
        read()
    except UnreadableFileError as error:
        problems.add(error)
        return False
    return True


def _without_depth(targets: Sequence[Target]) -> str:
    """Which targets have no depth map, by scan; empty if all have one."""
    views: dict[str, set[int]] = {}
    for target in targets:
        if not target.scene.has_depth(target.view_id):
            views.setdefault(target.scene.scan, set()).add(target.view_id)
    listed = [f"{scan}: {', '.join(map(str, sorted(numbers)))}" for scan, numbers in views.items()]
    return f"; none for views of {shortened(listed)}" if listed else ""
