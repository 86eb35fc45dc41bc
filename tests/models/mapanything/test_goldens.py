"""Network, losses, geometry, metrics and schedules against records of the reference."""

from pathlib import Path

import numpy as np
import pytest

from tests import golden_mapanything, goldens

GOLDEN = Path(__file__).parents[2] / "golden" / "mapanything"


@pytest.mark.parametrize("fixture", ["model", "geometry", "losses", "metrics", "schedule"])
def test_everything_equals_the_record(fixture: str) -> None:
    results = goldens.check_fixture(GOLDEN / fixture)
    assert results
    assert all(results.values())
    assert [(file, item) for file, items in results.items() for item in items if not item.is_within] == []


def test_the_command_finds_all_of_them() -> None:
    found = goldens.find_fixtures(GOLDEN)
    assert [folder.name for folder in found] == ["geometry", "losses", "metrics", "model", "schedule"]


def test_every_array_is_compared() -> None:
    compared = {item.name for item in goldens.check_fixture(GOLDEN / "geometry")["geometry.npz"]}
    recorded = goldens.read_arrays(GOLDEN / "geometry" / "geometry.npz")
    assert compared == {name for name in recorded if name.endswith("_out")}
    recorded = goldens.read_arrays(GOLDEN / "model" / "io.npz")
    compared = {item.name for item in goldens.check_fixture(GOLDEN / "model")["io.npz"]}
    assert compared == {name for name in recorded if not name.startswith("in/")}


def test_geometry_of_another_network_is_not_ours(tmp_path: Path) -> None:
    np.savez(tmp_path / "geometry.npz", extrinsics=np.eye(4))
    assert golden_mapanything.kind_of(tmp_path) is None
