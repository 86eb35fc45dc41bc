"""Batches are a function of seed and number; splits, processes and broken files."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.occupancy.augmentation import GridAugmentation
from data.occupancy.datamodule import OccupancyDataSpec, WindowSampler, build_occupancy_data
from data.occupancy.types import OccupancyBatch
from geometry import InputError
from tests.data.occupancy.test_sessions import write

GOLDEN = Path(__file__).parents[2] / "golden" / "occupancy" / "occ3d_tiny"


def sampler(rank: int = 0, world_size: int = 1, batch_size: int = 4, start: int = 0) -> WindowSampler:
    return WindowSampler(10, batch_size, seed=1, rank=rank, world_size=world_size, next_batch=lambda: start)


def test_an_epoch_shows_every_window_and_resumes_anywhere() -> None:
    batches = list(sampler())
    assert len(batches) == 3
    items = [key.item for batch in batches for key in batch]
    assert sorted(items[:10]) == list(range(10))
    assert items[10:] == items[:2]
    assert list(sampler(start=1)) == batches[1:]
    later = list(sampler(start=4))
    assert later == [sampler().keys_of(4), sampler().keys_of(5)]
    assert [key.item for key in later[0]] != [key.item for key in batches[1]]


def test_two_processes_see_what_one_with_twice_the_batch_sees() -> None:
    one = sampler(batch_size=4).keys_of(1)
    two = [sampler(rank, 2, batch_size=2).keys_of(1) for rank in range(2)]
    assert sorted(one) == sorted(two[0] + two[1])


def module_of_sessions(root: Path, **changes: object) -> OccupancyDataSpec:
    settings: dict = {"dataset": "sessions", "datadir": str(root), "history": 2, "future": 2, "batch_size": 2}
    return OccupancyDataSpec(**settings | changes)


def test_sessions_from_folder_to_batch(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"drone_{number}", 5)
    (tmp_path / "drone_0" / "occupancy" / "000003_occupancy.npz").write_bytes(b"broken")
    spec = module_of_sessions(tmp_path, augmentation=GridAugmentation(flip=0.5, rotation=30.0))
    data = build_occupancy_data(spec)
    assert {split: len(names) for split, names in data.names.items()} == {"train": 2, "val": 1, "test": 1}
    data.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, accelerator=None)  # type: ignore[assignment]
    batches = list(data.train_dataloader())
    assert len(batches) == data.steps_per_epoch(1) == 2
    assert isinstance(batches[0], OccupancyBatch)
    assert batches[0].history.shape == (2, 2, 4, 4, 2)
    assert batches[0].visible is not None
    again = list(build_loader(spec))
    assert torch.equal(batches[1].history_poses, again[1].history_poses)
    assert sum(len(batch.agent) for batch in data.val_dataloader()) == 2


def build_loader(spec: OccupancyDataSpec) -> list[OccupancyBatch]:
    data = build_occupancy_data(spec)
    data.trainer = SimpleNamespace(global_step=0, global_rank=0, world_size=1, accelerator=None)  # type: ignore[assignment]
    return list(data.train_dataloader())


def test_splits_that_are_empty_or_leak(tmp_path: Path) -> None:
    write(tmp_path, "drone_1", 5)
    data = build_occupancy_data(module_of_sessions(tmp_path))
    assert not data.has_validation
    assert data.val_dataloader() == []
    with pytest.raises(InputError, match="test split"):
        build_occupancy_data(module_of_sessions(tmp_path), needs=("test",))
    with pytest.raises(InputError, match="no frame in two"):
        build_occupancy_data(module_of_sessions(tmp_path, train_sessions=("drone_1",), val_sessions=("drone_1",)))
    with pytest.raises(InputError, match="train split"):
        build_occupancy_data(module_of_sessions(tmp_path, future=9))


def test_occ3d_and_procedural_windows(tmp_path: Path) -> None:
    infos = str(next(GOLDEN.glob("*.pkl")))
    spec = OccupancyDataSpec(
        dataset="occ3d", datadir=str(GOLDEN), infos=infos, history=1, future=1, val_share=0.5, test_share=0.0
    )
    data = build_occupancy_data(spec)
    assert {split: len(names) for split, names in data.names.items()} == {"train": 1, "val": 1, "test": 0}
    assert data.any_source.num_classes == 18
    worlds = build_occupancy_data(OccupancyDataSpec(history=2, future=1, num_worlds=5, num_val_worlds=2))
    assert len(worlds.sources["train"]) == 5
    assert worlds.windows("val")[worlds.keys("val")[1]].history.shape == (2, 32, 32, 16)
    with pytest.raises(InputError, match="--datadir"):
        OccupancyDataSpec(dataset="sessions")
    wrong: dict[str, dict] = {
        "--visible": {"visible": "camera"},
        "--datadir": {"datadir": "data"},
        "--split_by": {"split_by": "world"},
        "--needs_motion": {"needs_motion": True},
        "--val_share": {"val_share": -0.5, "dataset": "occ3d", "datadir": "data"},
    }
    for name, settings in wrong.items():
        with pytest.raises(InputError, match=name):
            OccupancyDataSpec(**settings)
