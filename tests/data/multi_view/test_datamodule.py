"""The data module of VGGT's training, on a tiny folder: batches, validation groups, several processes, refusals."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data.multi_view.datamodule import (
    FrameDataModule,
    MultiViewSpec,
    build_evaluation_data,
    build_frame_data,
    sampling_of,
)
from data.multi_view.protocols import PROTOCOLS
from data.multi_view.sampler import BatchShape
from data.multi_view.sources import UNIFORM, FrameSampling
from data.procedural.motions import MotionMix
from data.readers.dtu import read_dtu
from geometry import InputError, Views
from tests.data import tiny_scenes as tiny

SHAPE = BatchShape(image_size=40, aspect=(0.6, 0.8), patch_size=8, n_views=(2, 3), max_img_per_gpu=6)
MIX = MotionMix((("parallel", 1.0), ("pan", 1.0)), rooms=0.5, rolls=0.5)


def build(*folders: tuple[str, object], **changes: object) -> FrameDataModule:
    settings = {
        "dataset_names": tuple(name for name, _ in folders),
        "datadirs": tuple(str(folder) for _, folder in folders),
        "len_train": (12,) * len(folders),
        "shape": SHAPE,
        "sampling": (FrameSampling(2.0),) * len(folders),
        "num_val": 6,
        "val_views": 3,
        "seed": 1,
        "num_workers": 0,
        "is_augmented": True,
        "is_geometry_augmented": True,
    }
    return build_frame_data(MultiViewSpec(**settings | changes))


def attach(data: FrameDataModule, rank: int = 0, world_size: int = 1, step: int = 0) -> FrameDataModule:
    data.trainer = SimpleNamespace(
        global_rank=rank, world_size=world_size, global_step=step, accelerator=SimpleNamespace()
    )
    return data


def test_batches_of_a_mixture_with_the_procedural_stream(small_dtu: Path) -> None:
    data = attach(build(("dtu", small_dtu), ("procedural", "-")))
    assert data.steps_per_epoch(1) == len(data.train_dataloader()) == 10  # 24 groups, 3 or 2 per batch
    assert data.steps_per_epoch(2) == 5
    names = set()
    for batch in [one for one, _ in zip(data.train_dataloader(), range(3), strict=False)]:
        groups, frames, _, height, width = batch.views.images.shape
        assert groups * frames <= 6
        assert (height, width) in ((24, 40), (32, 40))
        assert batch.views.depth.shape == (groups, frames, height, width)
        assert batch.views.cameras.w2c.shape == (groups, frames, 4, 4)
        assert len(batch.names) == len(batch.seeds) == groups
        names |= {name.split("/")[0] for name in batch.names}
    assert names == {"dtu", "procedural"}


def test_a_resumed_run_sees_the_batches_it_would_have_seen(small_dtu: Path) -> None:
    whole = list(attach(build(("dtu", small_dtu))).train_dataloader())
    rest = list(attach(build(("dtu", small_dtu)), step=3).train_dataloader())
    assert len(whole) == 5
    assert [batch.seeds.tolist() for batch in rest] == [batch.seeds.tolist() for batch in whole[3:]]
    assert torch.equal(rest[0].views.images, whole[3].views.images)


def test_validation_groups_are_the_same_for_every_run_and_dealt_evenly(small_dtu: Path) -> None:
    data = build(("dtu", small_dtu))
    everything = list(attach(data).val_dataloader())
    assert len(everything) == 6
    assert data.val_keys == build(("dtu", small_dtu), seed=9).val_keys
    scene = data.val_sources[0].groups[0].scene
    for batch in everything:
        assert batch.views.images.shape == (1, 3, 3, 32, 40)
        first, *others = batch.views.ids[0].tolist()
        assert tuple(others) == scene.neighbors[first][:2]
    parts = [list(attach(data, rank, 4).val_dataloader()) for rank in range(4)]
    assert {len(part) for part in parts} == {2}
    assert {int(b.seeds) for part in parts for b in part} == {int(b.seeds) for b in everything}


def test_held_out_views_of_a_scan_in_both_are_only_validated(small_dtu: Path) -> None:
    data = build(("dtu", small_dtu), scans=("scan2",))
    (train,) = data.train_sources[0].scenes
    assert set(train.frames) == set(train.train_views)
    starts = {group.view_ids[0] for group in data.val_sources[0].groups}
    assert starts == set(train.held_out_views)


def test_evaluation_takes_every_view_of_the_scans(small_dtu: Path) -> None:
    data = build_evaluation_data(
        MultiViewSpec(
            dataset_names=("dtu", "procedural"),
            datadirs=(str(small_dtu), "-"),
            scans=("scan3",),
            shape=SHAPE,
            num_val=10,
            val_views=3,
            num_workers=0,
        )
    )
    assert sum(key.source == 0 for key in data.val_keys) == 5
    only = build_evaluation_data(
        MultiViewSpec(
            dataset_names=("dtu",),
            datadirs=(str(small_dtu),),
            scans=("scan3",),
            shape=SHAPE,
            num_val=1000,
            val_views=3,
            num_workers=0,
        )
    )
    assert len(only.val_keys) == 20
    assert {group.scene.scan for group in only.val_sources[0].groups} == {"scan3"}


def test_rendered_groups_are_as_many_as_asked_for_else_64() -> None:
    def count(num_val: int | None) -> int:
        settings = {"shape": SHAPE, "val_views": 3, "num_workers": 0}
        data = build_evaluation_data(
            MultiViewSpec(dataset_names=("procedural",), datadirs=("-",), num_val=num_val, **settings)
        )
        return len({key.item for key in data.val_keys})

    assert (count(None), count(3), count(100)) == (64, 3, 100)


def test_motions_are_validated_with_equally_many_groups_each() -> None:
    data = attach(build(("procedural", "-"), protocol="procedural-motions", procedural_mix=MIX, procedural_sensor=1.0))
    names = [batch.names[0] for batch in data.val_dataloader()]
    assert names == [f"procedural/{kind}" for kind in ("rig", "orbit", "parallel", "pan", "room", "rolled")]
    whole = build_evaluation_data(
        MultiViewSpec(dataset_names=("procedural",), datadirs=("-",), protocol="procedural-motions", shape=SHAPE)
    )
    assert len(whole.val_keys) == 6 * 32
    stream = data.train_sources[0]
    assert (stream.mix, stream.sensor) == (MIX, 1.0)
    assert next(iter(data.train_dataloader())).views.images.shape[-1] == 40


def test_a_stream_of_motions_resumes_and_is_dealt_to_processes() -> None:
    """A process that starts in the middle, and two that share the work, see what one sees from the start."""
    mix = {"procedural_mix": MIX, "procedural_sensor": 1.0, "len_train": (6,), "procedural_scenes": 3}
    one, late = build(("procedural", "-"), **mix), build(("procedural", "-"), **mix)
    whole, rest = list(attach(one).train_dataloader()), list(attach(late, step=1).train_dataloader())
    assert len(rest) == len(whole) - 1 > 0
    for now, then in zip(rest, whole[1:], strict=True):
        assert torch.equal(now.views.images, then.views.images)
        assert torch.equal(now.views.cameras.w2c, then.views.cameras.w2c)
    first, second = (attach(one).sampler(world_size=2, rank=rank).keys_of(0) for rank in (0, 1))
    frames, of_another_process = one.train_frames(), late.train_frames()
    for key in (*first, *second):
        assert torch.equal(frames[key].views.images, of_another_process[key].views.images)
    assert not {key.seed for key in first} & {key.seed for key in second}


def test_what_cannot_work_is_refused(small_dtu: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^--datadir: expected one folder per data set \(1; - for procedural\), got 2$"
    ):
        build(("dtu", small_dtu), datadirs=("a", "b"))
    with pytest.raises(InputError, match=r"^--len_train: expected one number per data set \(1\), got 2$"):
        build(("dtu", small_dtu), len_train=(1, 2))
    with pytest.raises(InputError, match=r"^--scans: expected exactly one data set on disk beside it, got 2$"):
        build(("dtu", small_dtu), ("dtu", small_dtu), scans=("scan2",))
    with pytest.raises(InputError, match=r"^--num_workers 2: expected 0 with procedural scenes rendered on mps$"):
        build(("procedural", "-"), num_workers=2, render_device="mps")
    tiny.write_llff(tmp_path / "fern")
    with pytest.raises(
        InputError, match=r"^--dataset_name llff: expected depth maps to train on in .*, got none; .*0\)$"
    ):
        build(("llff", tmp_path))
    with pytest.raises(InputError, match=r"^--annotation_dir a: expected - for dtu"):
        build(("dtu", small_dtu), annotation_dirs=("a",))
    with pytest.raises(InputError, match=r"^--eval_protocol co3d-random10: expected data sets on disk, got procedural"):
        build(("procedural", "-"), protocol="co3d-random10")
    with pytest.raises(
        InputError, match=r"^--eval_protocol procedural-motions: expected --dataset_name procedural only"
    ):
        build(("dtu", small_dtu), protocol="procedural-motions")


def test_data_without_depth_train_cameras_alone_or_beside_others(
    small_dtu: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny.write_llff(tmp_path / "fern")
    alone = build(("llff", tmp_path), needs_depth=False)
    batch = next(iter(attach(alone).train_dataloader()))
    assert (batch.views.depth == 0).all()
    assert f"llff in {tmp_path}: no depth maps, its groups train the cameras only\n" in capsys.readouterr().err
    mixed = attach(build(("llff", tmp_path), ("dtu", small_dtu)))
    known = {name.split("/")[0]: bool((views.depth > 0).any()) for name, views in groups_of(mixed)}
    assert known == {"llff": False, "dtu": True}


def groups_of(data: FrameDataModule) -> list[tuple[str, Views]]:
    return [(name, batch.views[index]) for batch in data.train_dataloader() for index, name in enumerate(batch.names)]


def test_sampling_of_each_data_set(small_dtu: Path) -> None:
    both = build(("dtu", small_dtu), ("dtu", small_dtu), sampling=(UNIFORM, FrameSampling(3.0)))
    assert [source.sampling for source in both.train_sources] == [UNIFORM, FrameSampling(3.0)]
    assert build(("dtu", small_dtu), sampling=()).train_sources[0].sampling == FrameSampling(8.0)
    assert sampling_of(("co3d", "vkitti")) == (UNIFORM, FrameSampling(8.0))


def test_ten_random_frames_of_every_sequence(small_dtu: Path) -> None:
    """Seeded: the same in every run, and not altered by which other sequences are there."""
    scenes = read_dtu(small_dtu, split="all")
    groups = PROTOCOLS["co3d-random10"].groups(scenes, 4, None, ())
    assert [group.scene.scan for group in groups] == [scene.scan for scene in scenes]
    assert all(len(set(group.view_ids)) == 10 for group in groups)
    assert groups[0].view_ids != groups[1].view_ids
    again = PROTOCOLS["co3d-random10"].groups(scenes[1:], 4, None, ())
    assert [group.view_ids for group in again] == [group.view_ids for group in groups[1:]]
    assert len(PROTOCOLS["co3d-random10"].groups(scenes, 4, 2, ())) == 2
    with pytest.raises(InputError, match=r"expected at least 10 held-out views to draw a group from, got 4$"):
        PROTOCOLS["co3d-random10"].groups(scenes, 4, None, {scenes[0].scan})
