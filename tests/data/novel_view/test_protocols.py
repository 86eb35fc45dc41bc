"""Which views and which pixels each protocol uses."""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.novel_view.protocols import (
    PROTOCOLS,
    mask_of,
    protocol_named,
    targets_of,
    targets_of_all,
    validation_protocol,
)
from data.scene import Frame, PosedScene
from geometry import InputError, Views
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


@pytest.mark.parametrize("name", ["llff-fixed3", "blender-fixed3"])
def test_fixed_sources_are_the_first_of_the_scenes_training_views(name: str):
    scene = scene_on_a_line(list(range(9)), train=(7, 1, 4, 3), held_out=(2, 3))
    assert [one.candidates for one in targets_of(PROTOCOLS[name], scene, 3)] == [(7, 1, 4), (7, 1, 4)]
    assert [one.candidates for one in targets_of(PROTOCOLS[name.replace("fixed", "nearest")], scene, 3)] == [
        (1, 3, 4),
        (4, 1, 7),  # 3 itself is a training view here
    ]
    with pytest.raises(InputError, match=r"expected 3 source views.*got only 2"):
        targets_of(PROTOCOLS[name], replace(scene, train_views=(7, 1)), 3)


def test_mvsnerfs_crops_and_views():
    crops = {name: one.crop_margin for name, one in PROTOCOLS.items() if one.dataset in ("llff", "blender")}
    assert crops == {
        "llff-nearest3": 0.1,
        "llff-fixed3": 0.1,
        "blender-nearest3": 0.1,
        "blender-fixed3": 0.0,
        "blender-test200": 0.0,
    }
    assert {PROTOCOLS[name].view_split for name in crops} == {"mvsnerf", "test"}


def test_validation_has_the_pixels_of_the_data_sets_protocol():
    chosen = {name: validation_protocol("", name) for name in ("dtu", "llff", "blender", "co3d")}
    assert chosen == {
        "dtu": PROTOCOLS["dtu-nearest3"],
        "llff": PROTOCOLS["llff-nearest3"],
        "blender": PROTOCOLS["blender-nearest3"],
        "co3d": PROTOCOLS["full"],
    }
    assert validation_protocol("full", "dtu") is PROTOCOLS["full"]
    for name, message in (("dtu-nearest4", "expected one of"), ("llff-fixed3", "expected --dataset_name llff")):
        with pytest.raises(InputError, match=f"--val_protocol.*{message}"):
            validation_protocol(name, "dtu")


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


def with_depth(scene: PosedScene, views: Collection[int]) -> PosedScene:
    """The same scene with depth maps for some views."""
    frames = {
        view: replace(frame, depth_path=Path("depth.pfm") if view in views else None)
        for view, frame in scene.frames.items()
    }
    return replace(scene, frames=frames, read_depth=lambda frame: None)


def test_masks_of_different_kinds_are_not_averaged() -> None:
    scene, protocol = dtu_scene(), PROTOCOLS["dtu-nearest3"]
    for known, left_out in (((), []), (TARGETS, []), ((32, 24, 44), [23]), ((23, 44), [32, 24]), ((23,), [23])):
        one = with_depth(scene, known)
        problems: list[InputError] = []
        targets = targets_of_all(protocol, [one], 3, problems.append)
        assert [target.view_id for target in targets] == [view for view in TARGETS if view not in left_out]
        views = [int(str(problem).split("view ")[1].split(":")[0]) for problem in problems]
        assert views == left_out
    (problem,) = problems
    assert str(problem) == "scene line, view 23: expected the kind of mask of most targets (no mask), got depth"
    assert len(targets_of_all(PROTOCOLS["full"], [replace(one, held_out_views=TARGETS)], 2)) == 4


def test_a_scan_without_its_sources_is_left_out_and_named() -> None:
    whole, lacking = dtu_scene(), replace(dtu_scene([view for view in range(49) if view != 21]), name="cave")
    protocol, problems = PROTOCOLS["dtu-fixed3"], []
    targets = targets_of_all(protocol, [whole, lacking], 3, problems.append)
    assert {target.scene.name for target in targets} == {"line"}
    assert [str(problem) for problem in problems] == [
        "scene cave: expected source views [25, 21, 33], got a scene without [21]"
    ]
    with pytest.raises(InputError, match=r"scene cave: .*without \[21\]"):
        targets_of_all(protocol, [lacking], 3, problems.append)
    assert len(problems) == 1  # the only scene: the error says it


def test_missing_targets_are_named() -> None:
    scene = scene_on_a_line([21, 23, 24, 25, 33], (21, 25, 33), (23, 24))
    problems: list[InputError] = []
    targets = targets_of_all(PROTOCOLS["dtu-fixed3"], [scene], 3, problems.append)
    assert sorted(target.view_id for target in targets) == [23, 24]
    assert [str(problem) for problem in problems] == [
        f"scene {scene.name}: expected target views [32, 24, 23, 44], got a scene without [32, 44]"
    ]


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
