"""The Lightning data module VGGT trains from: a mixture of sources, and fixed groups to evaluate with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.multi_view.procedural_stream import ENDLESS, MotionGroups, ProceduralFrames
from data.multi_view.protocols import NEIGHBORS, PROTOCOLS
from data.multi_view.sampler import BatchShape, GroupSampler
from data.multi_view.sources import (
    UNIFORM,
    ComposedFrames,
    FixedGroups,
    FrameSampling,
    FrameSource,
    GroupKey,
    SceneFrames,
    training_part,
)
from data.multi_view.windows import ZoomRange
from data.problems import Problems, announce
from data.procedural.motions import MotionMix
from data.readers.registry import READERS, read_scenes
from data.scene import PosedScene
from data.seeds import derived_seed, evenly_spread, loader_settings, share_of_process
from geometry import FrameBatch, require

PROCEDURAL = "procedural"
"""The data set name of the stream of rendered scenes; it has no folder."""
DEFAULT_RATIO = 8.0
"""Frames near the first one are drawn from so many times as many as wanted, as upstream does in Virtual KITTI."""
_VALIDATION_STREAM = 31
"""Keeps seeds of validation apart from those of training; the number itself is arbitrary."""
_MADE_GROUPS = 64
"""Evaluation groups of a source that renders endlessly, where no number is given."""

Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True)
class MultiViewSpec:
    """Which data sets a run mixes, and what its batches look like."""

    dataset_names: tuple[str, ...]
    """`procedural` is the stream of rendered scenes."""
    datadirs: tuple[str, ...]
    """Root folder of each; anything for `procedural`."""
    scans: tuple[str, ...] = ()
    """Of the one data set on disk; none named: its own lists."""
    shape: BatchShape
    len_train: tuple[int, ...] = ()
    """Groups per epoch from each data set."""
    annotation_dirs: tuple[str, ...] = ()
    """Of each data set: the folder of its annotations, `-` or "": in the root. None: all in their roots."""
    sampling: tuple[FrameSampling, ...] = ()
    """Of each data set; none given: `sampling_of` nothing."""
    protocol: str = NEIGHBORS
    """How the groups to validate or evaluate with are chosen (data/multi_view/protocols.py)."""
    needs_depth: bool = True
    """Something is trained that learns from depth only."""
    num_val: int | None = None
    """At most so many groups to validate with, spread over all data sets; None: all, 64 of `procedural`."""
    val_views: int = 4
    """Frames of a validation group."""
    in_turn: bool = False
    """Scenes are trained on in turns, none again before all others came; else drawn anew for every batch."""
    seed: int = 0
    num_workers: int = 0
    is_augmented: bool = False
    """Colors of training images are jittered."""
    is_blurred: bool = False
    """Some of them are blurred as well."""
    is_geometry_augmented: bool = False
    """Training images on disk are cropped and zoomed at random."""
    turns_portraits: bool = False
    """Upright training images on disk are turned at random."""
    procedural_scenes: int = 0
    """Number of procedural scenes, which are reused; 0: every group shows a new one."""
    procedural_mix: MotionMix | None = None
    """Kinds of motion of the procedural scenes that are trained on; None: DTU's rig and alike."""
    procedural_sensor: float = 0.0
    """Share of their groups that go through a sensor model."""
    render_device: str = "cpu"
    """Of procedural scenes."""


class FrameDataModule(pl.LightningDataModule):
    """Training batches that fit the image budget, and validation groups one at a time."""

    def __init__(
        self, spec: MultiViewSpec, train_sources: Sequence[FrameSource], val_sources: Sequence[FrameSource]
    ) -> None:
        """No `train_sources`: for evaluation only.

        Raises:
            InputError: for nothing to validate with.
        """
        super().__init__()
        self.spec = spec
        self.train_sources = tuple(train_sources)
        self.val_sources = tuple(val_sources)
        self.val_keys = self._spread_val_keys(spec.num_val)
        require(len(self.val_keys) > 0, "expected at least one group of frames to validate with, got none")

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which `len_train` groups are seen, on average over their random numbers of frames."""
        return math.ceil(sum(self.spec.len_train) / (self.spec.shape.mean_groups * world_size))

    def sampler(self, rank: int = 0, world_size: int = 1) -> GroupSampler:
        """Chooses the training batches of a process."""
        return GroupSampler(
            [len(source) for source in self.train_sources],
            self.spec.len_train,
            self.spec.shape,
            batches_per_epoch=self.steps_per_epoch(world_size),
            seed=self.spec.seed,
            rank=rank,
            world_size=world_size,
            next_batch=lambda: self.trainer.global_step,
            in_turn=self.spec.in_turn,
        )

    def train_frames(self) -> ComposedFrames:
        """Dataset that the training keys index."""
        spec = self.spec
        return ComposedFrames(self.train_sources, is_augmented=spec.is_augmented, is_blurred=spec.is_blurred)

    def val_frames(self) -> ComposedFrames:
        """Dataset that `val_keys` index."""
        return ComposedFrames(self.val_sources, is_augmented=False)

    @property
    def num_val_items(self) -> int:
        """Groups that are validated on, of all processes together."""
        return len(self.val_keys)

    def train_dataloader(self) -> DataLoader[FrameBatch]:
        """Endless in content; each iteration is the rest of an epoch, from the trainer's current step on."""
        sampler = self.sampler(self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.train_frames(), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[FrameBatch]:
        """The validation groups one at a time, dealt to the processes of a distributed run, equally many to each."""
        mine = share_of_process(self.val_keys, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.val_frames(), sampler=mine, batch_size=1)

    def teardown(self, stage: str) -> None:
        """Say how many training groups lack frames that cannot be read, or repeat some."""
        for source in self.train_sources:
            if isinstance(source, SceneFrames):
                source.unreadable.summarize()
                source.disconnected.summarize()

    def _loader(self, dataset: ComposedFrames, **sampling: Any) -> DataLoader[FrameBatch]:
        return DataLoader(
            dataset,
            collate_fn=FrameBatch.stack,
            **loader_settings(self.trainer.accelerator, self.spec.num_workers),
            **sampling,
        )

    def _spread_val_keys(self, num_val: int | None) -> list[GroupKey]:
        keys = [
            self._val_key(number, item)
            for number, source in enumerate(self.val_sources)
            for item in evenly_spread(range(len(source)), self._max_val_groups(source, num_val))
        ]
        return keys if num_val is None else evenly_spread(keys, num_val)

    @staticmethod
    def _max_val_groups(source: FrameSource, num_val: int | None) -> int:
        if num_val is not None:
            return num_val
        return len(source) if len(source) < ENDLESS else _MADE_GROUPS

    def _val_key(self, number: int, item: int) -> GroupKey:
        source = self.val_sources[number]
        if isinstance(source, FixedGroups):
            height, width = self.spec.shape.fitted(*source.image_shape(item))
            num_frames = len(source.groups[item].view_ids)
        else:
            # a source that makes its images takes any size: the middle of the range
            height, width = self.spec.shape.middle
            num_frames = self.spec.val_views
        # not from the run's seed: validation is the same for every run
        return GroupKey(number, item, num_frames, height, width, derived_seed(_VALIDATION_STREAM, number, item))


def build_frame_data(spec: MultiViewSpec) -> FrameDataModule:
    """Training and validation data of a mixture of data sets.

    Raises:
        InputError: naming the option, for lists that do not match, an unreadable data set, or one without depth.
    """
    _check_lists(spec)
    require(
        len(spec.len_train) == len(spec.dataset_names),
        f"--len_train: expected one number per data set ({len(spec.dataset_names)}), got {len(spec.len_train)}",
    )
    train_sources: list[FrameSource] = []
    val_sources: list[FrameSource] = []
    zoom = ZoomRange.training(turns_portraits=spec.turns_portraits)
    zoom = zoom if spec.is_geometry_augmented else ZoomRange.none()
    protocol, has_depth = PROTOCOLS[spec.protocol], []
    sampling = spec.sampling or sampling_of(spec.dataset_names)
    for number, (name, datadir) in enumerate(zip(spec.dataset_names, spec.datadirs, strict=True)):
        if name == PROCEDURAL:
            train_sources.append(
                ProceduralFrames(
                    seed=spec.seed,
                    num_scenes=spec.procedural_scenes,
                    device=spec.render_device,
                    mix=spec.procedural_mix,
                    sensor=spec.procedural_sensor,
                )
            )
            val_sources.append(_held_out_stream(spec))
            has_depth.append(True)
            continue
        problems = Problems()
        train, val = _read_both(name, datadir, spec.scans, _entry(spec.annotation_dirs, number, ""), problems)
        has_depth.append(any(scene.read_depth for scene in train))
        train_sources.append(SceneFrames(name, train, sampling=sampling[number], zoom=zoom))
        trained_scans = {scene.scan for scene in train}
        groups = protocol.groups(val, spec.val_views, spec.num_val, trained_scans, problems.add)
        problems.announce(f"{name} in {datadir}")
        val_sources.append(FixedGroups(name, groups, survives=True))
    require(
        any(has_depth) or not spec.needs_depth,
        f"--dataset_name {' '.join(spec.dataset_names)}: expected depth maps to train on in "
        f"{' or '.join(spec.datadirs)}, got none; without them only cameras can be trained (--depth_weight 0)",
    )
    for name, datadir, is_known in zip(spec.dataset_names, spec.datadirs, has_depth, strict=True):
        if not is_known:
            announce(f"{name} in {datadir}: no depth maps, its groups train the cameras only")
    return FrameDataModule(spec, train_sources, val_sources)


def sampling_of(
    dataset_names: Sequence[str], texts: Sequence[str] = (), ratios: Sequence[float] = ()
) -> tuple[FrameSampling, ...]:
    """How frames of each data set are drawn, from `--frame_sampling`, else from `--expand_ratio` (one value: for all).

    Where nothing is said: as upstream in Co3D (`uniform`) and Virtual KITTI (`nearby:8`), elsewhere like the latter.

    Raises:
        InputError: naming --frame_sampling.
    """
    given = [FrameSampling.parse(text) for text in texts] or [FrameSampling(ratio) for ratio in ratios]
    if not given:
        return tuple(UNIFORM if name == "co3d" else FrameSampling(DEFAULT_RATIO) for name in dataset_names)
    return tuple(given * len(dataset_names) if len(given) == 1 else given)


def build_evaluation_data(spec: MultiViewSpec) -> FrameDataModule:
    """Only groups to evaluate: every view of the asked-for scans (default: the test split) with its neighbors.

    Raises:
        InputError: naming the option, for lists that do not match or an unreadable data set.
    """
    _check_lists(spec)
    sources: list[FrameSource] = []
    for number, (name, datadir) in enumerate(zip(spec.dataset_names, spec.datadirs, strict=True)):
        if name == PROCEDURAL:
            sources.append(_held_out_stream(spec))
            continue
        problems = Problems()
        scenes = read_scenes(
            name,
            datadir,
            problems=problems,
            split="test",
            scans=spec.scans or None,
            evaluated_only=True,
            annotation_dir=_entry(spec.annotation_dirs, number, ""),
        )
        groups = PROTOCOLS[spec.protocol].groups(scenes, spec.val_views, spec.num_val, (), problems.add)
        problems.announce(f"{name} in {datadir}")
        sources.append(FixedGroups(name, groups))
    return FrameDataModule(spec, (), sources)


def _check_lists(spec: MultiViewSpec) -> None:
    count, given = len(spec.dataset_names), len(spec.datadirs)
    require(
        given == count > 0, f"--datadir: expected one folder per data set ({count}; - for {PROCEDURAL}), got {given}"
    )
    on_disk = [name for name in spec.dataset_names if name != PROCEDURAL]
    unknown = [name for name in on_disk if name not in READERS]
    require(
        not unknown, f"--dataset_name: expected some of {', '.join([*sorted(READERS), PROCEDURAL])}, got {unknown[:1]}"
    )
    require(
        not spec.scans or len(on_disk) == 1,
        f"--scans: expected exactly one data set on disk beside it, got {len(on_disk)}",
    )
    require(
        spec.protocol == NEIGHBORS or PROTOCOLS[spec.protocol].is_rendered or PROCEDURAL not in spec.dataset_names,
        f"--eval_protocol {spec.protocol}: expected data sets on disk, got {PROCEDURAL}",
    )
    require(
        not (PROTOCOLS[spec.protocol].is_rendered and on_disk),
        f"--eval_protocol {spec.protocol}: expected --dataset_name {PROCEDURAL} only, got {on_disk[:1]}",
    )
    require(
        spec.render_device == "cpu" or spec.num_workers == 0 or PROCEDURAL not in spec.dataset_names,
        f"--num_workers {spec.num_workers}: expected 0 with {PROCEDURAL} scenes rendered on {spec.render_device}",
    )


def _held_out_stream(spec: MultiViewSpec) -> ProceduralFrames | MotionGroups:
    """Scenes that no run trains on, the same for every run."""
    make = MotionGroups if PROTOCOLS[spec.protocol].is_rendered else ProceduralFrames
    return make(seed=derived_seed(_VALIDATION_STREAM), device=spec.render_device)


def _read_both(
    name: str, datadir: str, named: tuple[str, ...], annotation_dir: str, problems: Problems
) -> tuple[list[PosedScene], list[PosedScene]]:
    """Scenes to train on and to validate with; of a scan in both the training views are the former's."""
    read = partial(read_scenes, name, datadir, scans=named or None, annotation_dir=annotation_dir, problems=problems)
    val, test = (read(split=split, evaluated_only=True) for split in ("val", "test"))
    train = training_part(read(split="train"), {scene.scan for scene in [*val, *test]})
    return train, val


def _entry(values: Sequence[Entry], number: int, default: Entry) -> Entry:
    """What is given for a data set; `default` where nothing is given for any."""
    return values[number] if values else default
