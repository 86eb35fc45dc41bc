"""The benchmark on tiny scenes: three levels, going on after a stop, sets that do not depend on other scenes."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.problems import Problems
from data.readers.registry import read_scenes
from geometry import InputError
from render import reconstruction_benchmark as benchmark
from tests.data.wai.scenes import write_wall
from tests.training.mapanything.tiny import write_sizes


@pytest.fixture(scope="module")
def options(small_dtu: Path, tmp_path_factory: pytest.TempPathFactory) -> benchmark.BenchmarkOptions:
    folder = tmp_path_factory.mktemp("benchmark")
    return benchmark.BenchmarkOptions(
        weights=f"random:{write_sizes(folder)}", dataset_name=("dtu",), datadir=(str(small_dtu),), scans=("scan2",),
        views=(2, 50), inputs=("images", "everything"), sets_per_scene=2, image_size=40, accelerator="cpu",
        out=str(folder / "out"),
    )  # fmt: skip


def test_three_levels_are_written_and_nothing_is_computed_twice(
    options: benchmark.BenchmarkOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    results = benchmark.run(options)
    folder = Path(options.out) / "everything" / "002_views"
    assert set(results) == {str(Path(options.out) / name / "002_views") for name in options.inputs}
    assert "too few views" in capsys.readouterr().err  # of the sets of 50
    scenes = json.loads((folder / "dtu_per_scene_results.json").read_text())
    (scene,) = scenes.values()
    assert all(len(values) == 2 for values in scene.values())
    means = json.loads((folder / "dtu_avg_across_all_scenes.json").read_text())
    assert means["z_depth_abs_rel"] == pytest.approx(sum(scene["z_depth_abs_rel"]) / 2)
    levels = json.loads((folder / "per_dataset_results.json").read_text())
    assert levels == results[str(folder)]
    assert levels["Average"] == levels["dtu"] == means
    lines = (folder / "sets.jsonl").read_text().splitlines()
    (folder / "sets.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # stopped while writing
    done = []
    scored = benchmark._scored
    monkeypatch.setattr(benchmark, "_scored", lambda *arguments: done.append(1) or scored(*arguments))
    assert benchmark.run(options) == results
    assert len(done) == 1
    assert benchmark.run(options) == results
    assert len(done) == 1  # the set that took the place of the broken line counts
    stale = json.loads(lines[0]) | {"scene": "of another run"}
    with (folder / "sets.jsonl").open("a") as file:
        file.write(json.dumps(stale) + "\n")
    assert benchmark.run(options) == results


def test_results_of_other_weights_are_refused(options: benchmark.BenchmarkOptions, tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text(json.dumps({"model": "mapanything", "image_size": 48}))
    with pytest.raises(InputError, match="holds results with another image_size"):
        benchmark._claim(tmp_path, options, "0")


def test_averages_leave_out_what_is_not_known(tmp_path: Path) -> None:
    """Data sets count alike, sets of a data set alike."""
    blank = dict.fromkeys(benchmark.METRICS)
    scores = {
        ("a", "x", 0): blank | {"z_depth_abs_rel": 1.0},
        ("a", "x", 1): blank | {"z_depth_abs_rel": None},
        ("a", "y", 0): blank | {"z_depth_abs_rel": 3.0},
        ("b", "x", 0): blank | {"z_depth_abs_rel": 6.0},
    }
    levels = benchmark.write_levels(tmp_path, scores, ("a", "b"))
    assert (levels["a"]["z_depth_abs_rel"], levels["Average"]["z_depth_abs_rel"]) == (2.0, 4.0)
    assert levels["Average"]["pose_auc_5"] is None


def test_sets_of_a_scene_do_not_depend_on_others(small_dtu: Path) -> None:
    scenes = read_scenes("dtu", str(small_dtu), problems=Problems(), split="test", scans=("scan2",))
    one = benchmark.sets_of_scene(scenes[0], 3, 30, Problems().add)
    assert [group.view_ids for group in one] == [
        group.view_ids for group in benchmark.sets_of_scene(scenes[0], 3, 30, Problems().add)
    ]
    assert len({group.view_ids[0] for group in one[:20]}) == 20  # every view is first before one is again
    assert all(len(set(group.view_ids)) == 3 for group in one)


def test_sets_of_wai_scenes_are_connected_and_short_ones_are_said(tmp_path: Path) -> None:
    """Two groups of three cameras: a set of four keeps the three of its group."""
    for name in ("wai", "other"):
        scene = write_wall(tmp_path / name / "room", 6, apart=(3, 4, 5))
        values = np.kron(np.eye(2), np.full((3, 3), 0.8)).astype(np.float32)
        path = scene.store("covisibility/v0/pairwise_covisibility.npy", values, "mmap")
        scene.with_scene_file("pairwise_covisibility", path, "mmap").write()
    (room,) = read_scenes("wai", str(tmp_path / "wai"), split="all", scans=None)
    problems = Problems()
    pairs = [group.view_ids for group in benchmark.sets_of_scene(room, 3, 8, problems.add)]
    assert {tuple(sorted(views)) for views in pairs} == {(0, 1, 2), (3, 4, 5)}
    assert len(set(pairs)) > 2
    assert pairs == [group.view_ids for group in benchmark.sets_of_scene(room, 3, 8, problems.add)]
    assert not problems.lines
    short = [group.view_ids for group in benchmark.sets_of_scene(room, 4, 8, problems.add)]
    assert {len(set(views)) for views in short} == {3}
    (line,) = problems.lines
    assert "expected 4 views connected above covisibility 0.25, got down to 3 in 8 of 8 sets" in line
    plain = benchmark.sets_of_scene(room, 4, 8, problems.add, threshold=0.0)
    assert {len(set(group.view_ids)) for group in plain} == {4}
    roots = {"dataset_name": ("wai", "wai", "dtu"), "datadir": (str(tmp_path / "wai"), str(tmp_path / "other"), "x")}
    options = benchmark.BenchmarkOptions(weights="x", **roots)
    assert [title for title, _, _ in options.datasets] == ["wai_wai", "wai_other", "dtu"]
