"""Which scenes a checkpoint is used on, and the background behind them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.novel_view.protocols import PROTOCOLS, targets_of
from geometry import InputError
from render.evaluate import evaluate
from render.loading import load_for, require_unseen, scenes_for
from render.options import EvaluateOptions
from render.table import scores_table
from tests.data.photo_scenes import write_colmap
from tests.data.tiny_scenes import write_blender, write_llff
from tests.render.tiny import write_checkpoint
from training.nerf.checkpoint import read_nerf_checkpoint


def options(ckpt: Path, datadir: Path, dataset: str, **changes: object) -> EvaluateOptions:
    values = {"protocol": "full", "device": "cpu", "imgScale_test": 0.25, "out": str(datadir / "out"), **changes}
    return EvaluateOptions(ckpt=str(ckpt), datadir=str(datadir), dataset_name=dataset, **values)


@pytest.fixture(scope="module")
def fern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llff(tmp_path_factory.mktemp("llff") / "fern", views=20)


def finetuned_on(fern: Path, ckpt: Path, trained_on: tuple[int, ...], **record: object) -> Path:
    own = {"dataset_name": "llff", "datadir": str(fern), "scans": ["fern"], **record}
    return write_checkpoint(ckpt, task="finetune", options=own, trained_on={"fern": list(trained_on)})


def test_evaluation_by_mvsnerfs_lists(general: Path, fern: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    chosen = options(general, fern, "llff", protocol="llff-fixed3", out=str(tmp_path / "fixed"))
    metrics = evaluate(chosen)
    assert [view["target"] for view in metrics["views"]] == [12, 13, 5, 19]
    assert {tuple(view["sources"]) for view in metrics["views"]} == {(17, 2, 7)}
    assert metrics["settings"]["view_split"] == {"fern": "mvsnerf"}
    # a scene that they do not name: by the rule of the format, and said so
    other = write_llff(tmp_path / "cave")
    metrics = evaluate(options(general, other, "llff", protocol="llff-nearest3", out=str(tmp_path / "nearest")))
    assert [view["target"] for view in metrics["views"]] == [0, 8]
    assert metrics["settings"]["view_split"] == {"cave": "own"}
    assert "no lists of MVSNeRF, the data set's own split of views instead: cave" in scores_table(metrics)
    with pytest.raises(InputError, match="--view_split own: expected mvsnerf, which the protocol says"):
        evaluate(replace(chosen, view_split="own"))
    capsys.readouterr()
    metrics = evaluate(options(general, other, "llff", view_split="mvsnerf", out=str(tmp_path / "asked")))
    assert metrics["settings"]["view_split"] == {"cave": "own"}
    assert capsys.readouterr().err.count("--view_split mvsnerf: the data set's own split instead for scenes") == 1
    with pytest.raises(InputError, match="--llff_factor 4: does not belong to --dataset_name blender"):
        evaluate(options(general, fern, "blender", llff_factor=4))


def test_depth_of_sparse_points_is_scored_and_recorded(general: Path, tmp_path: Path) -> None:
    root = write_colmap(tmp_path / "wall")
    for is_asked in (True, False):
        metrics = evaluate(options(general, root, "colmap", sparse_depth=is_asked, out=str(tmp_path / str(is_asked))))
        assert metrics["settings"]["sparse_depth"] is is_asked
        assert (metrics["mean"]["depth_abs"] is not None) is is_asked


def test_a_model_fine_tuned_on_other_views_is_not_evaluated_on_those_it_has_seen(fern: Path, tmp_path: Path):
    by_rule = finetuned_on(fern, tmp_path / "own.ckpt", tuple(view for view in range(20) if view % 8))
    record = read_nerf_checkpoint(by_rule).record
    protocol = PROTOCOLS["llff-nearest3"]
    chosen = options(by_rule, fern, "llff", protocol="llff-nearest3")
    with pytest.raises(InputError, match=r"view 12: .* with --view_split own, this evaluation has mvsnerf"):
        evaluate(chosen)
    assert not (fern / "out").exists()
    by_list = finetuned_on(fern, tmp_path / "list.ckpt", (17, 2, 7, 6), view_split="mvsnerf")
    record = read_nerf_checkpoint(by_list).record
    scenes = scenes_for(record, replace(chosen, ckpt=str(by_list)), (), view_split=protocol.view_split)
    require_unseen(record, targets_of(protocol, scenes[0], 3))
    # without a protocol that says which: the views that it was not fine-tuned on
    (scene,) = scenes_for(record, options(by_list, fern, "llff"), ())
    assert scene.held_out_views == (12, 13, 5, 19)


def test_background_is_the_data_sets_unless_it_is_given(general: Path, data_root: Path, tmp_path: Path):
    scene_root = write_blender(tmp_path / "scene")
    checkpoint = read_nerf_checkpoint(general)
    cpu = torch.device("cpu")
    for root, dataset, given, white in (
        (scene_root, "blender", None, True),
        (scene_root, "blender", False, False),
        (data_root, "dtu", None, False),
        (data_root, "dtu", True, True),
    ):
        chosen = options(general, root, dataset, white_bkgd=given)
        scenes = scenes_for(checkpoint.record, chosen, ())
        assert load_for(chosen, checkpoint, cpu, scenes).network.background == float(white)
        if dataset == "blender":
            assert scenes[0].views([0]).images[0, :, 0, 0].tolist() == [float(white)] * 3  # a transparent pixel
