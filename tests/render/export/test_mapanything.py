"""A reconstructed scene as points."""

import torch

from models.mapanything.inference import infer
from render.export.mapanything import inferred_views
from tests.models.mapanything.test_inference import everything
from tests.models.mapanything.test_network import network


def test_depth_unprojects_to_the_scenes_points() -> None:
    """The cameras are those fitted to the predicted rays, so an untrained network's agree only where rays are given."""
    views = everything()
    scene = infer(network(), views, percentile=0.0, has_edges=True)
    maps = inferred_views(["a", "b", "c"], views, scene)
    assert maps.depth.shape == (3, 16, 24)
    assert torch.equal(maps.depth > 0, scene.mask)
    assert ((maps.confidence >= 0) & (maps.confidence < 1)).all()
    torch.testing.assert_close(maps.colors[1], views[1].image.permute(1, 2, 0))
    torch.testing.assert_close(maps.cameras.c2w, scene.reconstruction.c2w[0], atol=1e-5, rtol=1e-5)
    assert (maps.near <= maps.far).all()
