"""Losses, quantizer, OccWorld, metrics and schedules against records of the references."""

from pathlib import Path

import pytest

from tests import golden_occupancy, goldens

GOLDEN = Path(__file__).parents[2] / "golden" / "occupancy"


@pytest.mark.parametrize(
    "check",
    [
        golden_occupancy.check_losses,
        golden_occupancy.check_pose_losses,
        golden_occupancy.check_quantizer,
        golden_occupancy.check_metrics,
        golden_occupancy.check_schedules,
    ],
)
def test_everything_equals_the_record(check: golden_occupancy.Check) -> None:
    results = check(GOLDEN)
    assert all(results.values())
    assert [(file, item) for file, items in results.items() for item in items if not item.is_within] == []


def test_occworld_equals_the_record() -> None:
    results = goldens.check_fixture(GOLDEN / "occworld_tiny")
    assert len(results["outputs.npz"]) > 15
    assert len(results["grads.npz"]) == 10
    assert [(file, item) for file, items in results.items() for item in items if not item.is_within] == []


def test_the_command_finds_all_of_them() -> None:
    found = golden_occupancy.kind_of(GOLDEN)
    assert found is not None
    kinds = {"losses.json", "losses.npz", "pose_losses.json", "pose_losses.npz", "vq.json", "vq.npz"}
    assert {*kinds, "metrics.json", "schedules.json"} <= set(found(GOLDEN))
    assert GOLDEN / "occworld_tiny" in goldens.find_fixtures(GOLDEN)
    assert golden_occupancy.kind_of(GOLDEN.parent / "training") is None  # has files of the same names
