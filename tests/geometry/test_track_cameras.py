"""Cameras from exact tracks are exact whatever the motion; noise, false matches and symmetries."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from geometry.pose_metrics import relative_pose_errors
from geometry.track_bundle import BundleSolution, FocalPrior, Tracks, adjust
from geometry.track_cameras import TrackCameras, cameras_from_tracks

FOCAL, SIDE = 150.0, 160
USUAL = 80 / math.tan(math.radians(20))
"""The focal length that is expected where the tracks do not tell it."""


def turned(degrees: tuple[float, float, float]) -> Tensor:
    x, y, z = (math.radians(one) for one in degrees)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(cross)


def posed(degrees: tuple[float, float, float], center: tuple[float, float, float]) -> Tensor:
    w2c = torch.eye(4, dtype=torch.float64)
    w2c[:3, :3] = turned(degrees)
    w2c[:3, 3] = -w2c[:3, :3] @ torch.tensor(center, dtype=torch.float64)
    return w2c


MOTIONS = {
    "parallel": [posed((0, 0, 0), (0.5, 0.1, 0)), posed((0, 0, 0), (-0.3, 0.4, 0)), posed((0, 1, 0), (0, -0.4, 0.1))],
    "forward": [posed((0, 0, 0), (0.1, 0, 0.6)), posed((1, 0, 0), (0, 0.1, 1.0)), posed((0, 1, 0), (0, 0, -0.5))],
    "pan": [posed((0, 9, 0), (0.3, 0, 0)), posed((3, -8, 0), (0, 0.3, 0.2)), posed((0, 5, 0), (-0.2, 0, 0.3))],
    "orbit": [posed((0, 20, 0), (1.4, 0, 0.3)), posed((-12, 0, 0), (0, 0.9, 0.1)), posed((9, -16, 0), (-1, -0.6, 0.2))],
    "rolled": [posed((0, 0, 90), (0.5, 0, 0)), posed((0, 0, 170), (0, 0.5, 0)), posed((5, 0, -60), (0.3, 0.3, 0.2))],
}


def points_of(plane: bool = False, count: int = 120) -> tuple[Tensor, Tensor]:
    """Pixels from the middle, and depth: of a slanted plane, or between 2 and 6."""
    generator = torch.Generator().manual_seed(3)
    pixels = (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([150.0, 120.0])
    depth = 2 + 4 * torch.rand(count, generator=generator, dtype=torch.float64)
    return pixels, 1 / (0.3 + 0.001 * pixels[:, 0] + 0.0005 * pixels[:, 1]) if plane else depth


def seen(w2c: list[Tensor], pixels: Tensor, depth: Tensor, focal: float = FOCAL) -> Tracks:
    points = torch.nn.functional.pad(pixels / focal, (0, 1), value=1.0) * depth[:, None]
    moved = torch.stack([points @ one[:3, :3].mT + one[:3, 3] for one in w2c])
    found = focal * moved[..., :2] / moved[..., 2:]
    return Tracks(pixels, found, (moved[..., 2] > 0.1).double())


def worst(found: TrackCameras | None, w2c: list[Tensor]) -> tuple[float, float]:
    assert found is not None
    first = torch.eye(4, dtype=torch.float64)[None]
    errors = relative_pose_errors(torch.cat([first, found.w2c]), torch.cat([first, torch.stack(w2c)]))
    return errors.rotation.max().item(), errors.translation.max().item()


@pytest.mark.parametrize("motion", MOTIONS)
def test_exact_tracks_give_exact_cameras(motion: str) -> None:
    pixels, depth = points_of()
    found = cameras_from_tracks(seen(MOTIONS[motion], pixels, depth, USUAL), SIDE)
    assert max(worst(found, MOTIONS[motion])) < 0.02
    assert found is not None
    assert found.is_supported.all()
    assert found.focal.item() == pytest.approx(USUAL, rel=1e-3)
    torch.testing.assert_close(found.depth[0] / found.depth[0].mean(), depth / depth.mean(), rtol=5e-3, atol=0)


@pytest.mark.parametrize("motion", ["orbit", "rolled"])
def test_the_focal_length_is_found_where_cameras_turn(motion: str) -> None:
    """With parallel axes it is not in the tracks."""
    found = cameras_from_tracks(seen(MOTIONS[motion], *points_of()), SIDE)
    assert max(worst(found, MOTIONS[motion])) < 0.6  # what is usual pulls a little
    assert found is not None
    assert found.focal.item() == pytest.approx(FOCAL, rel=0.03)


def test_a_known_focal_length_stays() -> None:
    tracks = seen(MOTIONS["parallel"], *points_of())
    found = cameras_from_tracks(tracks, SIDE, focal=torch.tensor(FOCAL))
    assert max(worst(found, MOTIONS["parallel"])) < 0.02


def test_parallax_is_the_move_of_a_pixel_with_its_depth() -> None:
    """A step to the side of 0.5 at depth 4: u = f 0.5 / 4, so du = u for a factor e, to first order."""
    pixels, depth = points_of()
    tracks = seen([posed((0, 0, 0), (0.5, 0, 0))], pixels, depth)
    found = cameras_from_tracks(tracks, SIDE, focal=torch.tensor(FOCAL))
    assert found is not None
    assert found.fits.all()
    torch.testing.assert_close(found.parallax, FOCAL * 0.5 / depth, rtol=0.02, atol=0)


def test_views_that_only_turn() -> None:
    """No parallax: rotations are found, translations are next to nothing."""
    w2c = [posed((0, 8, 0), (0, 0, 0)), posed((6, 0, 3), (0, 0, 0)), posed((-4, -7, 0), (0, 0, 0))]
    found = cameras_from_tracks(seen(w2c, *points_of()), SIDE)
    assert worst(found, w2c)[0] < 0.1
    assert found is not None
    assert found.w2c[:, :3, 3].norm(dim=-1).max() < 0.02  # of the median depth


@pytest.mark.parametrize("motion", ["pan", "orbit"])
def test_a_plane(motion: str) -> None:
    found = cameras_from_tracks(seen(MOTIONS[motion], *points_of(plane=True)), SIDE)
    assert max(worst(found, MOTIONS[motion])) < 2


def test_given_depth_starts_a_solution_too() -> None:
    pixels, depth = points_of()
    tracks = seen(MOTIONS["pan"], pixels, depth)
    rough = 7 * depth * (1 + 0.2 * torch.sin(pixels[:, 0]))  # another unit, 20 % off
    assert max(worst(cameras_from_tracks(tracks, SIDE, 1 / rough), MOTIONS["pan"])) < 0.6


def test_noise_and_false_matches() -> None:
    generator = torch.Generator().manual_seed(5)
    tracks = seen(MOTIONS["pan"], *points_of())
    noise = 0.3 * torch.randn(tracks.found.shape, generator=generator, dtype=torch.float64)
    wild = (torch.rand(tracks.found.shape, generator=generator, dtype=torch.float64) - 0.5) * 150
    is_false = torch.rand(tracks.weight.shape, generator=generator) < 0.3
    found = cameras_from_tracks(
        replace(tracks, found=torch.where(is_false[..., None], wild, tracks.found + noise)), SIDE
    )
    rotation, translation = worst(found, MOTIONS["pan"])
    assert rotation < 1
    assert translation < 6
    assert found is not None
    assert (found.fits & ~is_false).sum() > 0.9 * (~is_false).sum()
    assert (found.fits & is_false).sum() < 0.15 * is_false.sum()


def test_no_overlap_is_no_camera() -> None:
    tracks = seen(MOTIONS["pan"], *points_of())
    assert cameras_from_tracks(replace(tracks, weight=torch.zeros_like(tracks.weight)), SIDE) is None
    weight = tracks.weight.clone()
    weight[1] = 0
    found = cameras_from_tracks(replace(tracks, weight=weight), SIDE)
    assert found is not None
    assert found.is_supported.tolist() == [True, False, True]
    assert not found.fits[1].any()


def test_matches_by_chance_support_nothing() -> None:
    generator = torch.Generator().manual_seed(6)
    tracks = seen(MOTIONS["pan"], *points_of())
    chance = (torch.rand(tracks.found.shape, generator=generator, dtype=torch.float64) - 0.5) * 150
    found = cameras_from_tracks(replace(tracks, found=chance), SIDE)
    assert found is None or not found.is_supported.any()


def test_symmetries() -> None:
    """Other orders of the views, images twice as large, mirrored images."""
    pixels, depth = points_of()
    tracks = seen(MOTIONS["orbit"], pixels, depth)
    found = cameras_from_tracks(tracks, SIDE)
    order = [2, 0, 1]
    permuted = cameras_from_tracks(replace(tracks, found=tracks.found[order], weight=tracks.weight[order]), SIDE)
    assert found is not None
    assert permuted is not None
    torch.testing.assert_close(permuted.w2c, found.w2c[order], atol=2e-3, rtol=0)
    scaled = cameras_from_tracks(replace(tracks, pixels=2 * pixels, found=2 * tracks.found), 2 * SIDE)
    assert scaled is not None
    torch.testing.assert_close(scaled.w2c, found.w2c, atol=6e-3, rtol=0)
    assert scaled.focal.item() == pytest.approx(2 * found.focal.item(), rel=6e-3)
    flip = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    mirrored = cameras_from_tracks(replace(tracks, pixels=flip * pixels, found=flip * tracks.found), SIDE)
    assert mirrored is not None
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(mirrored.w2c, mirror @ found.w2c @ mirror, atol=2e-3, rtol=0)


def test_adjustment_descends_and_counts_what_is_behind() -> None:
    pixels, depth = points_of()
    tracks = seen(MOTIONS["parallel"], pixels, depth)
    start = BundleSolution(
        torch.tensor([FOCAL, 100.0], dtype=torch.float64),
        torch.eye(3, dtype=torch.float64).repeat(2, 3, 1, 1),
        torch.zeros(2, 3, 3, dtype=torch.float64),
        torch.ones(2, len(pixels), dtype=torch.float64),
    )
    prior = FocalPrior(math.log(FOCAL), 1e6)
    costs = [adjust(start, tracks, prior, max_steps=steps).cost for steps in (0, 3, 40)]
    assert (costs[1] < costs[0]).all()
    assert (costs[2] < costs[1]).all()
    assert costs[2][0] < 1e-3
    behind = replace(start, translation=torch.tensor([0.0, 0, -2], dtype=torch.float64).expand(2, 3, 3))
    assert (behind.errors(tracks) == 100).all()
