"""Several data sets in one training: shares, permutations, sizes, held-out views."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.novel_view.batches import cropped_batch
from data.novel_view.datamodule import NovelViewSpec, SceneDataModule
from data.novel_view.dataset import MultiViewDataset
from data.novel_view.mixture import MixedSampler, MixedSet, shares_of
from data.novel_view.sampler import SampleKey, StepSampler
from data.readers.options import ReaderOptions
from geometry import InputError, SceneBatch
from tests.data.tiny_scenes import write_colmap


def sampler(rank: int = 0, world_size: int = 1, per_step: int = 2, first: int = 0) -> MixedSampler:
    return MixedSampler(
        (14, 4, 5),
        (0.5, 0.3, 0.2),
        scenes_per_step=per_step,
        n_views=(2, 4),
        scales=(0.5, 1.0),
        seed=3,
        rank=rank,
        world_size=world_size,
        next_step=lambda: first,
    )


def source_of(item: int) -> int:
    return 0 if item < 14 else 1 if item < 18 else 2


def test_every_step_has_one_data_set_and_every_epoch_the_shares() -> None:
    steps = [sampler().keys_of(step) for step in range(36)]
    assert len(sampler()) == 12
    assert all(len({source_of(key.item) for key in keys}) == 1 for keys in steps)
    turns = [source_of(keys[0].item) for keys in steps]
    for first in (0, 12, 24):
        assert Counter(turns[first : first + 12]) == {0: 6, 1: 4, 2: 2}
    assert turns[:12] != turns[12:24]


def test_no_target_comes_again_before_all_others_of_its_data_set() -> None:
    items = [key.item for step in range(36) for key in sampler().keys_of(step)]
    for source, length in ((0, 14), (1, 4), (2, 5)):
        own = [item for item in items if source_of(item) == source]
        for first in range(0, len(own) - length + 1, length):
            assert len(set(own[first : first + length])) == length


def test_a_resumed_run_and_several_processes_see_the_same() -> None:
    assert list(sampler(first=5)) == list(sampler())[5:]
    for step in range(12):
        alone = sampler(per_step=4).keys_of(step)
        shared = [key for rank in range(2) for key in sampler(rank, 2).keys_of(step)]
        assert sorted(alone, key=lambda key: key.seed) == sorted(shared, key=lambda key: key.seed)


def test_short_epochs_have_a_step_of_every_data_set() -> None:
    short = MixedSampler(
        (1, 1),
        (0.8, 0.2),
        scenes_per_step=1,
        n_views=(2, 2),
        scales=(1.0,),
        seed=0,
        rank=0,
        world_size=1,
        next_step=lambda: 0,
    )
    assert Counter(keys[0].item for keys in short) == {0: 4, 1: 1}


def test_one_data_set_is_dealt_as_ever() -> None:
    """Runs that were started before must go on with the same targets; the numbers were printed by that code."""
    dealt = StepSampler(
        7,
        scenes_per_step=2,
        n_views=(2, 4),
        scales=(0.5, 1.0),
        seed=3,
        rank=0,
        world_size=1,
        next_step=lambda: 0,
    )
    keys = [[(key.item, key.num_views, key.scale) for key in dealt.keys_of(step)] for step in (0, 3, 4)]
    assert keys == [[(3, 2, 0.5), (5, 2, 0.5)], [(0, 4, 1.0), (3, 4, 1.0)], [(6, 4, 0.5), (5, 4, 0.5)]]
    assert [key.seed % 1000 for key in dealt.keys_of(5)] == [112, 485]


def test_the_parts_of_an_entry() -> None:
    assert MixedSet.parse("colmap:/data/a:b:0.3") == MixedSet("colmap", "/data/a:b", 0.3)
    for text in ("colmap:/data", "colmap:/data:x", "colmap::0.3", ":/data:0.3", "colmap:/data:0", "colmap:/data:1"):
        with pytest.raises(InputError, match="--mix: expected <dataset_name>:<datadir>:<share>"):
            MixedSet.parse(text)
    assert shares_of([MixedSet("a", "b", 0.25), MixedSet("a", "c", 0.5)]) == (0.25, 0.25, 0.5)
    with pytest.raises(InputError, match="--mix: expected shares below 1 together"):
        shares_of([MixedSet("a", "b", 0.5), MixedSet("a", "c", 0.5)])


def spec(dtu: Path, *mix: MixedSet, **changes: object) -> NovelViewSpec:
    settings = {"is_per_scene": False, "n_views": (2, 3), "mix": mix, **changes}
    return NovelViewSpec(dataset_name="dtu", datadir=str(dtu), **settings)


def test_held_out_views_of_every_data_set_stay_out_of_training(small_dtu: Path, tmp_path: Path) -> None:
    colmap = write_colmap(tmp_path / "photos" / "house")
    alone = SceneDataModule(spec(small_dtu))
    data = SceneDataModule(spec(small_dtu, MixedSet("colmap", str(colmap.parent), 0.25), num_val=5))
    first, second = data.lengths
    assert first == len(alone.train_targets)
    assert {target.scene.scan for target in data.train_targets[first:]} == {"house"}
    house = data.train_targets[-1].scene
    assert len(house.held_out_views) > 0
    assert second == len(house.train_views)
    for target in data.train_targets[first:]:
        assert not {target.view_id, *target.candidates} & set(house.held_out_views)
    scans = Counter("house" if target.scene.scan == "house" else "dtu" for target in data.val_targets)
    assert scans == {"dtu": 3, "house": len(house.held_out_views)}
    assert data.trained_on["house"] == sorted(house.train_views)
    assert data.steps_per_epoch(1) == max(first + second, 4)
    assert (alone.is_depth_partial, data.is_depth_partial) == (False, True)


def test_options_of_the_reader_are_for_data_sets_that_have_them(small_dtu: Path, tmp_path: Path) -> None:
    colmap = write_colmap(tmp_path / "photos" / "house")
    mix = MixedSet("colmap", str(colmap.parent), 0.25)
    sparse = ReaderOptions(sparse_depth=True)
    assert [part.reader.sparse_depth for part in spec(small_dtu, mix, reader=sparse).parts()] == [False, True]
    with pytest.raises(InputError, match="--llff_factor 2: does not belong to --dataset_name dtu and colmap"):
        SceneDataModule(spec(small_dtu, mix, reader=ReaderOptions(llff_factor=2)))
    with pytest.raises(InputError, match="--sparse_depth True: does not belong to --dataset_name dtu"):
        SceneDataModule(spec(small_dtu, reader=sparse))
    with pytest.raises(InputError, match=r"--mix: expected data sets among .*, got comap"):
        SceneDataModule(spec(small_dtu, replace(mix, dataset_name="comap")))


def test_a_folder_of_a_mix_without_targets_is_named_as_such(small_dtu: Path, tmp_path: Path) -> None:
    colmap = write_colmap(tmp_path / "photos" / "house")
    mix = MixedSet("colmap", str(colmap.parent), 0.25)
    with pytest.raises(InputError, match=rf"--mix {colmap.parent}: expected targets to train on, got none: .*house"):
        SceneDataModule(spec(small_dtu, mix, n_views=(2, 8)))


def test_images_of_a_mix_are_no_larger_than_asked_for(small_dtu: Path, tmp_path: Path) -> None:
    colmap = write_colmap(tmp_path / "photos" / "house")
    mix = MixedSet("colmap", str(colmap.parent), 0.5)
    whole, small = (SceneDataModule(spec(small_dtu, mix, mix_side=side)) for side in (0, 40))
    (target, same) = (data.train_targets[-1] for data in (whole, small))
    height, width = target.scene.image_size(target.view_id)
    assert width > 40
    assert same.scene.image_size(same.view_id) == (round(height * 40 / width), 40)
    assert small.train_targets[0].scene.image_size(small.train_targets[0].view_id) == (32, 40)


def test_samples_of_different_sizes_become_one_batch_with_cameras_that_fit(small_dtu: Path, tmp_path: Path) -> None:
    colmap = write_colmap(tmp_path / "photos" / "house")
    data = SceneDataModule(spec(small_dtu, MixedSet("colmap", str(colmap.parent), 0.5)))
    dataset = MultiViewDataset(data.train_targets, is_random=True)
    small, large = dataset[SampleKey(0, 2, 5)], dataset[SampleKey(len(dataset) - 1, 2, 6)]
    with pytest.raises(InputError, match="cannot stack"):
        SceneBatch.stack([small, large])
    batch = cropped_batch([small, large])
    assert batch.target.images.shape[-2:] == batch.source.images.shape[-2:] == small.target.images.shape[-2:]
    assert batch.target.depth is not None  # 0 = unknown
    assert not batch.target.depth[1].any()
    assert torch.equal(batch.target.images[0], small.target.images)
    # the pixel that a camera sees in a direction is the same one as before
    shift = large.target.cameras.intrinsics[0, :2, 2] - batch.target.cameras.intrinsics[1, 0, :2, 2]
    left, top = (int(value) for value in shift)
    cut = large.target.images[..., top : top + 32, left : left + 40]
    assert torch.equal(batch.target.images[1], cut)
    assert torch.equal(batch.source.images[1], large.source.images[..., top : top + 32, left : left + 40])
    assert torch.equal(cropped_batch([small, small]).target.images[0], small.target.images)


def test_without_other_views_there_is_nothing_far(small_dtu: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--far_sources 0.5: expected views beside the 3 of --n_views and 40"):
        SceneDataModule(spec(small_dtu, far_sources=0.5, extra_views=40))
    assert SceneDataModule(spec(small_dtu, far_sources=0.5)).train_targets


def test_far_sources_take_the_place_of_some_but_not_all(small_dtu: Path) -> None:
    targets = SceneDataModule(spec(small_dtu)).train_targets
    settings = {"is_random": True, "extra_views": 1}
    plain, never, always = (MultiViewDataset(targets, far_sources=share, **settings) for share in (0.0, 1e-9, 1.0))
    far = []
    for seed in range(20):
        key = SampleKey(3, 3, seed)
        near, same, other = (dataset[key].source.ids.tolist() for dataset in (plain, never, always))
        assert near == same
        best = set(targets[3].candidates[:4])
        far.append([view for view in other if view not in best])
        assert len(set(other)) == 3
        assert 1 <= len(far[-1]) <= 2
    assert {len(views) for views in far} == {1, 2}
    assert len({view for views in far for view in views}) > 8


def test_all_views_of_a_sample_have_one_other_exposure(small_dtu: Path) -> None:
    targets = SceneDataModule(spec(small_dtu)).train_targets
    plain, jittered = (MultiViewDataset(targets, is_random=True, color_jitter=value) for value in (0.0, 0.4))
    gains = []
    for seed in range(6):
        before, after = plain[SampleKey(3, 3, seed)], jittered[SampleKey(3, 3, seed)]
        again = jittered[SampleKey(3, 3, seed)]
        assert torch.equal(after.source.images, again.source.images)
        assert torch.equal(before.source.ids, after.source.ids)
        old, new = (torch.cat([one.target.images, one.source.images]) for one in (before, after))
        usable = (old > 0.05) & (new < 1)
        ratio = [(new[:, c][usable[:, c]] / old[:, c][usable[:, c]]) for c in range(3)]
        assert all((one.max() - one.min()) < 1e-4 for one in ratio)
        gains.append([one.mean().item() for one in ratio])
        assert np.exp(-0.51) < min(gains[-1]) <= max(gains[-1]) < np.exp(0.51)
        assert max(gains[-1]) / min(gains[-1]) < np.exp(0.21)
    assert np.std([gain[0] for gain in gains]) > 0.05
