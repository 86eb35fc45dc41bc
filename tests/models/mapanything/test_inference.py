"""`infer` on a tiny network: what is refused, what comes out; where surfaces jump."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from geometry.errors import InputError
from geometry.pixel_rays import intrinsics_from_rays, unit_rays
from models.mapanything.edges import depth_edges, surface_edges
from models.mapanything.inference import View, checked_inputs, infer
from tests.models.mapanything.test_network import network
from tests.training.mapanything.tiny import IMAGES_ONLY

HEIGHT, WIDTH = 16, 24
K = torch.tensor([[20.0, 0, 12], [0, 22, 8], [0, 0, 1]])


def views(count: int = 3, **known: Any) -> list[View]:
    generator = torch.Generator().manual_seed(2)
    return [View(torch.rand(3, HEIGHT, WIDTH, generator=generator), **known) for _ in range(count)]


def everything() -> list[View]:
    return views(intrinsics=K, depth=torch.ones(HEIGHT, WIDTH), c2w=torch.eye(4))


def changed(at: int, **changes: Any) -> list[View]:
    given = everything()
    given[at] = replace(given[at], **changes)
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "views: expected at least one"),
        (changed(1, image=torch.rand(1, HEIGHT, WIDTH)), "view 1: expected an image of shape"),
        (changed(1, image=torch.rand(3, WIDTH, HEIGHT)), "view 1: expected an image as large as view 0's"),
        (changed(2, image=torch.full((3, HEIGHT, WIDTH), torch.nan)), "view 2: expected finite image"),
        (
            changed(1, image=255 * torch.ones(3, HEIGHT, WIDTH)),
            r"expected an image in \[0, 1\], got values from 255",
        ),
        (changed(1, image=torch.ones(3, HEIGHT, WIDTH).byte()), "view 1: expected an image of torch.float32 on cpu"),
        (changed(1, intrinsics=None, rays=-unit_rays(K, HEIGHT, WIDTH)), "view 1: expected rays forward"),
        (changed(1, rays=unit_rays(K, HEIGHT, WIDTH)), "view 1: expected intrinsics or rays, got both"),
        (changed(1, intrinsics=None), "view 1: expected intrinsics or rays beside the depth"),
        (changed(1, intrinsics=-K), "view 1: expected intrinsics with positive focal lengths"),
        (changed(1, intrinsics=None, rays=2 * unit_rays(K, HEIGHT, WIDTH)), "view 1: expected rays of length 1"),
        (changed(1, depth=torch.ones(HEIGHT, WIDTH, 1)), "view 1: expected depth of shape"),
        (changed(1, depth=-torch.ones(HEIGHT, WIDTH)), "view 1: expected depth of at least 0"),
        (changed(1, c2w=2 * torch.eye(4)), "view 1: expected a"),
        (changed(0, c2w=None), "view 0: expected a pose"),
    ],
)
def test_what_cannot_be_is_one_line(given: list[View], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        checked_inputs(network(), given)
    assert "\n" not in str(caught.value)


def test_geometry_for_a_network_of_images_is_refused() -> None:
    with pytest.raises(InputError, match="this network takes images only"):
        infer(network(**IMAGES_ONLY), views(intrinsics=K))


def test_every_subset_gives_a_scene() -> None:
    model = network()
    rays = unit_rays(K, HEIGHT, WIDTH)
    by_rays = [replace(view, intrinsics=None, rays=rays) for view in everything()]
    scene, same = infer(model, everything()), infer(model, by_rays)
    torch.testing.assert_close(scene.reconstruction.points, same.reconstruction.points)
    not_metric = infer(model, [replace(view, is_metric=False) for view in everything()])
    assert not torch.allclose(scene.reconstruction.scale, not_metric.reconstruction.scale)
    mixed = everything()
    mixed[1] = replace(mixed[1], depth=None)
    mixed[2] = View(mixed[2].image)
    for given in (views(), views(1), mixed):
        found = infer(model, given, has_edges=True)
        assert torch.isfinite(found.reconstruction.points).all()
        assert found.w2c.shape == (len(given), 4, 4)
        assert (found.depth[~found.mask] == 0).all()
        assert (found.reconstruction.points[0][~found.mask] == 0).all()
    with torch.no_grad():
        model.dpt_regressor_head.conv2[2].bias[[2, 5]] = 10.0  # there is a surface everywhere, before the camera
    shares = [infer(model, views(), percentile=one, has_edges=True).mask.float().mean() for one in (0.0, 50.0)]
    assert shares[1] < 0.6 < shares[0]


def test_cameras_are_found_from_rays() -> None:
    rays = unit_rays(K, HEIGHT, WIDTH)
    torch.testing.assert_close(intrinsics_from_rays(rays), K, atol=1e-3, rtol=0)
    torch.testing.assert_close(rays[8, 12], torch.nn.functional.normalize(torch.tensor([0.5 / 20, 0.5 / 22, 1]), dim=0))


def test_a_step_is_an_edge_and_a_slanted_plane_is_none() -> None:
    def points(depth: Tensor) -> Tensor:
        rays = unit_rays(K, HEIGHT, WIDTH)
        return (rays / rays[..., 2:] * depth[..., None])[None]

    step = torch.ones(HEIGHT, WIDTH)
    step[:, 12:] = 2
    edges = surface_edges(step[None], points(step))[0]
    assert edges[:, 11:13].all()
    assert not edges[:, :9].any()
    rays = unit_rays(K, HEIGHT, WIDTH)
    slanted = 1 / (1 + 1.5 * rays[..., 0] / rays[..., 2])  # the plane z + 1.5 x = 1
    assert depth_edges(slanted[None]).any()
    assert not surface_edges(slanted[None], points(slanted)).any()
