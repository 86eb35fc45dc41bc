"""The Lightning data module that both radiance-field scripts share, and what all data modules have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.base import PosedScene
from data.dtu import EVALUATION_LIGHTS
from data.readers import READERS
from data.sampling import (
    MultiViewDataset,
    SampleKey,
    StepSampler,
    Target,
    cross_scene_targets,
    evenly_spread,
    pool_targets,
    require_candidates,
    share_of_process,
)
from geometry import InputError, SceneBatch


def read_scenes(
    dataset_name: str, datadir: str, *, split: str, scans: tuple[str, ...] | None, lights: tuple[int, ...] | None = None
) -> list[PosedScene]:
    """Scenes of a data set on disk.

    Raises:
        InputError: for an unknown data set, a missing folder, or nothing found in it.
    """
    if dataset_name not in READERS:
        raise InputError(f"--dataset_name: expected one of {sorted(READERS)}, got {dataset_name!r}")
    if not Path(datadir).is_dir():
        raise InputError(f"--datadir: expected a folder, got {datadir!r}, which does not exist")
    scenes = READERS[dataset_name](Path(datadir), split=split, scans=scans, lights=lights)
    if not scenes:
        raise InputError(
            f"--datadir {datadir}: expected at least one {dataset_name} scene in split {split!r}, got none"
        )
    return scenes


class SceneDataModule(pl.LightningDataModule):
    """Training and validation samples of one data set, across scenes or within one."""

    def __init__(
        self,
        *,
        dataset_name: str,
        datadir: str,
        scans: tuple[str, ...] | None,
        is_per_scene: bool,
        n_views: tuple[int, int],
        scenes_per_step: int,
        scales_train: tuple[float, ...],
        scale_val: float,
        num_val: int,
        seed: int,
        num_workers: int,
        extra_views: int = 2,
    ) -> None:
        super().__init__()
        self.n_views = n_views
        self.extra_views = extra_views
        self.is_per_scene = is_per_scene
        self.scenes_per_step = scenes_per_step
        self.scales_train = scales_train
        self.scale_val = scale_val
        self.seed = seed
        self.num_workers = num_workers
        read: Callable[..., list[PosedScene]] = lambda **more: read_scenes(dataset_name, datadir, scans=scans, **more)  # noqa: E731
        if is_per_scene:
            self.train_targets, val_targets = _per_scene(read(split="all", lights=EVALUATION_LIGHTS))
        else:
            val_scenes = read(split="val", lights=EVALUATION_LIGHTS)
            evaluated = {scene.scan for scene in [*val_scenes, *read(split="test", lights=EVALUATION_LIGHTS)]}
            self.train_targets = cross_scene_targets(read(split="train"), evaluated)
            val_targets = [target for scene in val_scenes for target in pool_targets(scene, scene.held_out_views)]
        self.val_targets = evenly_spread(val_targets, num_val)
        require_candidates(self.train_targets, n_views[1])
        require_candidates(self.val_targets, n_views[1])

    @property
    def train_scenes(self) -> dict[str, PosedScene]:
        """Scenes with a training target, by name."""
        return {target.scene.name: target.scene for target in self.train_targets}

    @property
    def trained_on(self) -> dict[str, list[int]]:
        """View numbers that serve as training targets, by scan."""
        views: dict[str, set[int]] = {}
        for target in self.train_targets:
            views.setdefault(target.scene.scan, set()).add(target.view_id)
        return {scan: sorted(numbers) for scan, numbers in views.items()}

    def steps_per_epoch(self, world_size: int) -> int:
        """Optimizer steps in which every training target is seen."""
        return -(-len(self.train_targets) // (self.scenes_per_step * world_size))

    def try_loading(self) -> None:
        """Read one training and one validation sample, so that broken files stop a run before it leaves anything."""
        for targets in (self.train_targets, self.val_targets):
            target = targets[0]
            target.scene.views([target.view_id, target.candidates[0]])

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        """Endless in content; each iteration is the rest of an epoch, from the trainer's current step on."""
        sampler = StepSampler(
            len(self.train_targets),
            scenes_per_step=self.scenes_per_step,
            n_views=self.n_views,
            scales=self.scales_train,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            next_step=lambda: self.trainer.global_step,
        )
        # within one scene the same source views come back, so that their VGGT tokens need not be computed again
        dataset = MultiViewDataset(self.train_targets, is_random=not self.is_per_scene, extra_views=self.extra_views)
        return self._loader(dataset, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        """The validation targets one at a time, dealt to the processes of a distributed run, equally many to each."""
        every = [
            SampleKey(item, self.n_views[1], seed=0, scale=self.scale_val) for item in range(len(self.val_targets))
        ]
        keys = share_of_process(every, self.trainer.global_rank, self.trainer.world_size)
        dataset = MultiViewDataset(self.val_targets, is_random=False)
        return self._loader(dataset, sampler=keys, batch_size=1)

    def _loader(self, dataset: MultiViewDataset, **sampling: Any) -> DataLoader[SceneBatch]:
        return DataLoader(
            dataset,
            collate_fn=SceneBatch.stack,
            **loader_settings(self.trainer.accelerator, self.num_workers),
            **sampling,
        )


def loader_settings(accelerator: object, num_workers: int) -> dict[str, Any]:
    """What all loaders have in common: worker processes that stay, page-locked batches for a GPU."""
    return {
        "num_workers": num_workers,
        "pin_memory": accelerator.__class__.__name__ == "CUDAAccelerator",
        "persistent_workers": num_workers > 0,
    }


def _per_scene(scenes: list[PosedScene]) -> tuple[list[Target], list[Target]]:
    """Training targets, and validation targets taken from the training views: held-out files stay closed."""
    if len(scenes) != 1:
        names = sorted(scene.name for scene in scenes)
        raise InputError(f"--scans: expected exactly one scene to fine-tune on, got {len(scenes)}: {names}")
    targets = pool_targets(scenes[0], scenes[0].train_views)
    return targets, targets
