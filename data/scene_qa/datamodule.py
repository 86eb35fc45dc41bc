"""Questions about scenes for the harness: exact mixtures to train on, fixed records to validate and evaluate with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.image_io import image_size
from data.problems import LeftOut, Problems, Report, UnreadableFiles, announce
from data.scene_qa.dataset import QADataset, collate
from data.scene_qa.feature_cache import Extractor, TokenCache
from data.scene_qa.mixing import DrawSampler, Mixture, shares
from data.scene_qa.readers import QA_READERS, ReadSpec
from data.scene_qa.sources import ROOM_KINDS, QASource, RecordSource, RoomSource
from data.scene_qa.splits import SPLIT_SEED, VAL_RATIO, split_by_scene
from data.scene_qa.types import QABatch, QARecord
from data.seeds import derived_seed, evenly_spread, loader_settings, share_of_process
from geometry import InputError, require

ROOM_SETS = {f"rooms_{'qa' if kind == 'questions' else kind}": kind for kind in ROOM_KINDS}
"""Names of data sets that are rendered, and the kind of records that each has."""
_VALIDATION_STREAM = 84
"""Keeps the rooms of validation apart from those of training, for every seed."""


@dataclass(frozen=True, kw_only=True)
class SceneQASpec:
    """Which data sets a run mixes, and what its batches look like."""

    dataset_names: tuple[str, ...]
    """Out of `ROOM_SETS` and `data.scene_qa.readers.QA_READERS`."""
    datadirs: tuple[str, ...]
    """Of each: a folder or file pattern, as its reader says; anything for rooms."""
    weights: tuple[float, ...] = ()
    """Share of each among the training samples; none: as many as each has records."""
    scannet_dir: str = ""
    """Folder of ScanNet scenes, for questions that come without images."""
    image_size: int = 96
    """Side of the square images, pixels."""
    max_views: int = 8
    """Of a record; of more that many are kept, evenly spread."""
    batch_size: int = 16
    """Samples of one process in one forward pass."""
    accumulate: int = 1
    """Batches of one optimizer step."""
    view_dropout: float = 0.0
    """Probability that a view of a training sample is hidden."""
    val_ratio: float = VAL_RATIO
    """Share of the scenes to validate with, where a data set has no split of its own."""
    split_seed: int = SPLIT_SEED
    num_val: int | None = None
    """At most so many records to validate with, spread over all; None: all."""
    rooms: int = 2000
    """Rendered rooms to train on."""
    val_rooms: int = 200
    """Rendered rooms to validate with; never those of training."""
    room_views: int = 3
    seed: int = 0
    num_workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            InputError: naming the option.
        """
        for name, least in (("batch_size", 1), ("accumulate", 1), ("max_views", 1), ("image_size", 8), ("rooms", 1)):
            require(getattr(self, name) >= least, f"--{name}: expected {least} or more, got {getattr(self, name)}")
        require(2 <= self.room_views <= 4, f"--room_views: expected 2 to 4, got {self.room_views}")
        count, given = len(self.dataset_names), len(self.datadirs)
        require(
            given == count > 0, f"--datadir: expected one per data set ({count}; - for rendered rooms), got {given}"
        )
        known = [*ROOM_SETS, *QA_READERS]
        unknown = [name for name in self.dataset_names if name not in known]
        require(not unknown, f"--dataset_name: expected some of {', '.join(known)}, got {unknown[:1]}")
        require(
            len(self.weights) in (0, count), f"--weights: expected one per data set ({count}), got {len(self.weights)}"
        )
        if self.weights:
            shares(self.weights)
        for name in ("view_dropout", "val_ratio"):
            value = getattr(self, name)
            require(0 <= value < 1, f"--{name}: expected 0 or more and less than 1, got {value:g}")


class SceneQADataModule(pl.LightningDataModule):
    """Training batches and validation records; with a token cache both hold tokens instead of images."""

    def __init__(
        self,
        spec: SceneQASpec,
        train_sources: Sequence[QASource],
        val_sources: Sequence[QASource],
        cache: TokenCache | None = None,
    ) -> None:
        """No `train_sources`: for evaluation only.

        Raises:
            InputError: for nothing to validate with.
        """
        super().__init__()
        self.spec, self.cache = spec, cache
        self.train_sources, self.val_sources = tuple(train_sources), tuple(val_sources)
        count = sum(len(source.records) for source in val_sources)
        require(
            count > 0,
            "expected at least one record to validate with, got none: --val_ratio above 0 takes whole scenes, of which "
            "there must be two, and --val_rooms are for rendered ones",
        )
        self.unreadable = UnreadableFiles("another record takes its place", "samples replaced for unreadable images")

    @property
    def mixture(self) -> Mixture:
        """Numbered training samples."""
        lengths = [len(source.records) for source in self.train_sources]
        return Mixture(lengths, self.spec.weights or [float(length) for length in lengths], self.spec.seed)

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which as many samples are seen as there are records."""
        total = sum(len(source.records) for source in self.train_sources)
        return math.ceil(total / (self.spec.batch_size * self.spec.accumulate * world_size))

    def sampler(self, rank: int = 0, world_size: int = 1) -> DrawSampler:
        """Chooses the training batches of a process."""
        return DrawSampler(
            self.mixture,
            self.spec.batch_size,
            batches_per_epoch=self.steps_per_epoch(world_size) * self.spec.accumulate,
            rank=rank,
            world_size=world_size,
            next_batch=lambda: self.trainer.global_step * self.spec.accumulate,
        )

    def train_samples(self) -> QADataset:
        """Dataset that the draws of training index."""
        return QADataset(
            self.train_sources, cache=self.cache, view_dropout=self.spec.view_dropout, unreadable=self.unreadable
        )

    def val_samples(self, ablation: str = "none") -> QADataset:
        """Validation records, or what an ablation makes of them."""
        return QADataset(self.val_sources, cache=self.cache, ablation=ablation)

    def fill_cache(self, extract: Extractor, rank: int = 0, world_size: int = 1) -> int:
        """Compute the missing tokens of this process's share; how many groups of views that were.

        All processes must have returned before any loads a batch.
        """
        require(self.cache is not None, "expected a token cache, got none")
        wanted = [*(self.train_samples().wanted() if self.train_sources else ()), *self.val_samples().wanted()]
        return self.cache.fill(share_of_process(wanted, rank, world_size), extract)

    def teardown(self, stage: str) -> None:
        """Say how many samples were replaced."""
        self.unreadable.summarize()

    def train_dataloader(self) -> DataLoader[QABatch]:
        """Each iteration is the rest of an epoch, from the trainer's current step on."""
        sampler = self.sampler(self.trainer.global_rank, self.trainer.world_size)
        return self._loader(self.train_samples(), batch_sampler=sampler)

    @property
    def num_val_items(self) -> int:
        """Records that are validated on, of all processes together."""
        return len(self._val_draws(self.val_samples()))

    def val_dataloader(self) -> DataLoader[QABatch]:
        """Records dealt to the processes, equally many to each."""
        samples = self.val_samples()
        mine = share_of_process(self._val_draws(samples), self.trainer.global_rank, self.trainer.world_size)
        return self._loader(samples, sampler=mine, batch_size=self.spec.batch_size)

    def evaluation_loader(self, ablation: str = "none", *, batch_size: int | None = None) -> DataLoader[QABatch]:
        """Every validation record once, in order; needs no trainer."""
        samples = self.val_samples(ablation)
        return self._loader(samples, sampler=self._val_draws(samples), batch_size=batch_size or self.spec.batch_size)

    def _val_draws(self, samples: QADataset) -> list[Any]:
        draws = samples.evaluation_draws()
        return draws if self.spec.num_val is None else evenly_spread(draws, self.spec.num_val)

    def _loader(self, samples: QADataset, **sampling: Any) -> DataLoader[QABatch]:
        accelerator = None if self.trainer is None else self.trainer.accelerator
        return DataLoader(
            samples, collate_fn=collate, **loader_settings(accelerator, self.spec.num_workers), **sampling
        )


def build_qa_data(
    spec: SceneQASpec, cache: TokenCache | None = None, *, for_training: bool = True
) -> SceneQADataModule:
    """Training and validation data of a mixture; `for_training` False: validation only.

    Raises:
        InputError: naming what cannot be read. Entries that cannot be used are left out, counted and listed.
    """
    train: list[QASource] = []
    val: list[QASource] = []
    for name, datadir in zip(spec.dataset_names, spec.datadirs, strict=True):
        if name in ROOM_SETS:
            settings = {"size": spec.image_size, "kinds": (ROOM_SETS[name],), "num_views": spec.room_views}
            if for_training:
                train.append(RoomSource(spec.seed, 0, spec.rooms, **settings))
            if spec.val_rooms:
                val.append(RoomSource(derived_seed(_VALIDATION_STREAM), 0, spec.val_rooms, **settings))
            continue
        problems = Problems("" if name == "arkit" else "data.scene_qa.check")
        read = QA_READERS[name](ReadSpec(datadir, spec.scannet_dir, spec.max_views), problems.add)
        if read.val is None:
            to_train, to_validate = split_by_scene(read.train, problems.add, spec.val_ratio, spec.split_seed)
        else:
            to_train, to_validate = read.train, read.val
        to_validate = with_readable_images(to_validate, problems.add)
        problems.announce(f"{name} in {datadir}")
        sources = [RecordSource(name, part, spec.image_size, spec.max_views) for part in (to_train, to_validate)]
        limited = sum(source.num_limited for source in sources)
        if limited:
            announce(f"{name} in {datadir}: {limited} records with more than {spec.max_views} views, evenly thinned")
        if for_training:
            require(len(to_train) > 0, f"{name} in {datadir}: expected records to train on, got none")
            train.append(sources[0])
        if to_validate:
            val.append(sources[1])
    return SceneQADataModule(spec, train, val, cache)


def with_readable_images(records: Sequence[QARecord], report: Report) -> list[QARecord]:
    """Records to validate with, of which none can be replaced; headers are read, once for each image."""
    wrong: dict[Path, str] = {}
    for path in dict.fromkeys(path for record in records for path in record.images):
        try:
            image_size(path)
        except InputError as error:
            wrong[path] = str(error)
    for record in records:
        bad = [wrong[path] for path in record.images if path in wrong]
        if bad:
            report(LeftOut("records with images that cannot be read", f"record {record.id!r}: {bad[0]}"))
    return [record for record in records if not any(path in wrong for path in record.images)]


def open_cache(folder: str, backbone: str, layers: Sequence[int]) -> TokenCache | None:
    """The token cache of a folder's name; None for none."""
    return TokenCache(Path(folder), backbone, layers) if folder else None
