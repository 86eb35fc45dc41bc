"""Chunks of a sequence in one frame: similarities that are known, and points that lie."""

import math

import torch

from geometry import Cameras, rigid_inverse
from geometry.pose_metrics import Similarity, relative_pose_errors
from render.reconstruct.chunk_alignment import PredictedView, align_chunks, join_chunks, robust_similarity

ROWS, COLS = 24, 32


def turned(degrees: float) -> torch.Tensor:
    """A rotation about a skew axis."""
    axis = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    x, y, z = (axis / axis.norm() * math.radians(degrees)).tolist()
    return torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))


MOTION = Similarity(torch.tensor(2.5).double(), turned(40), torch.tensor([3.0, -1.0, 0.5]).double())
"""From the later chunk's frame to the earlier one's."""


def inverse(similarity: Similarity) -> Similarity:
    rotation = similarity.rotation.mT
    return Similarity(1 / similarity.scale, rotation, -rotation @ similarity.translation / similarity.scale)


def view(index: int) -> PredictedView:
    """A camera on a line that looks at a bumpy wall; a file of twice the resolution of the depth."""
    w2c = torch.eye(4)
    w2c[:3, :3] = turned(3.0 * index).float()
    w2c[0, 3] = -0.5 * index
    intrinsics = torch.tensor([[70.0, 0, COLS], [0, 72, ROWS], [0, 0, 1]])
    generator = torch.Generator().manual_seed(index)
    depth = 4 + torch.rand(ROWS, COLS, generator=generator)
    image = torch.rand(3, ROWS, COLS, generator=generator)
    return PredictedView(
        f"{index}.jpg", Cameras(w2c, intrinsics, 2 * ROWS, 2 * COLS), image, depth, torch.ones(ROWS, COLS)
    )


def test_a_moved_view_sees_its_moved_points_at_the_same_pixels() -> None:
    pixels = torch.tensor([[3.0, 4.0], [50.0, 40.0]])
    before = view(3)
    after = before.moved(MOTION)
    points = MOTION(before.points_at(pixels).double()).float()
    torch.testing.assert_close(after.points_at(pixels), points)
    torch.testing.assert_close(after.camera.project(points).pixels, pixels, atol=1e-3, rtol=0)


def test_chunks_are_joined_in_the_frame_of_the_first() -> None:
    truth = [view(index) for index in range(7)]
    later = [one.moved(inverse(MOTION)) for one in truth[2:]]
    joined, joint = join_chunks(truth[:5], later, 3)
    assert [one.name for one in joined] == [one.name for one in truth]
    for one, other in zip(joined, truth, strict=True):
        torch.testing.assert_close(one.camera.w2c, other.camera.w2c, atol=1e-5, rtol=0)
        torch.testing.assert_close(one.depth, other.depth)
    assert (joint.name, joint.views) == ("2.jpg", 3)
    torch.testing.assert_close(joint.scale, 2.5)
    assert joint.residual < 1e-5
    assert joint.inliers > 0.999


def test_wild_points_do_not_move_the_joint_and_the_residual_is_reported() -> None:
    """A quarter of the later chunk's depth is five times too large, the rest 2 % off."""
    generator = torch.Generator().manual_seed(0)
    truth = [view(index) for index in range(3)]
    later = []
    for one in truth:
        noise = 1 + 0.02 * torch.randn(ROWS, COLS, generator=generator)
        noise[torch.rand(ROWS, COLS, generator=generator) < 0.25] = 5.0
        wrong = PredictedView(one.name, one.camera, one.image, one.depth * noise, one.confidence)
        later.append(wrong.moved(inverse(MOTION)))
    similarity, joint = align_chunks(truth, later)
    torch.testing.assert_close(similarity.scale.item(), 2.5, rtol=0.01, atol=0)
    angles = relative_pose_errors(
        torch.stack([torch.eye(4), later[0].moved(similarity).camera.w2c @ rigid_inverse(truth[0].camera.w2c)]),
        torch.eye(4).expand(2, 4, 4),
    )
    assert angles.rotation.item() < 0.5
    assert 0.01 < joint.residual < 0.04
    assert 0.7 < joint.inliers < 0.8


def test_unsure_pixels_count_less() -> None:
    """Half of the points say scale 1 and half scale 2; the surer ones decide."""
    source = torch.randn(400, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scale = torch.ones(400, 1, dtype=torch.float64)
    scale[200:] = 2
    weights = torch.ones(400, dtype=torch.float64)
    weights[:200] = 10
    start = Similarity(torch.tensor(1.4).double(), turned(5), torch.zeros(3).double())
    found, error = robust_similarity(source, source * scale, weights, torch.ones_like(weights), start)
    torch.testing.assert_close(found.scale.item(), 1.0)
    assert error[:200].max() < 1e-6
