"""Scene normalization and targets; the recorded scene is compared in `tests.goldens`."""

import dataclasses

import pytest
import torch
from torch import Tensor

from geometry import Cameras, Views
from geometry.errors import InputError
from models.vggt.objective.ground_truth import GroundTruth, ground_truth, mean_distance, normalize_scene
from models.vggt.pose_encoding import decode_pose, encode_pose
from tests.scenes import random_views, rigid_motion


def grouped_views() -> Views:
    """Two groups of three noise views, some depth unknown."""
    groups = [random_views(3, seed=seed) for seed in (0, 1)]
    views = Views.stack(groups)
    depth = views.depth.clone()
    depth[:, 1, :5] = 0.0
    return dataclasses.replace(views, depth=depth)


def transformed(views: Views, factor: float, motion: Tensor) -> Views:
    """The same views in another world frame and unit."""
    cameras = dataclasses.replace(views.cameras, w2c=views.cameras.w2c @ motion)
    depth = views.depth * factor
    return dataclasses.replace(views, cameras=cameras.scaled(factor), depth=depth)


def assert_same(first: GroundTruth, second: GroundTruth) -> None:
    for name in ("pose_enc", "depth", "points", "mask"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=2e-6, rtol=1e-5)


def test_targets_are_a_normalized_scene() -> None:
    truth = ground_truth(grouped_views())
    lengths = truth.points.norm(dim=-1)
    for group in range(2):
        assert lengths[group][truth.mask[group]].mean().item() == pytest.approx(1.0, abs=1e-5)
    identity = torch.tensor([0, 0, 0, 0, 0, 0, 1.0]).expand(2, 7)
    torch.testing.assert_close(truth.pose_enc[:, 0, :7], identity)
    assert torch.equal(truth.mask, truth.depth > 0)
    assert not truth.mask[:, 1, :5].any()


def test_points_lie_at_their_depth_and_pixel_in_their_own_camera() -> None:
    views = grouped_views()
    truth = ground_truth(views)
    extrinsics, _ = decode_pose(truth.pose_enc, 24, 32)
    w2c = torch.eye(4).repeat(2, 3, 1, 1)
    w2c[..., :3, :] = extrinsics
    cameras = Cameras(w2c, views.cameras.intrinsics, 24, 32)
    projection = cameras.project(truth.points.flatten(2, 3))
    valid = truth.mask.flatten(2)
    torch.testing.assert_close(projection.depth[valid], truth.depth.flatten(2)[valid], atol=1e-5, rtol=1e-5)
    row, column = 7, 9
    at = projection.pixels[:, 0, row * 32 + column]
    torch.testing.assert_close(at, torch.tensor([[9.5, 7.5]] * 2), atol=1e-4, rtol=0)


def test_a_similarity_of_the_world_changes_the_scale_only() -> None:
    views = grouped_views()
    truth, moved = ground_truth(views), ground_truth(transformed(views, 37.0, rigid_motion(3)))
    assert_same(truth, moved)
    torch.testing.assert_close(moved.scale, truth.scale * 37)


def test_without_scaling_units_are_kept() -> None:
    views = grouped_views()
    truth = ground_truth(views, is_scaled=False)
    torch.testing.assert_close(truth.depth, views.depth)
    assert truth.scale.tolist() == [1.0, 1.0]
    scaled = ground_truth(views)
    torch.testing.assert_close(scaled.depth * scaled.scale[:, None, None, None], views.depth)


def test_targets_equal_the_normalization_of_their_world_points() -> None:
    """By the reference's way: world points first."""
    views = transformed(grouped_views(), 2.0, rigid_motion(1))
    cameras, truth = views.cameras, ground_truth(views)
    pixels = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(24.0), indexing="xy"), -1).reshape(-1, 2) + 0.5
    points = cameras.unproject(pixels.expand(2, 3, -1, -1), views.depth.flatten(2)).unflatten(2, (24, 32))
    scene = normalize_scene(cameras.w2c, views.depth, points, torch.zeros_like(points), views.depth > 1e-8)
    pose = encode_pose(scene.w2c, cameras.intrinsics, 24, 32)
    assert_same(truth, GroundTruth(pose, scene.depth, scene.points, truth.mask, scene.scale))


def test_unknown_and_non_finite_depth_is_masked() -> None:
    views = grouped_views()
    depth = views.depth.clone()
    depth[0, 0, 3, 4], depth[0, 2, 0, 0], depth[1, 0, 1, 1] = float("nan"), float("inf"), -1.0
    truth = ground_truth(dataclasses.replace(views, depth=depth))
    assert not (truth.mask[0, 0, 3, 4] | truth.mask[0, 2, 0, 0] | truth.mask[1, 0, 1, 1])
    assert truth.points.isfinite().all()
    assert truth.depth.isfinite().all()


def test_a_group_without_depth_is_finite() -> None:
    views = grouped_views()
    truth = ground_truth(dataclasses.replace(views, depth=torch.zeros_like(views.depth)))
    assert truth.pose_enc.isfinite().all()
    assert (truth.scale > 0.1).all()  # of the cameras; the points have none
    still = dataclasses.replace(views.cameras, w2c=views.cameras.w2c[:, :1].expand(-1, 3, -1, -1))
    still = ground_truth(dataclasses.replace(views, cameras=still, depth=torch.zeros_like(views.depth)))
    assert still.scale.tolist() == pytest.approx([1e-6] * 2)
    assert still.pose_enc.isfinite().all()
    assert not truth.mask.any()


def test_mean_distance_by_hand() -> None:
    points = torch.tensor([[3.0, 4, 0], [0, 0, 1], [9, 9, 9], [9, 9, 9]]).reshape(1, 1, 2, 2, 3)
    mask = torch.tensor([[1, 1], [0, 0]]).bool()[None, None]
    assert mean_distance(points, mask).item() == pytest.approx(6 / 2.001)


def test_views_without_depth_are_refused() -> None:
    with pytest.raises(InputError, match="depth"):
        ground_truth(dataclasses.replace(grouped_views(), depth=None))


def test_without_depth_the_unit_is_the_mean_distance_of_the_cameras() -> None:
    """Of that group only; whatever the world's frame and unit."""
    views = grouped_views()
    depth = views.depth.clone()
    depth[1] = 0
    views = dataclasses.replace(views, depth=depth)
    truth = ground_truth(views)
    centers = views.cameras.c2w[1, :, :3, 3]
    expected = (centers[1:] - centers[0]).norm(dim=-1).mean()
    assert truth.scale[1].item() == pytest.approx(expected.item(), rel=1e-5)
    assert truth.pose_enc[1, 1:, :3].norm(dim=-1).mean().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(truth.pose_enc[0], ground_truth(grouped_views()).pose_enc[0])
    assert not truth.mask[1].any()
    moved = ground_truth(transformed(views, 7.0, rigid_motion(3)))
    torch.testing.assert_close(moved.pose_enc, truth.pose_enc, atol=1e-4, rtol=1e-4)
    assert all(torch.isfinite(getattr(truth, name)).all() for name in ("pose_enc", "depth", "points"))
    alone = views[:, :1]
    assert torch.isfinite(ground_truth(alone).pose_enc).all()
