"""Where the field of a scene is told that surfaces are: sparse points in the views that observe them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.readers.registry import read_scenes
from data.scene import PosedScene, ScenePoints
from geometry import InputError
from models.nerf.depth_range import DepthRange
from models.nerf.guided.plane_sweep import DisparityRange
from training.nerf.options import FinetuneOptions
from training.nerf.surfaces import surfaces_of_points

PIXELS = torch.tensor([[18.0, 10.0], [19.0, 10.5], [37.0, 29.0], [-3.0, 10.0]])
"""The first two fall into one cell of 4 pixels, the third one far away, the last one beside the image."""
DEPTH = torch.tensor([500.0, 600.0, 800.0, 500.0])


@pytest.fixture
def scene(small_dtu: Path) -> PosedScene:
    """The first training view observes four points; nothing is known of where the others do."""
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    first = scene.train_views[0]
    points_world = scene.cameras([first]).unproject(PIXELS[None], DEPTH[None])[0]
    points = ScenePoints(points_world.numpy(), np.ones(4, dtype=np.int64), {first: np.arange(4)})
    return replace(scene, points=points)


def bounds_of(scene: PosedScene) -> DepthRange:
    return DepthRange.of_data(*scene.near_far(scene.train_views)).opened()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_points_are_known_in_their_cells_and_nowhere_else(scene: PosedScene, scale: float) -> None:
    bounds = bounds_of(scene)
    surfaces = surfaces_of_points(scene, bounds, scale)
    assert surfaces.ids.tolist() == list(scene.train_views)
    camera = scene.cameras(scene.train_views[:1], scale)
    assert surfaces.maps.shape[1:] == (2, camera.height // 4, camera.width // 4)
    assert surfaces.maps[1:].count_nonzero() == 0  # views without observations
    cells = [(int(y * scale // 4), int(x * scale // 4)) for x, y in PIXELS[:3].tolist()]
    assert surfaces.maps[0, 1].nonzero().tolist() == [[row, col] for row, col in sorted(set(cells))]
    planes = DisparityRange(bounds.near[:1], bounds.far[:1])
    fractions = planes.fraction(1 / DEPTH[None, :3])[0]
    found = surfaces.maps[0, 0][tuple(zip(*cells, strict=True))]
    torch.testing.assert_close(found[0], fractions[:2].mean())
    torch.testing.assert_close(found[2], fractions[2])


def test_a_lookup_between_two_points_lies_between_them(scene: PosedScene) -> None:
    """Cells around a point have its depth too, so that interpolation never mixes in a cell without any."""
    surfaces = surfaces_of_points(scene, bounds_of(scene), 1.0)
    views = scene.views(scene.train_views[:1])
    fraction, confidence = surfaces.of(views, PIXELS[None, :3]).unbind(-1)
    planes = DisparityRange(bounds_of(scene).near[:1], bounds_of(scene).far[:1])
    low, high = planes.fraction(1 / DEPTH[None, 1:2]).item(), planes.fraction(1 / DEPTH[None, :1]).item()
    assert low - 1e-5 <= fraction[0, 0] <= high + 1e-5
    torch.testing.assert_close(fraction[0, 2], planes.fraction(1 / DEPTH[None, 2:3])[0, 0])
    assert (confidence > 0).all()


def test_a_scene_without_observed_points_is_refused_by_name(scene: PosedScene) -> None:
    with pytest.raises(InputError, match=r"--surfaces points: scene scan2.*got no points; --surfaces model looks"):
        surfaces_of_points(replace(scene, points=None), bounds_of(scene), 1.0)
    nowhere = replace(scene, points=replace(scene.points, rows={}))
    with pytest.raises(InputError, match="got 4 points without views that observe them"):
        surfaces_of_points(nowhere, bounds_of(scene), 1.0)


def test_options_of_surfaces() -> None:
    with pytest.raises(InputError, match="--surfaces: expected one of model, points, got 'mesh'"):
        FinetuneOptions(init_from="x", scene_field=8, surfaces="mesh")
    with pytest.raises(InputError, match="--surface_views 3: looks for surfaces, has no effect with --surfaces points"):
        FinetuneOptions(init_from="x", scene_field=8, surfaces="points", surface_views=3)
    with pytest.raises(InputError, match="--surfaces points: has no effect without --scene_field"):
        FinetuneOptions(init_from="x", surfaces="points")
