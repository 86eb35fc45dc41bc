"""Recorded quaternions, warps, voxelized meshes and data sets."""

from pathlib import Path

from tests.golden_occupancy_data import kind_of, kinds_of

GOLDEN = Path(__file__).parents[2] / "golden" / "occupancy"


def test_recorded_fixtures() -> None:
    folders = [folder for folder in (GOLDEN, *(path for path in GOLDEN.iterdir() if path.is_dir())) if kind_of(folder)]
    names = {check.__name__ for folder in folders for check in kinds_of(folder)}
    assert {"check_quaternions", "check_warps", "check_sessions", "check_occ3d"} <= names
    for folder in folders:
        for check in kinds_of(folder):
            for file, results in check(folder).items():
                beyond = [one for one in results if not one.is_within]
                assert results
                assert not beyond, file
