"""The Lightning data module that both radiance-field scripts share."""

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from data.novel_view.dataset import MultiViewDataset, Target, cross_scene_targets, pool_targets, require_candidates
from data.novel_view.sampler import SampleKey, StepSampler
from data.readers.registry import read_scenes
from data.readers.splits import Split
from data.scene import PosedScene
from data.seeds import evenly_spread, loader_settings, share_of_process
from geometry import InputError, SceneBatch


@dataclass(frozen=True, kw_only=True)
class NovelViewSpec:
    """Which data a run learns from, and what a step sees of them."""

    dataset_name: str
    datadir: str
    scans: tuple[str, ...] = ()
    """None named: the data set's own lists."""
    is_per_scene: bool
    """One scene, its training views alone; else across scenes."""
    n_views: tuple[int, int]
    """Fewest and most source views of a step."""
    extra_views: int = 2
    """Sources are drawn from so many more views than needed, of the best."""
    scenes_per_step: int = 1
    scales_train: tuple[float, ...] = (1.0,)
    """Resize factors of images; one of them is drawn for every step."""
    scale_val: float = 1.0
    num_val: int = 8
    """Validation images, spread evenly over the validation views."""
    seed: int = 0
    num_workers: int = 0

    def read(self, split: Split, *, evaluated_only: bool = False) -> list[PosedScene]:
        """Scenes of a split; see `read_scenes`."""
        scans = self.scans or None
        return read_scenes(self.dataset_name, self.datadir, split=split, scans=scans, evaluated_only=evaluated_only)


class SceneDataModule(pl.LightningDataModule):
    """Training and validation samples of one data set, across scenes or within one."""

    def __init__(self, spec: NovelViewSpec) -> None:
        """Scenes are found here; images are opened when they are asked for.

        Raises:
            InputError: for no such data, or fewer views than a step needs.
        """
        super().__init__()
        self.spec = spec
        self.steps_before = 0
        """Steps of the run that another task made on the same data; the next task goes on behind them."""
        if spec.is_per_scene:
            self.train_targets, val_targets = _per_scene(spec.read("all", evaluated_only=True))
        else:
            val_scenes = spec.read("val", evaluated_only=True)
            evaluated = {scene.scan for scene in [*val_scenes, *spec.read("test", evaluated_only=True)]}
            self.train_targets = cross_scene_targets(spec.read("train"), evaluated)
            val_targets = [target for scene in val_scenes for target in pool_targets(scene, scene.held_out_views)]
        self.val_targets = evenly_spread(val_targets, spec.num_val)
        require_candidates(self.train_targets, spec.n_views[1])
        require_candidates(self.val_targets, spec.n_views[1])

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
        return -(-len(self.train_targets) // (self.spec.scenes_per_step * world_size))

    def try_loading(self) -> None:
        """Read one training and one validation sample, so that broken files stop a run before it leaves anything."""
        for targets in (self.train_targets, self.val_targets):
            target = targets[0]
            target.scene.views([target.view_id, target.candidates[0]])

    def train_dataloader(self) -> DataLoader[SceneBatch]:
        """Endless in content; each iteration is the rest of an epoch, from the trainer's current step on."""
        sampler = StepSampler(
            len(self.train_targets),
            scenes_per_step=self.spec.scenes_per_step,
            n_views=self.spec.n_views,
            scales=self.spec.scales_train,
            seed=self.spec.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            next_step=lambda: self.steps_before + self.trainer.global_step,
        )
        # within one scene the same source views come back, so that their VGGT tokens need not be computed again
        dataset = MultiViewDataset(
            self.train_targets, is_random=not self.spec.is_per_scene, extra_views=self.spec.extra_views
        )
        return self._loader(dataset, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader[SceneBatch]:
        """The validation targets one at a time, dealt to the processes of a distributed run, equally many to each."""
        views, scale = self.spec.n_views[1], self.spec.scale_val
        every = [SampleKey(item, views, seed=0, scale=scale) for item in range(len(self.val_targets))]
        keys = share_of_process(every, self.trainer.global_rank, self.trainer.world_size)
        dataset = MultiViewDataset(self.val_targets, is_random=False)
        return self._loader(dataset, sampler=keys, batch_size=1)

    def _loader(self, dataset: MultiViewDataset, **sampling: Any) -> DataLoader[SceneBatch]:
        return DataLoader(
            dataset,
            collate_fn=SceneBatch.stack,
            **loader_settings(self.trainer.accelerator, self.spec.num_workers),
            **sampling,
        )


def _per_scene(scenes: list[PosedScene]) -> tuple[list[Target], list[Target]]:
    """Training targets, and validation targets taken from the training views: held-out files are not opened."""
    if len(scenes) != 1:
        names = sorted(scene.name for scene in scenes)
        raise InputError(f"--scans: expected exactly one scene to fine-tune on, got {len(scenes)}: {names}")
    targets = pool_targets(scenes[0], scenes[0].train_views)
    return targets, targets
