"""Which samples a step sees: dealing, permutations, resuming, sources."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.novel_view.dataset import MultiViewDataset, Target, cross_scene_targets, pool_targets, with_sources
from data.novel_view.sampler import SampleKey, StepSampler
from data.readers.dtu import read_dtu
from data.scene import Frame, PosedScene
from data.seeds import derived_seed
from geometry import InputError, SceneBatch
from geometry.turned_views import mirrored
from tests.data import tiny_scenes as tiny


def sampler(rank: int = 0, world_size: int = 1, per_step: int = 2, first: int = 0, items: int = 7) -> StepSampler:
    return StepSampler(
        items,
        scenes_per_step=per_step,
        n_views=(2, 4),
        scales=(0.5, 1.0),
        seed=3,
        rank=rank,
        world_size=world_size,
        next_step=lambda: first,
    )


def line_scene(scan: str = "scan1") -> PosedScene:
    """Ten views at (v, 0, 0); views 3 and 7 are held out. No files."""
    frames = {}
    for view in range(10):
        w2c = torch.eye(4)
        w2c[0, 3] = -float(view)
        frames[view] = Frame(view, Path("none"), w2c, torch.eye(3), 4, 4, 1.0, 2.0)
    neighbors = {view: tuple(sorted(set(range(10)) - {view}, key=lambda v: abs(v - view))) for view in range(10)}
    train = tuple(view for view in range(10) if view not in (3, 7))
    return PosedScene(f"{scan}/light3", scan, frames, neighbors, train, (3, 7))


def test_an_epoch_sees_every_item_and_the_next_one_in_another_order() -> None:
    first, second = list(sampler()), list(sampler(first=4))
    assert len(first) == len(second) == len(sampler()) == 4
    orders = [[key.item for keys in epoch for key in keys] for epoch in (first, second)]
    assert set(orders[0]) == set(orders[1]) == set(range(7))
    assert orders[0] != orders[1]


def test_an_iteration_that_starts_in_the_middle_gives_the_rest_of_the_epoch() -> None:
    whole = list(sampler())
    assert list(sampler(first=1)) == whole[1:]
    assert list(sampler(first=3)) == whole[3:]


def test_two_processes_share_what_one_with_twice_the_scenes_sees() -> None:
    for step in range(9):
        alone = sampler(per_step=4).keys_of(step)
        shared = [key for rank in range(2) for key in sampler(rank, 2, per_step=2).keys_of(step)]
        assert sorted(alone, key=lambda key: key.seed) == sorted(shared, key=lambda key: key.seed)


def test_number_of_views_is_one_per_step_and_varies_over_its_range() -> None:
    counts = [{key.num_views for key in sampler().keys_of(step)} for step in range(60)]
    assert all(len(count) == 1 for count in counts)
    assert set.union(*counts) == {2, 3, 4}


def test_seeds_are_all_different() -> None:
    seeds = [key.seed for step in range(40) for key in sampler().keys_of(step)]
    assert len(set(seeds)) == len(seeds) == 80
    assert derived_seed(1, 2) != derived_seed(2, 1)


def test_pool_targets_never_name_themselves_or_a_held_out_view() -> None:
    scene = line_scene()
    targets = {target.view_id: target.candidates for target in pool_targets(scene, (0, 3))}
    assert targets[0][:3] == (1, 2, 4)
    assert targets[3] == (2, 4, 1, 5, 0, 6, 8, 9)


def test_scans_that_are_evaluated_train_on_their_training_views_only() -> None:
    kept, evaluated = line_scene("scan1"), line_scene("scan2")
    targets = cross_scene_targets([kept, evaluated], {"scan2"})
    views = {scan: {t.view_id for t in targets if t.scene.scan == scan} for scan in ("scan1", "scan2")}
    assert views["scan1"] == set(range(10))
    assert views["scan2"] == set(range(10)) - {3, 7}
    for target in targets:
        if target.scene.scan == "scan2":
            assert not {3, 7} & set(target.candidates)


def test_targets_with_too_few_sources_are_left_out_and_named() -> None:
    targets = pool_targets(line_scene(), (0, 3))
    problems: list[InputError] = []
    assert with_sources(targets, 7, problems.append) == targets
    assert [target.view_id for target in with_sources(targets, 8, problems.append)] == [3]
    (problem,) = problems
    assert str(problem) == ("scene scan1/light3, view 0: expected 8 source views (--n_views), got only 7 other views")


def test_samples_are_functions_of_their_key(small_dtu: Path) -> None:
    from data.readers.registry import read_scenes

    scene = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))[0]
    targets = pool_targets(scene, scene.train_views)
    dataset = MultiViewDataset(targets, is_random=True)
    one, again, other = (dataset[SampleKey(4, 3, seed, scale=0.5)] for seed in (11, 11, 12))
    assert torch.equal(one.source.images, again.source.images)
    assert one.source.images.shape == (3, 3, 16, 20)
    assert one.source.cameras.height == 16
    assert one.target.ids.tolist() == [scene.train_views[4]]
    assert set(one.source.ids.tolist()) <= set(targets[4].candidates[:5])
    assert one.seeds != other.seeds
    several = {tuple(dataset[SampleKey(4, 3, seed)].source.ids.tolist()) for seed in range(8)}
    assert len(several) > 1
    best = MultiViewDataset(targets, is_random=False)[SampleKey(4, 3, 0)]
    assert tuple(best.source.ids.tolist()) == targets[4].candidates[:3]


def test_one_scale_per_step_and_every_scale_in_turn() -> None:
    steps = [{key.scale for key in sampler().keys_of(step)} for step in range(20)]
    assert all(len(scales) == 1 for scales in steps)
    assert set.union(*steps) == {0.5, 1.0}


def wall_targets(root: Path) -> list[Target]:
    """Targets of one scan of six views, whatever is missing of it."""
    problems: list[InputError] = []
    (scene,) = read_dtu(root, split="all", report=problems.append)
    return pool_targets(scene, sorted(scene.frames))


def test_depth_is_per_target_and_zero_where_there_is_none(tmp_path: Path) -> None:
    tiny.write_dtu(tmp_path)
    (tmp_path / "Depths" / "scan24" / "depth_map_0002.pfm").unlink()
    targets = wall_targets(tmp_path)
    dataset = MultiViewDataset(targets, is_random=False)
    samples = [dataset[SampleKey(item, 3, seed=0)] for item in range(6)]
    assert [float(sample.target.depth.unique()) for sample in samples] == [700, 700, 0, 700, 700, 700]
    assert all(sample.source.depth is None for sample in samples)
    SceneBatch.stack(samples)
    without = [target for target in targets if target.view_id == 2]
    assert MultiViewDataset(without, is_random=False)[SampleKey(0, 3, seed=0)].target.depth is None


def test_an_unreadable_target_gives_way_to_the_same_one_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    targets = wall_targets(tiny.write_dtu(tmp_path))
    broken = tmp_path / "Rectified" / "scan24_train" / "rect_001_3_r5000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    dataset = MultiViewDataset(targets, is_random=True, extra_views=0)
    key = SampleKey(0, 2, seed=5)
    first, again = dataset[key], dataset[key]
    assert first.target.ids.tolist() != [0]
    assert torch.equal(first.target.ids, again.target.ids)
    assert torch.equal(first.source.images, again.source.images)
    assert 0 not in first.source.ids.tolist()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{broken}: expected a complete image, got one that cannot be decoded")
    assert dataset.unreadable.count == 2


def test_a_replacement_has_the_size_of_what_it_replaces(tmp_path: Path) -> None:
    small = wall_targets(tiny.write_dtu(tmp_path / "small"))
    large = [
        replace(one, scene=replace(one.scene, frames={k: replace(f, height=999) for k, f in one.scene.frames.items()}))
        for one in small
    ]
    broken = tmp_path / "small" / "Rectified" / "scan24_train" / "rect_001_3_r5000.png"
    broken.unlink()
    dataset = MultiViewDataset([small[0], *large, *small[3:]], is_random=False)
    for seed in range(5):
        assert dataset[SampleKey(0, 2, seed=seed)].target.ids.item() in (3, 4, 5)
    with pytest.raises(InputError, match=r"rect_001.*expected another target to take its place, got none"):
        MultiViewDataset([small[0], *large], is_random=False)[SampleKey(0, 2, seed=0)]


def test_a_share_of_the_samples_is_mirrored(small_dtu: Path) -> None:
    from data.readers.registry import read_scenes

    scene = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))[0]
    targets = pool_targets(scene, scene.train_views)
    plain, half = (MultiViewDataset(targets, is_random=True, mirrors=share) for share in (0.0, 0.5))
    count = 0
    for seed in range(20):
        before, after = plain[SampleKey(4, 3, seed)], half[SampleKey(4, 3, seed)]
        is_mirrored = not torch.equal(after.target.images, before.target.images)
        for one, other in ((before.source, after.source), (before.target, after.target)):
            expected = mirrored(one) if is_mirrored else one
            assert torch.equal(other.images, expected.images)
            assert torch.equal(other.cameras.w2c, expected.cameras.w2c)
        count += is_mirrored
    assert 5 <= count <= 15
