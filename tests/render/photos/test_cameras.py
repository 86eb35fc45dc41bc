"""Which way `--poses auto` goes, and what it says about that."""

from collections.abc import Callable

import pytest
import torch

from data.colmap_library import pycolmap
from data.colmap_model import add_image, pinhole_camera
from geometry import InputError
from render.photos.cameras import automatic, with_enough
from render.reconstruct.types import Poses, Solution


def solution(count: int, poses: Poses = "colmap", warnings: tuple[str, ...] = ()) -> Solution:
    model = pycolmap.Reconstruction()
    camera = pinhole_camera(torch.eye(3), 4, 4, 1)
    for number in range(1, count + 1):
        add_image(model, number, f"{number}.jpg", torch.eye(4), camera)
    return Solution(model, poses, warnings=warnings)


def failing(message: str) -> Callable[[], Solution]:
    def solve() -> Solution:
        raise InputError(message)

    return solve


def never() -> Solution:
    raise AssertionError("nobody asked for it")


def test_sixty_percent_are_enough() -> None:
    found = automatic(lambda: solution(6), never, 10)
    assert (found.poses, found.warnings) == ("colmap", ())


def test_fewer_are_tried_with_vggt_and_the_larger_model_counts() -> None:
    found = automatic(lambda: solution(5), lambda: solution(9, "vggt", ("odd",)), 10)
    assert found.poses == "vggt"
    assert found.warnings == (
        "structure from motion found cameras of 5 of 10 photographs, so VGGT was tried: "
        "VGGT found cameras of 9 of 10 photographs",
        "odd",
    )
    assert automatic(lambda: solution(5), lambda: solution(5, "vggt"), 10).poses == "colmap"
    found = automatic(lambda: solution(5), failing("no matches"), 10)
    assert found.poses == "colmap"
    assert "so VGGT was tried: VGGT failed: no matches" in found.warnings[0]
    assert automatic(failing("too blurred"), lambda: solution(9, "vggt"), 10).poses == "vggt"


def test_without_weights_for_photographs_vggt_is_advised() -> None:
    found = automatic(lambda: solution(5), None, 10)
    assert found.poses == "colmap"
    assert "--vggt_ckpt" in found.warnings[0]
    with pytest.raises(InputError, match=r"structure from motion failed: too blurred; .*--vggt_ckpt"):
        automatic(failing("too blurred"), None, 10)
    with pytest.raises(InputError, match=r"failed: too blurred, so VGGT was tried: VGGT failed: no matches"):
        automatic(failing("too blurred"), failing("no matches"), 10)


def test_three_cameras_are_too_few() -> None:
    assert with_enough(solution(4), 9).poses == "colmap"
    with pytest.raises(InputError, match=r"expected 4 or more photographs with a camera, got 3 of 9 \(odd\)"):
        with_enough(solution(3, warnings=("odd",)), 9)
