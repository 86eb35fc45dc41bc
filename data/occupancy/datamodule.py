"""The Lightning data module of occupancy: batches of windows that are a function of (seed, batch number)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.occupancy.augmentation import GridAugmentation
from data.occupancy.occ3d import OCC3D_SPACE, Occ3dScene, official_splits, read_occ3d
from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.sessions import Session, read_sessions
from data.occupancy.splits import (
    SPLIT_BY,
    SPLITS,
    require_disjoint,
    require_shares,
    require_split_kind,
    split_by_names,
    split_sessions,
)
from data.occupancy.types import OccupancyBatch, WindowSource
from data.occupancy.windows import EVERYTHING, Occ3dWindows, SessionWindows
from data.problems import Problems, UnreadableFiles, announce, counted
from data.seeds import derived_seed, evenly_spread, loader_settings, seeded_generator, share_of_process
from geometry.errors import InputError, require
from geometry.voxels import EgoGrid

SESSIONS, OCC3D, PROCEDURAL = "sessions", "occ3d", "procedural"
DATASETS = (SESSIONS, OCC3D, PROCEDURAL)
_ORDER_STREAM, _SEED_STREAM = 52, 53
"""Keep the random numbers of order and augmentation apart; another number changes which batches a run sees."""
_TRIES = 8
"""Windows tried in place of one whose files cannot be read, before the run stops."""


@dataclass(frozen=True, kw_only=True)
class OccupancyDataSpec:
    """Which windows a run sees."""

    dataset: str = PROCEDURAL
    datadir: str = ""
    """Root of the sessions, or of Occ3D; nothing for `procedural`."""
    infos: str = ""
    """Occ3D: pickle of frame infos, or annotations.json; "": annotations.json of the root."""
    val_infos: str = ""
    """Occ3D: infos of the validation scenes, where they are in a file of their own."""
    space: EgoGrid | None = None
    """What all grids must be; None: what the data say. Of `procedural`: None for 32 x 32 x 16 voxels of 1 m."""
    history: int = 4
    future: int = 6
    skip: int = 1
    """Every so manieth frame."""
    batch_size: int = 3
    """Windows per process and step."""
    seed: int = 42
    num_workers: int = 0
    num_val: int | None = None
    """At most so many windows to validate with, spread over all; None: all."""
    train_sessions: tuple[str, ...] = ()
    """Names; any of the three lists: no other session is used. Scenes of Occ3D, too."""
    val_sessions: tuple[str, ...] = ()
    test_sessions: tuple[str, ...] = ()
    val_share: float = 0.1
    test_share: float = 0.1
    split_by: str = "session"
    split_seed: int = 42
    """Apart from the run's, so that two seeds of a run are measured on the same sessions."""
    skips_dummies: bool = False
    """Sessions with `dummy` in their name are left out, and reported."""
    needs_motion: bool = False
    """Only windows in which the vehicle moves."""
    visible: str = EVERYTHING
    """Occ3D: which voxels count."""
    num_worlds: int = 1000
    """Procedural worlds to train on."""
    num_val_worlds: int = 120
    augmentation: GridAugmentation = field(default_factory=GridAugmentation)

    def __post_init__(self) -> None:
        """Refuse what is no data set, by option."""
        require(self.dataset in DATASETS, f"--dataset: expected one of {', '.join(DATASETS)}, got {self.dataset!r}")
        require(
            self.dataset == PROCEDURAL or bool(self.datadir),
            f"--datadir: expected a folder for --dataset {self.dataset}, got none",
        )
        for name in ("history", "future", "skip", "batch_size", "num_worlds"):
            require(getattr(self, name) >= 1, f"--{name}: expected a number from 1 on, got {getattr(self, name)}")
        require(
            self.dataset != PROCEDURAL or self.skip == 1, f"--skip {self.skip}: expected 1 with --dataset {PROCEDURAL}"
        )
        require(
            self.dataset == OCC3D or (self.visible == EVERYTHING and not self.infos and not self.val_infos),
            f"--visible, --infos: expected only with --dataset {OCC3D}, got them with {self.dataset}",
        )
        require_shares((self.val_share, self.test_share))
        require_split_kind(self.split_by)
        of_sessions = {
            "--skips_dummies": self.skips_dummies,
            "--needs_motion": self.needs_motion,
            "--split_by": self.split_by != SPLIT_BY[0],
        }
        given = [name for name, is_given in of_sessions.items() if is_given and self.dataset != SESSIONS]
        require(not given, f"{', '.join(given)}: expected only with --dataset {SESSIONS}, got {self.dataset}")
        names = self.train_sessions or self.val_sessions or self.test_sessions
        require(
            self.dataset != PROCEDURAL or not (names or self.datadir),
            f"--datadir, --train_sessions, --val_sessions, --test_sessions: expected none with --dataset {PROCEDURAL}",
        )


class WindowKey(NamedTuple):
    """One window of a batch."""

    item: int
    seed: int
    """All random choices made for it derive from this number."""


class WindowSampler(Sampler[list[WindowKey]]):
    """Batches of one process. Every epoch is a new order of all windows; batch b does not depend on how it was reached.

    Process r of w takes numbers r, r + w, ... of a global batch, so that two processes see together what one with twice
    the batch size sees. The last batch of an epoch is filled from its beginning.
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, rank: int, world_size: int, next_batch: Callable[[], int]
    ) -> None:
        """`next_batch()` tells, when an iteration starts, how many batches were done."""
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.next_batch = next_batch

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(self.length / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[WindowKey]]:
        """The rest of the current epoch."""
        first = self.next_batch()
        for batch in range(first, (first // len(self) + 1) * len(self)):
            yield self.keys_of(batch)

    def keys_of(self, batch: int) -> list[WindowKey]:
        """Keys of this process for a batch, counted from the start of the run."""
        epoch, turn = divmod(batch, len(self))
        generator = seeded_generator(derived_seed(self.seed, _ORDER_STREAM, epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        size = self.batch_size * self.world_size
        numbers = range(turn * size + self.rank, (turn + 1) * size, self.world_size)
        return [
            WindowKey(order[number % self.length], derived_seed(self.seed, _SEED_STREAM, epoch, number))
            for number in numbers
        ]


class KeyedWindows(Dataset[OccupancyBatch]):
    """Windows by key; augmented where asked for, and another one in place of a window that cannot be read."""

    def __init__(self, source: WindowSource, augmentation: GridAugmentation | None = None) -> None:
        """`augmentation`: None in validation and test."""
        self.source = source
        self.augmentation = augmentation
        self.unreadable = UnreadableFiles("another window takes its place")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: WindowKey) -> OccupancyBatch:
        sample = self._readable(key.item)
        if self.augmentation is not None:
            sample = self.augmentation.applied(sample, self.source.space, self.source.empty_class, key.seed)
        return sample

    def _readable(self, item: int) -> OccupancyBatch:
        """The window, or the next one that can be read."""
        for offset in range(_TRIES):
            try:
                return self.source[(item + offset) % len(self.source)]
            except InputError as error:
                self.unreadable.replaced(error)
                last = error
        raise InputError(f"{last}; and {_TRIES - 1} windows after it cannot be read either")


class OccupancyDataModule(pl.LightningDataModule):
    """Windows to train, validate and test on."""

    def __init__(self, spec: OccupancyDataSpec, sources: dict[str, WindowSource], names: dict[str, list[str]]) -> None:
        """`sources` by split, those without windows absent; `names`: sessions, scenes or worlds of each split."""
        super().__init__()
        self.spec = spec
        self.sources = sources
        self.names = names
        for source in sources.values():
            spec.augmentation.require_fitting(source.space, source.num_classes)

    @property
    def any_source(self) -> WindowSource:
        """What grid and classes are read from."""
        return next(iter(self.sources.values()))

    @property
    def space(self) -> EgoGrid:
        """Grid and frame of all windows."""
        return self.any_source.space

    @property
    def has_validation(self) -> bool:
        """Whether there is a window to validate with."""
        return "val" in self.sources

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which every window was seen."""
        return len(self.sampler(0, world_size))

    def sampler(self, rank: int = 0, world_size: int = 1) -> WindowSampler:
        """Chooses the training batches of a process."""
        return WindowSampler(
            len(self.sources["train"]),
            self.spec.batch_size,
            seed=self.spec.seed,
            rank=rank,
            world_size=world_size,
            next_batch=lambda: self.trainer.global_step if self.trainer is not None else 0,
        )

    def windows(self, split: str) -> KeyedWindows:
        """The data set of a split; only that of training is augmented."""
        return KeyedWindows(self.sources[split], self.spec.augmentation if split == "train" else None)

    def keys(self, split: str) -> list[WindowKey]:
        """Windows of a split to measure on: all, or `num_val` of them."""
        items = range(len(self.sources[split]))
        chosen = items if self.spec.num_val is None else evenly_spread(items, self.spec.num_val)
        return [WindowKey(item, 0) for item in chosen]

    def train_dataloader(self) -> DataLoader[OccupancyBatch]:
        """The rest of an epoch, from the trainer's current step on."""
        sampler = self.sampler(self.trainer.global_rank, self.trainer.world_size)
        return self._loader("train", batch_sampler=sampler)

    @property
    def num_val_items(self) -> int:
        """Windows that are validated on, of all processes together."""
        return len(self.keys("val"))

    def val_dataloader(self) -> DataLoader[OccupancyBatch] | list[Any]:
        """Dealt to the processes of a distributed run, equally many to each; nothing where there is nothing."""
        return self._measured("val") if self.has_validation else []

    def test_dataloader(self) -> DataLoader[OccupancyBatch]:
        """As `val_dataloader`, of the test split.

        Raises:
            InputError: for a split without windows.
        """
        return self._measured("test")

    def _measured(self, split: str) -> DataLoader[OccupancyBatch]:
        require(split in self.sources, f"{split} split: expected windows to measure on, got none")
        mine = share_of_process(self.keys(split), self.trainer.global_rank, self.trainer.world_size)
        return self._loader(split, sampler=mine, batch_size=self.spec.batch_size)

    def _loader(self, split: str, **sampling: Any) -> DataLoader[OccupancyBatch]:
        return DataLoader(
            self.windows(split),
            collate_fn=OccupancyBatch.stack,
            **loader_settings(self.trainer.accelerator, self.spec.num_workers),
            **sampling,
        )


def build_occupancy_data(spec: OccupancyDataSpec, *, needs: Sequence[str] = ("train",)) -> OccupancyDataModule:
    """Windows of all splits. What the data lack is announced; a split without windows is absent.

    Args:
        spec: Which data, and what part of them.
        needs: Splits that must have windows.

    Raises:
        InputError: naming the option or the file; for a needed split without windows; for a frame in two splits.
    """
    if spec.dataset == PROCEDURAL:
        return _procedural(spec)
    sources, names = (_sessions if spec.dataset == SESSIONS else _occ3d)(spec)
    for split in needs:
        hint = "more frames than --history + --future, another --skip or another split"
        require(
            split in sources,
            f"{spec.datadir}: expected windows of {spec.history} + {spec.future} frames in the {split} split, got none "
            f"({hint})",
        )
    sizes = ", ".join(
        f"{split} {counted(len(sources[split]) if split in sources else 0, 'window')} of "
        f"{counted(len(names[split]), 'session')}"
        for split in SPLITS
    )
    space = next(iter(sources.values())).space
    announce(f"{spec.datadir}: {sizes}; {space.grid.description()}, {space.frame.orientation} frame")
    return OccupancyDataModule(spec, sources, names)


def _procedural(spec: OccupancyDataSpec) -> OccupancyDataModule:
    world = WorldSpec(history=spec.history, future=spec.future)
    world = world if spec.space is None else WorldSpec(history=spec.history, future=spec.future, space=spec.space)
    require(
        world.space.frame.orientation == "yaw",
        f"--orientation: expected yaw with --dataset {PROCEDURAL}, got {world.space.frame.orientation}",
    )
    sources: dict[str, WindowSource] = {"train": ProceduralWorlds(world, spec.num_worlds, seed=spec.seed)}
    if spec.num_val_worlds > 0:
        sources["val"] = ProceduralWorlds(world, spec.num_val_worlds, seed=0, is_held_out=True)
        sources["test"] = ProceduralWorlds(world, spec.num_val_worlds, seed=1, is_held_out=True)
    names = {split: [f"{len(source)} procedural worlds"] for split, source in sources.items()}
    return OccupancyDataModule(spec, sources, names)


def _lists(spec: OccupancyDataSpec) -> dict[str, tuple[str, ...]]:
    lists = {"train": spec.train_sessions, "val": spec.val_sessions, "test": spec.test_sessions}
    return {split: names for split, names in lists.items() if names}


def _sessions(spec: OccupancyDataSpec) -> tuple[dict[str, WindowSource], dict[str, list[str]]]:
    problems = Problems()
    lists = _lists(spec)
    sessions = read_sessions(
        Path(spec.datadir),
        spec.space,
        names=[name for names in lists.values() for name in dict.fromkeys(names)] or None,
        skips_dummies=spec.skips_dummies,
        report=problems.add,
    )
    problems.announce(f"sessions in {spec.datadir}")
    splits: dict[str, list[Session]]
    if lists:
        splits = split_by_names(sessions, lists)
    else:
        shares = spec.val_share, spec.test_share
        splits = split_sessions(sessions, shares, split_by=spec.split_by, seed=spec.split_seed)
    require_disjoint(splits)
    windows = {
        split: SessionWindows(
            members, spec.history, spec.future, skip=spec.skip, needs_motion=spec.needs_motion and split == "train"
        )
        for split, members in splits.items()
        if members
    }
    sources: dict[str, WindowSource] = {split: found for split, found in windows.items() if len(found) > 0}
    return sources, {split: [session.name for session in members] for split, members in splits.items()}


def _occ3d(spec: OccupancyDataSpec) -> tuple[dict[str, WindowSource], dict[str, list[str]]]:
    require(
        spec.space is None or spec.space == OCC3D_SPACE,
        f"--grid: expected Occ3D's {OCC3D_SPACE.record()}, got {spec.space and spec.space.record()}",
    )
    problems, root = Problems(), Path(spec.datadir)
    scenes = read_occ3d(root, Path(spec.infos) if spec.infos else None, report=problems.add)
    held_out = read_occ3d(root, Path(spec.val_infos), report=problems.add) if spec.val_infos else []
    problems.announce(f"Occ3D in {spec.datadir}")
    splits = _split_scenes(spec, scenes, held_out)
    windows = {
        split: Occ3dWindows(members, spec.history, spec.future, skip=spec.skip, visible=spec.visible)
        for split, members in splits.items()
        if members
    }
    sources: dict[str, WindowSource] = {split: found for split, found in windows.items() if len(found) > 0}
    return sources, {split: [scene.name for scene in members] for split, members in splits.items()}


def _split_scenes(
    spec: OccupancyDataSpec, scenes: Sequence[Occ3dScene], held_out: Sequence[Occ3dScene]
) -> dict[str, list[Occ3dScene]]:
    """By the two files of infos, else by lists of names, else by the data set's own split, else by shares.

    All pieces of a scene stay together. Of the own split the scenes that are there are taken, and its validation
    scenes are those of the test, too.
    """
    lists = _lists(spec)
    names = sorted({scene.name for scene in scenes})
    if held_out:
        splits: dict[str, list[Occ3dScene]] = {"train": list(scenes), "val": list(held_out), "test": list(held_out)}
        both = sorted(set(names) & {scene.name for scene in held_out})
        require(not both, f"--val_infos: expected other scenes than in --infos, got {both[:1]} in both")
        return splits
    own = {} if lists else official_splits(Path(spec.datadir), Path(spec.infos) if spec.infos else None)
    if len(own) == 2:
        train, val = ([scene for scene in scenes if scene.name in own[split]] for split in ("train", "val"))
        both = sorted(set(own["train"]) & set(own["val"]))
        require(not both, f"{spec.datadir}: expected every scene in train_split or val_split, got {both[:1]} in both")
        return {"train": train, "val": val, "test": list(val)}
    if not lists:
        order = torch.randperm(len(names), generator=seeded_generator(spec.split_seed)).tolist()
        num_val, num_test = (round(share * len(names)) for share in (spec.val_share, spec.test_share))
        shuffled = [names[number] for number in order]
        lists = {
            "val": tuple(shuffled[:num_val]),
            "test": tuple(shuffled[num_val : num_val + num_test]),
            "train": tuple(shuffled[num_val + num_test :]),
        }
    unknown = [name for members in lists.values() for name in members if name not in names]
    require(not unknown, f"--train_sessions: expected scenes of the infos, got {unknown[:1]}")
    twice = [name for name in names if sum(name in members for members in lists.values()) > 1]
    require(not twice, f"splits: expected every scene in one of them, got {twice[:1]} in two")
    return {split: [scene for scene in scenes if scene.name in lists.get(split, ())] for split in SPLITS}
