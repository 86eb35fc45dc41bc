"""The fast tracer against the exact one, and the endless stream of groups."""

import numpy as np
import pytest
import torch

from data.multi_view.procedural_stream import EVALUATED_MOTIONS, GROUPS_PER_MOTION, MotionGroups, ProceduralFrames
from data.multi_view.sources import GroupKey
from data.procedural import dtu_rig, make_scene, render_view
from data.procedural.motions import MotionMix
from data.procedural.shapes import Box, Ellipsoid, Frustum, Shape, Torus
from data.procedural.textures import fractal_noise
from data.procedural.torch_shapes import intersect, normal
from data.procedural.torch_textures import fractal_noise as fast_noise
from data.procedural.torch_tracer import render_views
from geometry import FrameBatch, InputError, sample_at_pixels

SHAPES = (
    Ellipsoid(np.array([20.0, 30.0, 12.0])),
    Box(np.array([10.0, 24.0, 16.0])),
    Frustum(bottom=18.0, top=18.0, half_height=20.0),
    Frustum(bottom=25.0, top=0.0, half_height=20.0),
    Frustum(bottom=12.0, top=22.0, half_height=9.0),
    Torus(major=20.0, minor=7.0),
)


def _key(item: int, *, frames: int = 3, seed: int = 5) -> GroupKey:
    return GroupKey(source=0, item=item, num_frames=frames, height=48, width=64, seed=seed)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_fast_shapes_equal_the_exact_ones(shape: Shape):
    rng = np.random.default_rng(0)
    origin = 600 * np.array([[0.48], [-0.6], [0.64]])
    direction = (rng.uniform(-35, 35, (3, 4000)) - origin) / 500
    exact = shape.intersect(origin, direction)
    fast = intersect(shape, torch.tensor(origin.T, dtype=torch.float32), torch.tensor(direction.T, dtype=torch.float32))
    both = np.isfinite(exact) & np.isfinite(fast.numpy())
    assert both.sum() > 400
    assert (np.isfinite(exact) != np.isfinite(fast.numpy())).mean() < 0.005  # grazing rays
    errors = np.abs(exact[both] - fast.numpy()[both]) * np.linalg.norm(direction[:, both], axis=0)
    assert np.quantile(errors, 0.99) < 0.1  # mm
    points = (origin + exact * direction)[:, both]
    angles = (shape.normal(points) * normal(shape, torch.tensor(points.T, dtype=torch.float32)).numpy().T).sum(0)
    assert np.quantile(angles, 0.01) > 0.999


def test_fast_noise_equals_the_exact_one_at_every_level():
    points = np.random.default_rng(1).uniform(-300, 300, (3, 500)).astype(np.float32)
    for footprint in (0.5, 2.0, 9.0):
        expected = fractal_noise(points, 1.3, footprint)
        np.testing.assert_allclose(fast_noise(torch.from_numpy(points.T), 1.3, footprint).T, expected, atol=2e-3)


def test_coarser_noise_is_the_same_pattern():
    points = np.random.default_rng(2).uniform(-300, 300, (3, 4000)).astype(np.float32)
    fine, coarse = fractal_noise(points, 1.0, 0.5), fractal_noise(points, 1.0, 2.0)
    assert np.corrcoef(fine[0], coarse[0])[0, 1] > 0.8
    assert coarse.std() < fine.std()


def test_fast_pictures_equal_the_exact_ones():
    scene, cameras = make_scene((3, 1)), dtu_rig(64, 80)
    views = torch.tensor([7, 40])
    fast = render_views(scene, cameras[views], samples=4)
    for number, view in enumerate(views.tolist()):
        exact = render_view(scene, cameras[view])
        depth, known = fast.depth[number].numpy(), exact.depth > 0
        assert ((depth > 0) != known).mean() < 0.005
        assert np.quantile(np.abs(depth - exact.depth)[known], 0.98) < 0.1
        assert (
            np.abs(fast.images[number].permute(1, 2, 0).numpy() - exact.rgb).mean() < 0.04
        )  # textures are filtered harder


def test_groups_are_consistent_between_their_views():
    """Unproject the first view's depth, project into the others: the depth found there is the same or nearer."""
    group = ProceduralFrames(seed=1).sample_many([_key(4)])[0].views
    first = group.cameras[0]
    ys, xs = (group.depth[0] > 0).nonzero().T
    pixels = torch.stack([xs, ys], dim=-1) + 0.5
    points = first[None].unproject(pixels[None], group.depth[0][ys, xs][None])[0]
    agreeing = []
    for other in range(1, 3):
        projected = group.cameras[other][None].project(points[None])
        inside = (projected.pixels[0] > 1).all(-1) & (projected.pixels[0] < torch.tensor([63.0, 47.0])).all(-1)
        found = sample_at_pixels(group.depth[other][None, None], projected.pixels, 48, 64)[0, :, 0]
        relative = (found / projected.depth[0] - 1)[inside & (found > 0)]
        agreeing.append((relative.abs() < 0.01).float().mean().item())
    assert min(agreeing) > 0.6


def test_stream_is_a_function_of_its_keys():
    source = ProceduralFrames(seed=2)
    together = source.sample_many([_key(1), _key(2, seed=6)])
    again = ProceduralFrames(seed=2).sample_many([_key(2, seed=6)])[0]
    assert torch.equal(together[1].views.images, again.views.images)
    assert torch.equal(together[1].views.cameras.w2c, again.views.cameras.w2c)
    assert not torch.equal(together[0].views.images, again.views.images)
    stacked = FrameBatch.stack(together)
    assert stacked.views.images.shape == (2, 3, 3, 48, 64)
    assert stacked.names == ("procedural/1", "procedural/2")
    assert (stacked.views.near < stacked.views.far).all()
    other_seed = ProceduralFrames(seed=3).sample_many([_key(2, seed=6)])[0]
    assert not torch.equal(other_seed.views.images, again.views.images)


def test_scenes_that_come_back_are_rendered_once():
    source = ProceduralFrames(seed=4, num_scenes=3)
    assert len(source) == 3
    first, second = (source.sample_many([_key(1, seed=seed)])[0].views for seed in (7, 8))
    again = ProceduralFrames(seed=4, num_scenes=3).sample_many([_key(1, seed=8)])[0].views
    assert torch.equal(again.images, second.images)
    assert torch.equal(again.cameras.w2c, second.cameras.w2c)
    assert len(source._kept) == 1
    kept = next(iter(source._kept.values()))
    for view in (*first.images, *second.images):
        distance = (kept.images / 255 - view).abs().flatten(1).amax(1)
        assert distance.min() == 0
    with pytest.raises(InputError, match="expected at most 49 frames of a procedural scene, got 50"):
        ProceduralFrames(seed=4).sample_many([_key(1, frames=50)])
    with pytest.raises(InputError, match="--procedural_scenes 3"):
        source.sample_many([_key(1, frames=9)])


def test_memory_of_scenes_that_come_back_is_bounded(monkeypatch: pytest.MonkeyPatch):
    source = ProceduralFrames(seed=4, num_scenes=3)
    one = source.sample_many([_key(0)])[0].views
    monkeypatch.setattr("data.multi_view.procedural_stream._CACHE_BYTES", source._kept_bytes)
    source.sample_many([_key(1)])
    assert [place[0] for place in source._kept] == [1]
    assert torch.equal(source.sample_many([_key(0)])[0].views.images, one.images)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_an_enlarged_solid_is_hit_where_it_ought_to_be(shape: Shape):
    """By a ray near the center or, where that flies through the hole of a torus, by one to the middle of its tube."""
    origin, direction = np.array([[100.0], [-200.0], [300.0]]), np.array([[-0.97, -0.8], [2.02, 2.0], [-2.98, -3.0]])
    large = shape.enlarged(2.5).intersect(2.5 * origin, 2.5 * direction)
    assert np.isfinite(large).any()
    np.testing.assert_allclose(large, shape.intersect(origin, direction), rtol=1e-5)
    assert shape.enlarged(2.5).bounding_radius == pytest.approx(2.5 * shape.bounding_radius)


MIX = MotionMix((("parallel", 1.0), ("pan", 1.0), ("orbit", 1.0)), rooms=0.5, rolls=0.2)


def test_groups_of_every_motion_overlap_and_are_consistent():
    """Points of the first view are found in the others at the depth that is there, or behind something nearer."""
    for kind, mix in EVALUATED_MOTIONS.items():
        agreeing, inside_shares = [], []
        for item in range(4):
            views = ProceduralFrames(seed=5, mix=mix).sample_many([_key(item, seed=item)])[0].views
            assert (views.depth > 0).float().mean() > 0.1
            ys, xs = (views.depth[0] > 0).nonzero().T
            pixels = torch.stack([xs, ys], dim=-1) + 0.5
            points = views.cameras[0][None].unproject(pixels[None], views.depth[0][ys, xs][None])
            for other in (1, 2):
                projected = views.cameras[other][None].project(points)
                inside = ((projected.pixels[0] > 1) & (projected.pixels[0] < torch.tensor([63.0, 47.0]))).all(-1)
                inside &= projected.depth[0] > 0
                inside_shares.append(inside.float().mean().item())
                found = sample_at_pixels(views.depth[other][None, None], projected.pixels, 48, 64)[0, :, 0]
                relative = (found / projected.depth[0] - 1)[inside & (found > 0)]
                agreeing.append((relative < 0.02).float().mean().item())
        assert np.nanmean(agreeing) > 0.85, kind
        assert np.mean(inside_shares) > 0.4, kind


def test_a_mix_is_a_function_of_its_keys_whether_scenes_come_back_or_not():
    for num_scenes in (0, 4):
        one, two = (ProceduralFrames(seed=6, num_scenes=num_scenes, mix=MIX, sensor=0.5) for _ in range(2))
        together = one.sample_many([_key(1), _key(2, seed=6)])
        again = two.sample_many([_key(2, seed=6)])[0]
        assert torch.equal(together[1].views.images, again.views.images)
        assert torch.equal(together[1].views.cameras.w2c, again.views.cameras.w2c)


def test_a_group_of_a_photograph_shows_a_plane():
    """Inverse depth of a plane is linear in the pixel."""
    mix = MotionMix((("pan", 1.0), ("orbit", 1.0)), rooms=1.0, photos=1.0)
    views = ProceduralFrames(seed=5, mix=mix).sample_many([_key(0, seed=3)])[0].views
    inverse = 1 / views.depth.double()
    assert inverse.isfinite().all()
    assert inverse.flatten(1).std(1).min() > 0.01 * inverse.mean()
    for axis in (1, 2):
        assert inverse.diff(n=2, dim=axis).abs().max() < 1e-4 * inverse.mean()


def test_the_sensor_photographs_the_share_of_groups_asked_for():
    clean = [ProceduralFrames(seed=7, mix=MIX).sample_many([_key(1, seed=seed)])[0].views for seed in range(8)]
    some = [
        ProceduralFrames(seed=7, mix=MIX, sensor=0.5).sample_many([_key(1, seed=seed)])[0].views for seed in range(8)
    ]
    changed = [not torch.equal(one.images, other.images) for one, other in zip(clean, some, strict=True)]
    assert 1 <= sum(changed) <= 7
    assert all(torch.equal(one.depth, other.depth) for one, other in zip(clean, some, strict=True))


def test_motions_are_evaluated_apart_with_equally_many_groups():
    source = MotionGroups(seed=8)
    assert len(source) == len(EVALUATED_MOTIONS) * GROUPS_PER_MOTION
    keys = [_key(GROUPS_PER_MOTION * number) for number in range(len(EVALUATED_MOTIONS))]
    names = [group.names[0] for group in source.sample_many(keys)]
    assert names == [f"procedural/{kind}" for kind in EVALUATED_MOTIONS]
