"""Tracks made from depth: on analytic surfaces, occluded, beside borders, and where there are too few."""

import dataclasses
from pathlib import Path

import pytest
import torch

from geometry import FrameBatch, Traits, Views
from geometry.cameras import pixel_centers
from geometry.epipolar import fundamental_matrix, sampson_distance
from geometry.errors import InputError
from models.vggt.objective.ground_truth import ground_truth
from models.vggt.objective.losses import vggt_objective
from models.vggt.objective.track_targets import (
    TrackTargets,
    group_tracks,
    tracks_from_depth,
    tracks_of_batch,
    visible_at,
)
from tests import goldens
from tests.scenes import random_views, ring_cameras

HEIGHT, WIDTH = 48, 64


def plane_views(num_views: int = 4) -> Views:
    """The plane z = 0 of the world, seen from an arc of cameras."""
    cameras = ring_cameras(num_views, HEIGHT, WIDTH)
    pixels = pixel_centers(HEIGHT, WIDTH, cameras.w2c).expand(num_views, -1, -1)
    rays = cameras.rays(pixels, torch.ones(num_views), 2 * torch.ones(num_views))
    depth = -rays.origins[..., 2] / rays.directions[..., 2] * rays.cos_optical
    views = random_views(num_views, height=HEIGHT, width=WIDTH)
    return dataclasses.replace(views, cameras=cameras, depth=depth.unflatten(-1, (HEIGHT, WIDTH)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relative(views: Views) -> Views:
    w2c = views.cameras.w2c @ views.cameras.c2w[:1]
    return dataclasses.replace(views, cameras=dataclasses.replace(views.cameras, w2c=w2c))


def test_tracks_of_a_plane_are_projections_of_its_points() -> None:
    views = plane_views()
    tracks = group_tracks(views, 40, generator())
    assert tracks.positive.all()
    queries = tracks.queries + 0.5
    rays = views.cameras[0].rays(queries, torch.tensor(1.0), torch.tensor(2.0))
    points = rays.origins - rays.directions * (rays.origins[..., 2] / rays.directions[..., 2])[..., None]
    projection = views.cameras.project(points)
    assert (projection.pixels - 0.5 - tracks.points).norm(dim=-1).max() < 0.02
    x, y = tracks.points.unbind(-1)
    is_inside = (x >= 4) & (x < WIDTH - 4) & (y >= 4) & (y < HEIGHT - 4)
    assert torch.equal(tracks.visible, is_inside)
    assert tracks.visible[0].all()
    assert tracks.visible[1:].any(0).all()


def test_the_better_half_is_preferred() -> None:
    """There are far more candidates than tracks, so none that is seen less than the median is taken."""
    views = plane_views(6)
    few, all_of_them = group_tracks(views, 20, generator()), group_tracks(views, 2000, generator())
    seen = all_of_them.visible[:, all_of_them.positive].sum(0)
    assert few.visible.sum(0).min() >= seen.median() > seen.min()


def test_occluded_points_are_not_visible() -> None:
    views = plane_views(3)
    depth = views.depth.clone()
    depth[1] *= 0.5
    depth[2, :, : WIDTH // 2] *= 1.06
    tracks = group_tracks(dataclasses.replace(views, depth=depth), 30, generator())
    assert tracks.positive.any()
    assert not tracks.visible[1].any()
    assert tracks.visible[2].any()
    assert (tracks.points[2, tracks.visible[2], 0] > WIDTH / 2 - 1.5).all()


def test_visibility_needs_one_agreeing_neighbor_and_no_border() -> None:
    depth = torch.ones(1, 12, 12)
    depth[0, 5, 6] = 2.0
    places = torch.tensor([[[5.5, 4.5], [3.99, 6.0], [4.0, 6.0], [7.99, 6.0], [8.0, 6.0]]])
    at = lambda value: visible_at(places, torch.full((1, 5), value), depth)[0].tolist()  # noqa: E731
    assert at(1.0) == [True, False, True, True, False]
    assert at(2.0) == [True, False, False, False, False]
    assert at(1.04) == [True, False, True, True, False]
    assert at(1.06) == at(0.94) == at(-1.0) == [False] * 5


def test_missing_tracks_are_invented_off_the_epipolar_lines() -> None:
    views = plane_views()
    depth = torch.zeros_like(views.depth)
    depth[:, 20:26, 20:26] = views.depth[:, 20:26, 20:26]
    tracks = group_tracks(dataclasses.replace(views, depth=depth), 60, generator())
    num_true = int(tracks.positive.sum())
    assert 0 < num_true < 60
    assert tracks.positive[:num_true].all()
    assert not tracks.visible[:, num_true:].any()
    cameras = relative(views).cameras
    fundamental = fundamental_matrix(cameras[:1], cameras[1:])
    places, queries = tracks.points[1:] + 0.5, tracks.queries + 0.5
    distance = sampson_distance(fundamental, queries, places)
    assert distance[:, :num_true].max() < 0.01
    assert (distance[:, num_true:] > 16).float().mean() > 0.5  # the image is hardly larger than that


@pytest.mark.parametrize("num_views", [1, 3])
def test_without_any_depth_all_tracks_are_invented(num_views: int) -> None:
    views = plane_views(num_views)
    tracks = group_tracks(dataclasses.replace(views, depth=torch.zeros_like(views.depth)), 7, generator())
    assert tracks.points.shape == (num_views, 7, 2)
    assert tracks.points.isfinite().all()
    assert not (tracks.positive.any() | tracks.visible.any())


def batch_of(seeds: list[int]) -> FrameBatch:
    views = Views.stack([plane_views(3) for _ in seeds])
    return FrameBatch(views, tuple(f"group{seed}" for seed in seeds), torch.tensor(seeds), (Traits(),) * len(seeds))


def equal(first: TrackTargets, second: TrackTargets) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("points", "visible", "positive"))


def test_a_groups_tracks_depend_on_its_seed_alone() -> None:
    both, second = tracks_of_batch(batch_of([4, 9]), 12), tracks_of_batch(batch_of([9]), 12)
    assert both.points.shape == (2, 3, 12, 2)
    assert equal(both[1:], second)
    assert not equal(both[:1], second)


def test_the_generator_decides() -> None:
    views = batch_of([0, 0]).views
    first, again = (tracks_from_depth(views, 12, generator(3)) for _ in range(2))
    assert equal(first, again)
    assert not equal(first[:1], first[1:])
    with pytest.raises(InputError, match="depth"):
        tracks_from_depth(dataclasses.replace(views, depth=None), 12, generator())
    with pytest.raises(InputError, match="got 0"):
        tracks_from_depth(views, 0, generator())


def test_tracker_and_losses_meet() -> None:
    """Queries in, logits out, a gradient in every parameter of the tracker."""
    model = goldens.load_model(Path(__file__).parents[3] / "golden" / "conv_d64").eval()
    views = Views.stack([random_views(2, height=56, width=70)])
    views = dataclasses.replace(views, depth=torch.full_like(views.depth, 3.0))
    tracks = tracks_from_depth(views, 5, generator())
    output = model(views.images, tracks.queries)
    torch.testing.assert_close(output.vis_logits.sigmoid(), output.vis)
    torch.testing.assert_close(output.conf_logits.sigmoid(), output.conf)
    losses = vggt_objective(output, ground_truth(views), tracks=tracks)
    losses.objective.backward()
    assert losses.track.item() > 0
    without = [name for name, value in model.track_head.tracker.named_parameters() if value.grad is None]
    assert without == []
