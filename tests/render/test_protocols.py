"""Which views and which pixels each protocol uses."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.scene import Frame
from geometry import InputError, Views
from render.protocols import PROTOCOLS, mask_of, missing_targets, protocol_named, targets_of, targets_of_all
from tests.render.tiny import scene_on_a_line
from tests.scenes import random_views

POOL = (25, 21, 33, 22, 14, 15, 26, 30, 31, 35, 34, 43, 46, 29, 16, 36)
TARGETS = (32, 24, 23, 44)


def dtu_scene(views: list[int] | None = None):
    return scene_on_a_line(list(range(49)) if views is None else views, train=(0, 1), held_out=(2,))


def single(**changes: object) -> Views:
    return replace(random_views(1), **changes)


def test_nearest_sources_come_from_the_training_pool_only():
    chosen = targets_of(PROTOCOLS["dtu-nearest3"], dtu_scene(), 3)
    assert [(one.view_id, one.candidates) for one in chosen] == [
        (32, (33, 31, 30)),  # 34 is as near as 30, which comes first in the pool
        (24, (25, 22, 26)),
        (23, (22, 25, 21)),
        (44, (43, 46, 36)),
    ]
    assert all(set(one.candidates) <= set(POOL) for one in chosen)


def test_fixed_sources_and_targets_that_the_scene_has():
    views = [view for view in range(49) if view not in (24, 44)]
    chosen = targets_of(PROTOCOLS["dtu-fixed3"], dtu_scene(views), 3)
    assert [(one.view_id, one.candidates) for one in chosen] == [(32, (25, 21, 33)), (23, (25, 21, 33))]


def test_full_takes_the_scenes_own_split():
    scene = scene_on_a_line([3, 4, 8, 9], train=(3, 8, 9), held_out=(4,))
    (target,) = targets_of(PROTOCOLS["full"], scene, 2)
    assert (target.view_id, target.candidates) == (4, (3, 8))


@pytest.mark.parametrize(
    ("name", "views", "message"),
    [
        ("dtu-fixed3", [v for v in range(49) if v != 21], r"expected source views \[25, 21, 33\].*without \[21\]"),
        ("dtu-nearest3", [0, 1, 2], "expected views .* to evaluate on, got none"),
        ("dtu-nearest3", [32, 25, 21], "expected 3 source views.*got only 2"),
        ("full", [0, 1, 2], "expected 3 source views.*got only 2"),
    ],
)
def test_scene_that_lacks_views(name: str, views: list[int], message: str):
    with pytest.raises(InputError, match=message):
        targets_of(PROTOCOLS[name], dtu_scene(views), 3)


def test_scene_without_held_out_views():
    with pytest.raises(InputError, match="expected held-out views"):
        targets_of(PROTOCOLS["full"], scene_on_a_line([0, 1], (0, 1), ()), 2)


@pytest.mark.parametrize(
    ("name", "dataset", "n_views", "message"),
    [
        ("dtu-nearest4", "dtu", 3, "--protocol: expected one of dtu-nearest3"),
        ("dtu-nearest3", "llff", 3, "expected --dataset_name dtu, got 'llff'"),
        ("dtu-fixed3", "dtu", 4, "expected --n_views 3, got 4"),
    ],
)
def test_protocol_that_does_not_apply(name: str, dataset: str, n_views: int, message: str):
    with pytest.raises(InputError, match=message):
        protocol_named(name, dataset, n_views)


def test_mask_is_known_depth_else_the_object_else_nothing():
    protocol = PROTOCOLS["dtu-nearest3"]
    depth = torch.zeros(1, 24, 32)
    depth[0, 3, 4] = 600.0
    object_mask = torch.zeros(1, 24, 32, dtype=torch.bool)
    object_mask[0, 5, 6] = True
    kind, mask = mask_of(protocol, single(depth=depth, mask=object_mask))
    assert kind == "depth"
    assert mask.nonzero().tolist() == [[3, 4]]
    kind, mask = mask_of(protocol, single(depth=None, mask=object_mask))
    assert kind == "object"
    assert mask.nonzero().tolist() == [[5, 6]]
    assert mask_of(protocol, single(depth=None)) == ("none", None)
    assert mask_of(protocol, single(depth=torch.zeros(1, 24, 32))) == ("none", None)
    assert mask_of(PROTOCOLS["full"], single(depth=depth, mask=object_mask)) == ("none", None)


def test_masks_of_different_kinds_are_not_averaged() -> None:
    """The scene's targets 24 and 23 have object masks, 32 has none: it is left out and named."""
    scene = scene_on_a_line([21, 22, 23, 24, 25, 32], (21, 22, 25), (24, 23, 32))
    mask = {view: replace(scene.frames[view], mask_path=Path("mask.png")) for view in (23, 24)}
    scene = replace(scene, frames={**scene.frames, **mask})
    problems: list[InputError] = []
    targets = targets_of_all(PROTOCOLS["dtu-nearest3"], [scene], 3, problems.append)
    assert {target.view_id for target in targets} == {23, 24}
    (problem,) = problems
    assert str(problem) == (
        f"scene {scene.name}, view 32: expected the kind of mask of most targets (object mask), got no mask"
    )
    assert len(targets_of_all(PROTOCOLS["full"], [scene], 3)) == 3


def test_a_scene_that_lacks_what_the_protocol_needs_is_left_out() -> None:
    whole = scene_on_a_line([21, 25, 33, 23, 24], (21, 25, 33), (23, 24))
    lacking = replace(whole.without({33}), name="lacking")
    problems: list[InputError] = []
    targets = targets_of_all(PROTOCOLS["dtu-fixed3"], [lacking, whole], 3, problems.append)
    assert {target.scene.name for target in targets} == {whole.name}
    assert [str(problem) for problem in problems] == [
        "scene lacking: expected source views [25, 21, 33], got a scene without [33]"
    ]
    with pytest.raises(InputError, match=r"expected source views \[25, 21, 33\]"):
        targets_of_all(PROTOCOLS["dtu-fixed3"], [lacking], 3)


def test_missing_targets_are_named() -> None:
    scene = scene_on_a_line([21, 23, 24, 25, 33], (21, 25, 33), (23, 24))
    assert missing_targets(PROTOCOLS["dtu-fixed3"], scene) == [f"{scene.scan}/32", f"{scene.scan}/44"]


def test_wide_sources_stand_around_the_target():
    """On a ring of cameras about the origin: three views 30 degrees away, 120 degrees apart as seen from the target."""
    frames = {32: _looking_at_origin(0.0, 0.0)}
    for number, view in enumerate(POOL):
        angle, side = (30.0, 40.0) if number % 2 else (10.0, 80.0)
        frames[view] = _looking_at_origin(angle, side * (number // 2 if number % 2 else number))
    scene = replace(dtu_scene([]), frames=frames)
    (target,) = targets_of(PROTOCOLS["dtu-wide3"], scene, 3)
    positions = [POOL.index(view) for view in target.candidates]
    assert all(position % 2 for position in positions)
    sides = sorted(40.0 * (position // 2) for position in positions)
    assert [sides[1] - sides[0], sides[2] - sides[1]] == [120.0, 120.0]


def _looking_at_origin(angle: float, side: float) -> Frame:
    """A camera at distance 3, `angle` degrees off the -z axis towards `side` (degrees in the x-y plane)."""
    tilt, turn = math.radians(angle), math.radians(side)
    forward = torch.tensor([-math.sin(tilt) * math.cos(turn), -math.sin(tilt) * math.sin(turn), math.cos(tilt)])
    right = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=0)
    w2c = torch.eye(4)
    w2c[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
    w2c[2, 3] = 3.0
    return Frame(0, Path("none"), w2c, torch.eye(3), 8, 8, 1.0, 2.0)
