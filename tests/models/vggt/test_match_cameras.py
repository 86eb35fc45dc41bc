"""Cameras from the matches of the network that ships, for views of a photograph that turn about one point."""

from pathlib import Path

import cv2
import pytest
import torch
from skimage import data
from torch import Tensor

from geometry import InputError
from geometry.pose_metrics import relative_pose_errors
from models.vggt import VGGT, FrozenVGGT, VGGTOutput, WeightIdentity
from models.vggt.image_tracks import tracks_from_first_view
from models.vggt.match_cameras import cameras_from_matches, require_match_stem, with_matched_cameras
from models.vggt.pose_encoding import decode_pose, encode_pose, homogeneous
from models.vggt.weights import load_vggt
from tests.geometry.test_track_cameras import turned

NANO = Path(__file__).parents[3] / "ckpts" / "vggt_nano.safetensors"
HEIGHT, WIDTH, FOCAL = 128, 160, 200.0
LENS = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
TURNS = [turned((0, 0, 0)), turned((0, 6, 0)), turned((5, 0, 100)), turned((-3, -6, 25))]


def between(rotation: Tensor) -> Tensor:
    """The homography from pixels of the first view to those of a view turned by `rotation`."""
    return LENS @ rotation @ torch.linalg.inv(LENS)


@pytest.fixture(scope="module")
def images() -> Tensor:
    photo = cv2.GaussianBlur(data.astronaut(), (0, 0), 0.8)
    # the middle of the photograph at 2 of its pixels per pixel of the first view
    to_first = torch.tensor([[0.5, 0, WIDTH / 2 - 128], [0, 0.5, HEIGHT / 2 - 128], [0, 0, 1]], dtype=torch.float64)
    half = torch.tensor([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], dtype=torch.float64)  # OpenCV counts integer centers
    views = []
    for rotation in TURNS:
        whole = torch.linalg.inv(half) @ between(rotation) @ to_first @ half
        view = cv2.warpPerspective(photo, whole.numpy(), (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
        views.append(torch.from_numpy(view).permute(2, 0, 1).float() / 255)
    return torch.stack(views)


@pytest.fixture(scope="module")
def network() -> VGGT:
    return load_vggt(NANO, heads=("camera", "depth"))[0]


def predicted(views: int) -> VGGTOutput:
    """What a network might say: cameras in a row, a narrow lens, a constant depth."""
    extrinsics = torch.eye(4)[:3].repeat(views, 1, 1)
    extrinsics[:, 0, 3] = torch.arange(views)
    lens = torch.diag(torch.tensor([400.0, 400.0, 1.0])).expand(views, 3, 3)
    pose_enc = encode_pose(extrinsics, lens, HEIGHT, WIDTH)
    return VGGTOutput(
        tokens={},
        pose_enc=pose_enc[None],
        depth=torch.full((1, views, HEIGHT, WIDTH, 1), 3.0),
        depth_conf=torch.ones(1, views, HEIGHT, WIDTH),
        world_points=torch.zeros(1, views, HEIGHT, WIDTH, 3),
    )


def test_tracks_are_exact_to_a_fraction_of_a_pixel(network: VGGT, images: Tensor) -> None:
    tracks, pixels = tracks_from_first_view(require_match_stem(network, "test"), images)
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
    torch.testing.assert_close(tracks.pixels, pixels.double() - middle)
    for view, rotation in enumerate(TURNS[1:]):
        ends = torch.nn.functional.pad(pixels.double(), (0, 1), value=1.0) @ between(rotation).mT
        error = (ends[:, :2] / ends[:, 2:] - middle - tracks.found[view]).norm(dim=-1)
        surely = tracks.weight[view] == 1
        assert surely.sum() > 100
        assert error[surely].median() < 0.3
        assert (error[surely] < 2).double().mean() > 0.9


def test_cameras_are_those_of_the_turns(network: VGGT, images: Tensor) -> None:
    blank = torch.full_like(images[:1], 0.5)
    shown = torch.cat([images[:1], images[2:3], blank, images[1:2]])[None]
    output = predicted(4)
    matched = cameras_from_matches(shown, output, network)
    assert matched.is_matched.tolist() == [[True, True, False, True]]
    assert (matched.support > 0).tolist() == [[False, True, False, True]]
    extrinsics, lens = decode_pose(matched.pose_enc[0].double(), HEIGHT, WIDTH)
    w2c = homogeneous(extrinsics)
    truth = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    truth[:, :3, :3] = torch.stack(TURNS)[[0, 2, 1]]
    assert relative_pose_errors(w2c[[0, 1, 3]], truth).rotation.max() < 1
    assert lens[0, 0, 0].item() == pytest.approx(FOCAL, rel=0.1)
    torch.testing.assert_close(extrinsics[2, :, 3], torch.tensor([2.0, 0, 0], dtype=torch.float64))  # the network's

    changed = with_matched_cameras(output, matched)
    assert changed.world_points is None
    assert torch.equal(changed.depth[..., 0], matched.depth)
    torch.testing.assert_close(changed.depth[:, 2], output.depth[:, 2])


def test_without_matches_everything_stays(network: VGGT) -> None:
    output = predicted(3)
    matched = cameras_from_matches(torch.full((1, 3, 3, HEIGHT, WIDTH), 0.5), output, network)
    assert not matched.is_matched.any()
    assert torch.equal(matched.pose_enc, output.pose_enc)
    assert torch.equal(matched.depth, output.depth[..., 0])
    alone = cameras_from_matches(torch.rand(1, 1, 3, HEIGHT, WIDTH), predicted(1), network)
    assert not alone.is_matched.any()


def test_a_frozen_network_gives_them_in_pixels_of_its_input(network: VGGT, images: Tensor) -> None:
    frozen = FrozenVGGT(network, WeightIdentity("nano", ""), (0,), image_size=WIDTH, camera_matches=True)
    shown = torch.nn.functional.interpolate(images[:2], scale_factor=2, mode="bilinear")[None]
    found = frozen(shown)
    assert found.w2c is not None
    assert found.intrinsics is not None
    truth = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    truth[1, :3, :3] = TURNS[1]
    assert relative_pose_errors(found.w2c[0], truth).rotation.max() < 1
    assert torch.equal(found.w2c[0, 0], torch.eye(4))


def test_refusals(network: VGGT) -> None:
    plain = VGGT.from_config({
        "aggregator": {
            "img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 1, "patch_embed": "conv"
        },
        "camera_head": None, "depth_head": None, "point_head": None, "track_head": None,
    })  # fmt: skip
    with pytest.raises(InputError, match="--camera_matches: expected a network with a match stem"):
        require_match_stem(plain, "--camera_matches")
    with pytest.raises(InputError, match="camera_matches: expected a network with a match stem"):
        FrozenVGGT(plain, WeightIdentity("plain", ""), (0,), camera_matches=True)
    images = torch.rand(1, 2, 3, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="camera and depth head"):
        cameras_from_matches(images, VGGTOutput(tokens={}), network)
