"""VGGT's cameras and depth of photographs: sizes, chunks, memory; on a tiny network with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.image_io import write_image
from geometry import InputError
from models.memory import MemoryExceeded
from models.vggt.frozen import FrozenFeatures, FrozenVGGT
from render.reconstruct.types import Photo, PhotoSet
from render.reconstruct.vggt_prediction import SHIPPED_VGGT, confident_points, predict
from tests.render.tiny import write_backbone

SIZES = {"a.png": (40, 80), "b.png": (80, 40), "c.png": (40, 80), "d.png": (44, 80), "e.png": (40, 80)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoSet:
    """Five photographs of three shapes, one of them on its side."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_image(folder / name, draw.integers(0, 255, (*size, 3), dtype=np.uint8))
    return PhotoSet(folder, tuple(Photo(name, name, *size) for name, size in SIZES.items()), is_video=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write_backbone(tmp_path_factory.mktemp("weights") / "tiny.json", with_depth=True)
    return f"random:{path}:3"


def test_every_photograph_has_a_camera_of_its_own_size_and_depth_of_its_own_shape(
    photos: PhotoSet, weights: str
) -> None:
    prediction = predict(photos, weights)
    assert [view.name for view in prediction.views] == list(SIZES)
    for view, (height, width) in zip(prediction.views, SIZES.values(), strict=True):
        assert (view.camera.height, view.camera.width) == (height, width)
        assert view.depth.shape == view.confidence.shape == view.image.shape[1:]
        assert view.depth.shape == ((28, 14) if height > width else (14, 28))
        torch.testing.assert_close(view.camera.intrinsics[:2, 2], torch.tensor([width / 2, height / 2]))
    assert prediction.joints == ()
    assert prediction.warnings == ()
    files = predict([photos.folder / photo.name for photo in photos.photos], weights)
    assert torch.equal(files.w2c, prediction.w2c)


def test_points_project_where_they_come_from(photos: PhotoSet, weights: str) -> None:
    view = predict(photos, weights).views[1]
    cloud = confident_points(view, step=3)
    projection = view.camera.project(cloud.points)
    torch.testing.assert_close(projection.pixels, cloud.pixels, atol=1e-2, rtol=0)
    assert len(cloud.colors) == len(cloud.points) == 9 * 5
    assert len(confident_points(view, quantile=0.75).points) <= 0.26 * view.depth.numel()
    assert len(confident_points(view, least=view.confidence.max().item() + 1).points) == 0


class OneWorld:
    """Stands in for `FrozenVGGT.forward`: a row of cameras; each call has its first as the world, and its own unit."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.calls: list[int] = []

    def __call__(self, network: FrozenVGGT, images: torch.Tensor) -> FrozenFeatures:
        view, rows, cols = images.shape[1], *images.shape[-2:]
        self.calls.append(view)
        if view > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        unit = 1.0 + len(self.calls)
        w2c = torch.eye(4).repeat(view, 1, 1)
        w2c[:, 0, 3] = -unit * torch.arange(view)
        intrinsics = torch.tensor([[30.0, 0, cols / 2], [0, 30, rows / 2], [0, 0, 1]]).repeat(view, 1, 1)
        ramp = 5 + torch.arange(cols) / cols + torch.arange(rows)[:, None] / rows
        depth = unit * ramp.expand(1, view, rows, cols)
        tokens = torch.zeros(1, view, 1, 1, 1, 1)
        return FrozenFeatures(tokens, depth, torch.ones_like(depth), w2c[None], intrinsics[None])


def in_one_world(monkeypatch: pytest.MonkeyPatch, most: int = 1000) -> OneWorld:
    world = OneWorld(most)
    monkeypatch.setattr(FrozenVGGT, "forward", lambda network, images: world(network, images))
    return world


@pytest.mark.parametrize(
    ("size", "overlap", "calls"), [(3, 1, [3, 3]), (4, 1, [4, 4]), (3, None, [3, 3]), (0, None, [5]), (9, 8, [5])]
)
def test_chunks_become_one_sequence(
    photos: PhotoSet, weights: str, monkeypatch: pytest.MonkeyPatch, size: int, overlap: int | None, calls: list[int]
) -> None:
    world = in_one_world(monkeypatch)
    prediction = predict(photos, weights, chunk_size=size, chunk_overlap=overlap)
    assert world.calls == calls
    assert [view.name for view in prediction.views] == list(SIZES)
    assert len(prediction.joints) == len(calls) - 1
    torch.testing.assert_close(prediction.w2c[:, 0, 3], -2.0 * torch.arange(5), atol=1e-3, rtol=0)
    assert all(joint.residual < 1e-4 for joint in prediction.joints)


def test_chunks_are_halved_where_memory_does_not_suffice(
    photos: PhotoSet, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = in_one_world(monkeypatch, most=2)
    done = []
    prediction = predict(photos, weights, on_chunk=lambda count, total: done.append((count, total)))
    assert world.calls == [5, 2, 2, 2, 2]
    assert done == [(2, 5), (3, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(prediction.w2c[:, 0, 3], -3.0 * torch.arange(5), atol=1e-3, rtol=0)
    in_one_world(monkeypatch, most=1)
    with pytest.raises(MemoryExceeded, match="two photographs at once: lower --chunk_size or --vggt_image_size"):
        predict(photos, weights)


def test_joints_that_do_not_fit_are_named(photos: PhotoSet, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world = in_one_world(monkeypatch)

    def noisy(network: FrozenVGGT, images: torch.Tensor) -> FrozenFeatures:
        found = world(network, images)
        generator = torch.Generator().manual_seed(len(world.calls))
        return replace(found, depth=found.depth * (1 + 0.4 * torch.rand(found.depth.shape, generator=generator)))

    monkeypatch.setattr(FrozenVGGT, "forward", noisy)
    warnings = predict(photos, weights, chunk_size=3, chunk_overlap=1).warnings
    assert len(warnings) == 1
    assert "1 of 1 joints" in warnings[0]
    assert "at c.png" in warnings[0]


def test_the_shipped_weights_say_what_they_are(photos: PhotoSet) -> None:
    prediction = predict(photos)
    assert ["VGGT-nano" in warning and "photographs are beyond it" in warning for warning in prediction.warnings] == [
        True
    ]
    assert prediction.identity is not None
    assert prediction.identity.name == str(SHIPPED_VGGT)
    assert prediction.views[0].depth.shape == (80, 160)


def test_bad_input_is_refused(photos: PhotoSet, weights: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one photograph, got none"):
        predict([], weights)
    with pytest.raises(InputError, match="--chunk_overlap: expected 1 to 2, below --chunk_size, got 3"):
        predict(photos, weights, chunk_size=3, chunk_overlap=3)
    with pytest.raises(InputError, match="--chunk_size: expected 2 photographs or more, got -5"):
        predict(photos, weights, chunk_size=-5)
    with pytest.raises(InputError, match="--vggt_image_size: expected pixels"):
        predict(photos, weights, image_size=-1)
    headless = f"random:{write_backbone(tmp_path / 'headless.json')}:0"
    with pytest.raises(InputError, match=r"--vggt_ckpt .*: expected camera and depth heads"):
        predict(photos, headless)
