"""Which views train and which validate."""

from pathlib import Path

import pytest

from data.novel_view.datamodule import NovelViewSpec, SceneDataModule
from data.readers.options import ReaderOptions
from geometry import InputError
from tests.data.tiny_scenes import write_llff


def module(datadir: Path, **changes: object) -> SceneDataModule:
    spec = {"dataset_name": "dtu", "scans": ("scan2",), "is_per_scene": True, "n_views": (3, 3), **changes}
    return SceneDataModule(NovelViewSpec(datadir=str(datadir), **spec))


def test_views_kept_for_validation_are_neither_targets_nor_sources(small_dtu: Path) -> None:
    whole, data = module(small_dtu), module(small_dtu, val_views=4)
    trained, validated = ([target.view_id for target in targets] for targets in (data.train_targets, data.val_targets))
    assert (len(trained), len(validated)) == (12, 4)
    assert sorted(trained + validated) == sorted(target.view_id for target in whole.train_targets)
    for target in [*data.train_targets, *data.val_targets]:
        assert set(target.candidates) <= set(trained)
    assert data.trained_on == {"scan2": sorted(trained)}
    assert data.validated_on == {"scan2": sorted(validated)}
    assert data.train_scenes["scan2/light3"].train_views == tuple(trained)
    assert whole.validated_on == {}
    assert [target.view_id for target in whole.val_targets[:1]] == [whole.train_targets[0].view_id]


def test_something_must_be_left_to_train_on(small_dtu: Path) -> None:
    with pytest.raises(InputError, match="--val_views 16: expected fewer than the 16 training views"):
        module(small_dtu, val_views=16)
    with pytest.raises(InputError, match=r"expected 3 source views \(--n_views\), got only 2"):
        module(small_dtu, val_views=13)


def test_fine_tuning_by_mvsnerfs_list_opens_no_view_that_it_holds_out(tmp_path: Path) -> None:
    root = write_llff(tmp_path / "fern", views=20)
    for view in (12, 13, 5, 19):
        (root / "images_4" / f"IMG_{view:03d}.png").write_bytes(b"poison")
    how = {"dataset_name": "llff", "scans": (), "reader": ReaderOptions(view_split="mvsnerf")}
    data = module(root, **how)
    assert len(data.train_targets) == 16
    for target in data.train_targets:
        target.scene.views([target.view_id, *target.candidates])
