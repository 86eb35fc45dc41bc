"""Groups of connected views, and training that draws by them."""

from pathlib import Path

import numpy as np
import pytest

from data.multi_view.covisible_views import edges, random_walk, sample_views
from data.multi_view.sources import FrameSampling, GroupKey, SceneFrames
from data.multi_view.windows import ZoomRange
from data.readers.registry import read_scenes
from data.wai.covisibility import main as covisibility_command
from geometry import InputError
from tests.data.wai.scenes import write_wall


def blocks(*sizes: int) -> np.ndarray:
    """Edges of groups that are connected inside only."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return (groups[:, None] == groups) & ~np.eye(len(groups), dtype=bool)


def test_edges_are_directed_and_views_without_depth_have_none() -> None:
    values = np.array([[1.0, 0.3, 0.2], [0.3, 0.5, 0.2], [0.9, 0.9, 0.0]], np.float32)
    found = edges(values, 0.5)
    # 0 -> 1: 0.3 / 1; 1 -> 0: 0.3 / 0.5; 0 -> 2: 0.55 / 1; view 2 knows no depth
    np.testing.assert_array_equal(found, [[False, False, True], [True, False, True], [False, False, False]])
    np.testing.assert_array_equal(edges(values, 0.5, averaged=False)[0], [False, False, False])


def test_walks_stay_connected_and_go_back_at_dead_ends() -> None:
    star = np.zeros((6, 6), bool)
    star[0, 1:] = star[1:, 0] = True
    for seed in range(20):
        walk = random_walk(star, 5, np.random.default_rng(seed))
        assert len(set(walk)) == 5
        assert 0 in walk


def test_short_sets_keep_every_view_that_was_found() -> None:
    neighbors = blocks(3, 3, 2)
    for seed in range(50):
        views, num_repeated = sample_views(neighbors, 4, np.random.default_rng(seed))
        assert len(set(views)) == 3
        assert num_repeated == 1
        assert len({0 if view < 3 else 1 for view in views}) == 1
    everything = sample_views(neighbors, 10, np.random.default_rng(0))
    assert set(everything.views) == set(range(8))
    assert everything.num_repeated == 2


def test_another_start_finds_the_large_part() -> None:
    neighbors = blocks(1, 1, 1, 6)
    sizes = [sample_views(neighbors, 5, np.random.default_rng(seed)).num_repeated for seed in range(100)]
    assert sum(size == 0 for size in sizes) >= 97  # four starts: all miss with 3/9 * 2/8 * 1/7 (then 6 are left)


def test_training_draws_connected_frames_the_same_for_the_same_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_wall(tmp_path / "room", 6, apart=(4, 5))
    covisibility_command([str(tmp_path), "--long_side", "32"])
    scenes = read_scenes("wai", str(tmp_path), split="all", scans=None)
    sampling = FrameSampling.parse("covisibility:0.5")
    assert FrameSampling.parse(str(sampling)) == sampling
    source = SceneFrames("wai", scenes, sampling=sampling, zoom=ZoomRange.none())
    parts = set()
    for seed in range(12):
        key = GroupKey(0, 0, 2, 24, 32, seed)
        (batch,), (again,) = source.sample_many([key]), source.sample_many([key])
        views = batch.views.ids.tolist()
        assert views == again.views.ids.tolist()
        assert len({view >= 4 for view in views}) == 1
        assert len(set(views)) == 2
        parts.add(views[0] >= 4)
    assert parts == {False, True}
    assert source.disconnected.count == 0
    (batch,) = source.sample_many([GroupKey(0, 0, 5, 24, 32, 0)])
    assert source.disconnected.count == 1
    assert set(batch.views.ids.tolist()) == {0, 1, 2, 3}
    assert "got fewer: images repeat in its groups" in capfd.readouterr().err


def test_covisibility_is_asked_for_where_there_is_none(tmp_path: Path) -> None:
    write_wall(tmp_path / "room", 2)
    scenes = read_scenes("wai", str(tmp_path), split="all", scans=None)
    with pytest.raises(InputError, match=r"got none for wai room; python -m data\.wai\.covisibility computes it"):
        SceneFrames("wai", scenes, sampling=FrameSampling.parse("covisibility"))
    with pytest.raises(InputError, match="between 0 and 1, got 'covisibility:2'"):
        FrameSampling.parse("covisibility:2")
