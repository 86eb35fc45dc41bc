from pathlib import Path

import pytest
import torch

from data.readers.splits import choose_scans, own_or_shipped_lists, scan_order, shipped_list, shipped_path, split_views
from data.view_selection.neighbors import (
    NeighborsByCenter,
    complete_neighbors,
    nearest_by_center,
    read_pairs,
    select_sources,
    write_pairs,
)
from geometry import InputError


def test_pair_file(tmp_path):
    (tmp_path / "pair.txt").write_text("# comment\n3\n0\n2 2 10.5 1 3.25 \n1\n2 0 1 1 0\n2\n0 \n")
    assert read_pairs(tmp_path / "pair.txt") == {0: (2, 1), 1: (0,), 2: ()}


def test_pair_file_round_trip(tmp_path):
    pairs = {0: (2, 1), 1: (), 2: (0,)}
    write_pairs(tmp_path / "sub" / "pair.txt", pairs)
    assert read_pairs(tmp_path / "sub" / "pair.txt") == pairs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2\n0\n1 1 5\n", "expected 2 views as its first line says, got 1"),
        ("1\n0\n2 1 5\n", "expected 2 different neighbors with scores for view 0, got '1 5'"),
        ("1\n0\n1 a 5\n", "expected a count, then view ids and lines `count id score ...`, got other"),
        ("9" * 5000, "expected a count, then view ids and lines `count id score ...`, got other"),
        ("", "expected a count, then view ids and lines `count id score ...`, got other"),
    ],
)
def test_bad_pair_file(tmp_path, text, message):
    (tmp_path / "pair.txt").write_text(text)
    with pytest.raises(InputError) as error:
        read_pairs(tmp_path / "pair.txt")
    assert str(error.value) == f"{tmp_path / 'pair.txt'}: {message}"
    assert read_pairs(tmp_path / "pair.txt", lambda problem: None).keys() <= {0}


def test_shipped_dtu_facts():
    train, val, test = (set(shipped_list(f"dtu_{split}")) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (88, 16, 31)
    assert val <= test
    assert not train & test
    pairs = read_pairs(shipped_path("dtu_pairs"))
    assert len(pairs) == 49
    assert pairs[0] == (10, 1, 9, 12, 11, 13, 2, 8, 14, 27)
    assert all(len(others) == 10 for others in pairs.values())
    assert len(shipped_list("dtu_views_train")) == 16
    assert shipped_list("dtu_views_held_out") == ("32", "24", "23", "44")
    blended_train, blended_val = set(shipped_list("blendedmvs_train")), set(shipped_list("blendedmvs_val"))
    assert (len(blended_train), len(blended_val)) == (106, 7)
    assert not blended_train & blended_val


def test_nearest_by_center_is_l1_and_stable():
    positions = {0: (0.0, 0.0), 1: (3.0, 0.0), 2: (2.0, 2.0), 3: (-3.0, 0.0)}
    centers = {view: torch.tensor([x, y, 0.0]) for view, (x, y) in positions.items()}
    assert nearest_by_center(centers, 0, [2, 3, 1]) == [3, 1, 2]
    assert nearest_by_center(centers, 0, [2, 3, 1], norm=2) == [2, 3, 1]
    assert nearest_by_center(centers, 0, []) == []


def test_neighbors_are_pairs_then_nearest():
    centers = {view: torch.tensor([float(view), 0, 0]) for view in (0, 1, 2, 5)}
    assert NeighborsByCenter(centers) == complete_neighbors(centers, {})
    assert complete_neighbors(centers, {0: (5, 7)}) == {0: (5, 1, 2), 1: (0, 2, 5), 2: (1, 0, 5), 5: (2, 1, 0)}


def test_select_sources():
    candidates = (4, 8, 1, 3, 9, 2)
    assert select_sources(candidates, 3) == (4, 8, 1)
    drawn = {select_sources(candidates, 3, generator=torch.Generator().manual_seed(seed)) for seed in range(200)}
    assert {view for views in drawn for view in views} == {4, 8, 1, 3, 9}
    assert len(drawn) > 50  # of 60 ordered choices
    one, two = (select_sources(candidates, 3, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert one == two
    with pytest.raises(InputError, match=r"^expected at least 3 candidate source views, got 2$"):
        select_sources((1, 2), 3)


def test_split_views():
    assert split_views(range(20)) == (tuple(view for view in range(20) if view % 8), (0, 8, 16))
    assert split_views([5, 3, 4]) == ((3, 4), (5,))
    assert split_views([3]) == ((3,), ())
    assert split_views(range(5), [4, 2, 1, 9], [9, 3]) == ((4, 2, 1), (3,))
    assert split_views(range(4), [3, 2], [1]) == ((1, 2, 3), (0,))


LISTS = {"train": ("scan3", "scan4", "scan5"), "val": ("scan1",), "test": ("scan1", "scan2")}


@pytest.mark.parametrize(
    ("present", "split", "expected"),
    [
        (("scan4", "scan1", "scan3", "scan2", "scan200"), "train", ("scan3", "scan4")),
        (("scan4", "scan1", "scan3", "scan2", "scan200"), "val", ("scan1",)),
        (("scan4", "scan1", "scan3", "scan2", "scan200"), "test", ("scan1", "scan2")),
        (("scan4", "scan2"), "val", ("scan2",)),  # the val list is not there, the test list is
        (("scan10", "scan9"), "train", ("scan9",)),
        (("scan10", "scan9"), "val", ("scan10",)),
        (("scan3", "scan4"), "train", ("scan3",)),  # nothing listed to hold out, so one is taken from training
        (("scan3", "scan4"), "test", ("scan4",)),
        (("scan1", "scan2"), "test", ("scan1", "scan2")),  # a root for evaluation only
        (("scan4",), "train", ("scan4",)),
        (("scan4",), "val", ("scan4",)),
        (("scan10", "scan9"), "all", ("scan9", "scan10")),
    ],
)
def test_choose_scans(tmp_path, present, split, expected):
    assert choose_scans(tmp_path, present, split, None, LISTS) == expected


def test_choose_scans_by_name(tmp_path):
    assert choose_scans(tmp_path, ("scan1", "scan2"), "train", ("scan2",), LISTS) == ("scan2",)
    with pytest.raises(InputError, match=r"expected scans that are there \(scan1, scan2\), got scan7$"):
        choose_scans(tmp_path, ("scan1", "scan2"), "train", ("scan2", "scan7"), LISTS)
    with pytest.raises(InputError, match=r"expected at least one scan name, got an empty list$"):
        choose_scans(tmp_path, ("scan1",), "train", (), LISTS)


def test_scans_sort_by_number():
    assert sorted(["scan10", "scan9", "a", "5b2"], key=scan_order) == ["5b2", "a", "scan9", "scan10"]
    assert sorted(["scan2²", "scan2"], key=scan_order) == ["scan2", "scan2²"]  # a digit that is no number


def test_lists_of_scans_that_are_no_text(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_bytes(b"sc\xe9ne\n")
    with pytest.raises(InputError, match=r"train.txt: expected a list of names in UTF-8, got"):
        own_or_shipped_lists(tmp_path, "dtu")


def test_of_a_pair_file_with_lines_missing_the_rest_is_read(tmp_path: Path) -> None:
    whole = {view: tuple(other for other in range(6) if other != view) for view in range(6)}
    path = tmp_path / "pair.txt"
    write_pairs(path, whole)
    lines = path.read_text().splitlines()
    for lost in range(len(lines)):
        path.write_text("\n".join(lines[:lost] + lines[lost + 1 :]))
        problems: list[InputError] = []
        pairs = read_pairs(path, problems.append)
        assert len(problems) == 1
        assert pairs == {view: others for view, others in whole.items() if lost not in (2 * view + 1, 2 * view + 2)}
