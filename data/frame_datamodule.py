"""The Lightning data module VGGT trains from: a mixture of sources, and fixed groups to evaluate with."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.base import PosedScene
from data.datamodule import loader_settings, read_scenes
from data.dtu import EVALUATION_LIGHTS
from data.frame_groups import (
    ComposedFrames,
    FixedGroups,
    FrameSource,
    GroupKey,
    SceneFrames,
    evaluation_groups,
    training_part,
)
from data.frame_sampling import BatchShape, GroupSampler
from data.procedural.stream import ProceduralFrames
from data.readers import READERS
from data.sampling import derived_seed, evenly_spread, share_of_process
from geometry import FrameBatch, InputError, require

PROCEDURAL = "procedural"
"""The data set name of the stream of rendered scenes; it has no folder."""
_VALIDATION_STREAM = 31
_MADE_GROUPS = 64
"""Evaluated of a source that makes its images and so has no end, unless a number is asked for."""


class FrameDataModule(pl.LightningDataModule):
    """Training batches that fit the image budget, and validation groups one at a time."""

    def __init__(
        self,
        *,
        train_sources: Sequence[FrameSource],
        len_train: Sequence[int],
        val_sources: Sequence[FrameSource],
        shape: BatchShape,
        num_val: int | None,
        val_views: int,
        seed: int,
        num_workers: int,
        is_augmented: bool,
    ) -> None:
        """`len_train`: groups per epoch from each of `train_sources`; none of these: for evaluation only.

        `num_val` groups at most are taken to validate with, spread over all of `val_sources`; None: all, and 64 of
        sources that make their images. Those of the latter have `val_views` frames.

        Raises:
            InputError: for nothing to validate with.
        """
        super().__init__()
        self.train_sources = tuple(train_sources)
        self.len_train = tuple(len_train)
        self.val_sources = tuple(val_sources)
        self.shape = shape
        self.val_views = val_views
        self.seed = seed
        self.num_workers = num_workers
        self.is_augmented = is_augmented
        self.val_keys = self._spread_val_keys(num_val)
        require(len(self.val_keys) > 0, "expected at least one group of frames to validate with, got none")

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which `len_train` groups are seen, on average over their random numbers of frames."""
        return math.ceil(sum(self.len_train) / (self.shape.mean_groups * world_size))

    def sampler(self, rank: int = 0, world_size: int = 1) -> GroupSampler:
        """What decides the training batches of a process."""
        return GroupSampler(
            [len(source) for source in self.train_sources],
            self.len_train,
            self.shape,
            batches_per_epoch=self.steps_per_epoch(world_size),
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            next_batch=lambda: self.trainer.global_step,
        )

    def train_frames(self) -> ComposedFrames:
        """What answers the training keys."""
        return ComposedFrames(self.train_sources, is_augmented=self.is_augmented)

    def val_frames(self) -> ComposedFrames:
        """What answers `val_keys`."""
        return ComposedFrames(self.val_sources, is_augmented=False)

    def train_dataloader(self) -> DataLoader[FrameBatch]:
        """Endless in content; each iteration is the rest of an epoch, from the trainer's current step on."""
        sampler = self.sampler(self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.train_frames(), batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[FrameBatch]:
        """The validation groups one at a time, dealt to the processes of a distributed run, equally many to each."""
        mine = share_of_process(self.val_keys, self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.val_frames(), sampler=mine, batch_size=1)

    def _loader(self, dataset: ComposedFrames, **sampling: Any) -> DataLoader[FrameBatch]:
        return DataLoader(
            dataset,
            collate_fn=FrameBatch.stack,
            **loader_settings(self.trainer.accelerator, self.num_workers),
            **sampling,
        )

    def _spread_val_keys(self, num_val: int | None) -> list[GroupKey]:
        keys = [
            self._val_key(number, item)
            for number, source in enumerate(self.val_sources)
            for item in evenly_spread(range(len(source)), self._most_val_groups(source, num_val))
        ]
        return keys if num_val is None else evenly_spread(keys, num_val)

    @staticmethod
    def _most_val_groups(source: FrameSource, num_val: int | None) -> int:
        if num_val is not None:
            return num_val
        return len(source) if isinstance(source, FixedGroups) else _MADE_GROUPS

    def _val_key(self, number: int, item: int) -> GroupKey:
        source = self.val_sources[number]
        if isinstance(source, FixedGroups):
            height, width = self.shape.fitted(*source.image_shape(item))
            num_frames = len(source.groups[item].view_ids)
        else:
            # a source that makes its images takes any size: the middle of the range
            height, width = self.shape.height(sum(self.shape.aspect) / 2), self.shape.image_size
            num_frames = self.val_views
        # not from the run's seed: validation is the same for every run
        return GroupKey(number, item, num_frames, height, width, derived_seed(_VALIDATION_STREAM, number, item))


def build_frame_data(
    *,
    dataset_names: Sequence[str],
    datadirs: Sequence[str],
    len_train: Sequence[int],
    scans: tuple[str, ...] | None,
    shape: BatchShape,
    expand_ratio: float,
    num_val: int,
    val_views: int,
    seed: int,
    num_workers: int,
    is_augmented: bool,
    is_geometry_augmented: bool,
    procedural_scenes: int = 0,
    render_device: str = "cpu",
) -> FrameDataModule:
    """Training and validation data of a mixture of data sets by name; `procedural` is the stream of rendered scenes.

    Raises:
        InputError: naming the option, for lists that do not match, an unreadable data set, or one without depth.
    """
    _check_lists(dataset_names, datadirs, scans, num_workers, render_device)
    require(
        len(len_train) == len(dataset_names),
        f"--len_train: expected one number per data set ({len(dataset_names)}), got {len(len_train)}",
    )
    train_sources: list[FrameSource] = []
    val_sources: list[FrameSource] = []
    for name, datadir in zip(dataset_names, datadirs, strict=True):
        if name == PROCEDURAL:
            train_sources.append(ProceduralFrames(seed=seed, num_scenes=procedural_scenes, device=render_device))
            val_sources.append(_held_out_stream(render_device))
            continue
        train, val = _read_both(name, datadir, scans)
        train_sources.append(SceneFrames(name, train, expand_ratio=expand_ratio, is_augmented=is_geometry_augmented))
        groups = evaluation_groups(val, val_views, num_val, trained_scans={scene.scan for scene in train})
        val_sources.append(FixedGroups(name, groups))
    return FrameDataModule(
        train_sources=train_sources,
        len_train=len_train,
        val_sources=val_sources,
        shape=shape,
        num_val=num_val,
        val_views=val_views,
        seed=seed,
        num_workers=num_workers,
        is_augmented=is_augmented,
    )


def build_evaluation_data(
    *,
    dataset_names: Sequence[str],
    datadirs: Sequence[str],
    scans: tuple[str, ...] | None,
    shape: BatchShape,
    num_val: int | None,
    val_views: int,
    num_workers: int,
    render_device: str = "cpu",
) -> FrameDataModule:
    """Only groups to evaluate: every view of the asked-for scans (default: the test split) with its neighbours.

    `num_val`: at most so many, spread evenly; None: all.

    Raises:
        InputError: naming the option, for lists that do not match or an unreadable data set.
    """
    _check_lists(dataset_names, datadirs, scans, num_workers, render_device)
    sources: list[FrameSource] = []
    for name, datadir in zip(dataset_names, datadirs, strict=True):
        if name == PROCEDURAL:
            sources.append(_held_out_stream(render_device))
            continue
        scenes = read_scenes(name, datadir, split="test", scans=scans or None, lights=EVALUATION_LIGHTS)
        sources.append(FixedGroups(name, evaluation_groups(scenes, val_views, num_val)))
    return FrameDataModule(
        train_sources=(),
        len_train=(),
        val_sources=sources,
        shape=shape,
        num_val=num_val,
        val_views=val_views,
        seed=0,
        num_workers=num_workers,
        is_augmented=False,
    )


def _check_lists(
    dataset_names: Sequence[str],
    datadirs: Sequence[str],
    scans: tuple[str, ...] | None,
    num_workers: int,
    render_device: str,
) -> None:
    require(
        len(datadirs) == len(dataset_names) > 0,
        f"--datadir: expected one folder per data set ({len(dataset_names)}; - for {PROCEDURAL}), got {len(datadirs)}",
    )
    on_disk = [name for name in dataset_names if name != PROCEDURAL]
    unknown = [name for name in on_disk if name not in READERS]
    require(
        not unknown, f"--dataset_name: expected some of {', '.join([*sorted(READERS), PROCEDURAL])}, got {unknown[:1]}"
    )
    require(
        not scans or len(on_disk) == 1, f"--scans: expected exactly one data set on disk beside it, got {len(on_disk)}"
    )
    require(
        render_device == "cpu" or num_workers == 0 or PROCEDURAL not in dataset_names,
        f"--num_workers {num_workers}: expected 0 with {PROCEDURAL} scenes rendered on {render_device}",
    )


def _held_out_stream(render_device: str) -> ProceduralFrames:
    """Scenes that no run trains on, the same for every run."""
    return ProceduralFrames(seed=derived_seed(_VALIDATION_STREAM), device=render_device)


def _read_both(name: str, datadir: str, scans: tuple[str, ...] | None) -> tuple[list[PosedScene], list[PosedScene]]:
    """Scenes to train on and to validate with; of a scan in both the training views are the former's."""
    scans = scans or None
    val = read_scenes(name, datadir, split="val", scans=scans, lights=EVALUATION_LIGHTS)
    test = read_scenes(name, datadir, split="test", scans=scans, lights=EVALUATION_LIGHTS)
    train = training_part(
        read_scenes(name, datadir, split="train", scans=scans), {scene.scan for scene in [*val, *test]}
    )
    if not any(scene.read_depth for scene in train):
        raise InputError(f"--dataset_name {name}: expected depth maps to train on in {datadir}, got none")
    return train, val
