"""The stem of VGGT-nano: what the soft match says about shifted images, and its symmetries."""

import math
from dataclasses import replace

import pytest
import torch

from geometry import Cameras, InputError, Views
from models.vggt.config import AggregatorConfig
from models.vggt.match_stem import MatchStem, _expected, cell_positions
from models.vggt.objective.match_loss import NO_MATCH, match_loss, match_targets
from models.vggt.vggt import VGGT

SIZES = {
    "aggregator": {
        "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_embed": "match",
    },
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
    "depth_head": {"intermediate_layer_idx": [0, 0, 1, 1], "features": 8, "out_channels": [8, 8, 8, 8]},
    "point_head": None,
    "track_head": None,
}  # fmt: skip


def test_positions_are_cell_centers_in_half_widths():
    positions = cell_positions(2, 4, torch.zeros(()))
    torch.testing.assert_close(positions[0], torch.tensor([-0.75, -0.25]))
    torch.testing.assert_close(positions[-1], torch.tensor([0.75, 0.25]))


def test_a_certain_match_gives_its_displacement():
    positions = cell_positions(3, 5, torch.zeros(()))
    logits = torch.full((1, 1, 15, 15), -1e4)
    for cell in range(15):
        logits[0, 0, cell, (cell + 1) % 15] = 0.0
    cues = _expected(logits, positions)
    torch.testing.assert_close(cues[0, 0, 0, :2], torch.tensor([4 * 2 / 5, 0.0]))
    torch.testing.assert_close(cues[..., 4], torch.ones(1, 1, 15))
    assert cues[..., 2:4].max() < 2e-3


def test_displacement_follows_a_shifted_image():
    torch.manual_seed(0)
    stem = MatchStem(8, 16)
    stem.sharpness.data.fill_(6.0)  # exp(6): all but a hard match
    wide = torch.rand(1, 3, 64, 96 + 16)
    views = torch.stack([wide[..., :96], wide[..., 16:]], dim=1)
    seen = {}
    stem.cues.register_forward_pre_hook(lambda _module, inputs: seen.update(cues=inputs[0]))
    stem(views)
    cells = seen["cues"].unflatten(-1, (7, 4))  # view patch cue cell
    across = cells[1].unflatten(0, (8, 12))[2:-2, 2:-4, 2].flatten()
    torch.testing.assert_close(across.median(), torch.tensor(4 * 16 * 2 / 96), atol=0.02, rtol=0)
    back = cells[0].unflatten(0, (8, 12))[2:-2, 4:-2, 2].flatten()
    torch.testing.assert_close(back.median(), torch.tensor(-4 * 16 * 2 / 96), atol=0.02, rtol=0)


def test_views_behind_the_first_may_be_permuted():
    torch.manual_seed(1)
    model, images = VGGT.from_config(SIZES).eval(), torch.rand(2, 4, 3, 16, 32)
    order = [0, 3, 1, 2]
    one, other = model(images), model(images[:, order])
    torch.testing.assert_close(other.depth, one.depth[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(other.pose_enc, one.pose_enc[:, order], atol=1e-5, rtol=1e-4)


def test_blocks_follow_every_halving_but_the_first():
    plain, deep = MatchStem(8, 16), MatchStem(8, 16, num_blocks=2)
    assert [len(level) for level in plain.levels] == [3, 3, 3]
    assert [len(level) for level in deep.levels] == [3, 5, 5]
    images = torch.rand(1, 2, 3, 16, 32)
    assert deep(images).tokens.shape == plain(images).tokens.shape
    with pytest.raises(InputError, match="stem_blocks 2"):
        AggregatorConfig(patch_size=8, embed_dim=16, num_heads=2, patch_embed="conv", stem_blocks=2)


def test_batch_of_two_equals_two_batches_and_one_view_is_enough():
    torch.manual_seed(2)
    model, images = VGGT.from_config(SIZES).eval(), torch.rand(2, 2, 3, 16, 32)
    torch.testing.assert_close(model(images).depth[1:], model(images[1:]).depth, atol=1e-5, rtol=1e-4)
    assert model(images[:, :1]).depth.isfinite().all()


def test_refusals():
    with pytest.raises(InputError, match="power of two"):
        AggregatorConfig(patch_size=6, embed_dim=16, num_heads=2, patch_embed="match")
    with pytest.raises(InputError, match="multiples of 8, got 20x32"):
        MatchStem(8, 16)(torch.rand(1, 2, 3, 20, 32))


def _plane(shift_cells: float) -> Views:
    """Two cameras before a plane; the second sees everything `shift_cells` cells of 4 pixels further left."""
    height, width, depth = 16, 32, 5.0
    intrinsics = torch.tensor([[20.0, 0, width / 2], [0, 20.0, height / 2], [0, 0, 1]])
    w2c = torch.eye(4).repeat(1, 2, 1, 1)
    w2c[0, 1, 0, 3] = -shift_cells * 4 * depth / 20.0
    return Views(
        images=torch.zeros(1, 2, 3, height, width),
        cameras=Cameras(w2c, intrinsics.expand(1, 2, 3, 3), height, width),
        near=torch.ones(1, 2),
        far=torch.full((1, 2), 9.0),
        ids=torch.arange(2)[None],
        depth=torch.full((1, 2, height, width), depth),
    )


def test_match_targets_of_a_shifted_plane():
    views = _plane(shift_cells=2)
    targets = match_targets(views[:, :1], views[:, 1:], num_cells=32)[0, 0].unflatten(0, (4, 8))
    cells = torch.arange(32).unflatten(0, (4, 8))
    assert torch.equal(targets[:, 2:], cells[:, :-2])
    assert (targets[:, :2] == NO_MATCH).all()


def test_match_targets_leave_out_unknown_and_hidden_points():
    views = _plane(shift_cells=0)
    depth = views.depth.clone()
    depth[0, 0, :4] = 0  # unknown in the first view
    depth[0, 1, 4:8] = 2.0  # something nearer stands there in the second
    targets = match_targets(replace(views, depth=depth)[:, :1], views[:, 1:], num_cells=32)
    assert (targets[0, 0].unflatten(0, (4, 8))[0] == NO_MATCH).all()
    hidden = match_targets(views[:, :1], replace(views, depth=depth)[:, 1:], num_cells=32)
    assert (hidden[0, 0].unflatten(0, (4, 8))[1] == NO_MATCH).all()


def test_match_loss_is_that_of_a_guess_and_of_the_truth():
    views = _plane(shift_cells=0)
    assert match_loss(torch.zeros(1, 1, 32, 32), views).item() == pytest.approx(2 * math.log(32), rel=1e-5)
    assert match_loss(1e3 * torch.eye(32)[None, None], views).item() == pytest.approx(0, abs=1e-6)
    nothing = replace(views, depth=torch.zeros_like(views.depth))
    assert match_loss(torch.zeros(1, 1, 32, 32), nothing).item() == 0


def test_match_loss_of_a_shifted_plane_tells_rows_from_columns():
    views = _plane(shift_cells=2)
    cells = torch.arange(32).unflatten(0, (4, 8))
    truth = torch.zeros(1, 1, 32, 32)
    truth[0, 0, cells[:, 2:].flatten(), cells[:, :-2].flatten()] = 1e3
    assert match_loss(truth, views).item() == pytest.approx(0, abs=1e-6)
    assert match_loss(truth.transpose(2, 3), views).item() > 100
