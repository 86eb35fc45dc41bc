"""The scene's field as a touchstone for colors: closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from geometry import pixel_centers
from models.nerf.guided.depth_splat import SplattedDepth
from models.nerf.guided.network import GuidedConfig, GuidedNeRF
from models.nerf.guided.plane_sweep import DisparityRange, sweep_lines
from models.nerf.guided.radiance_field import GUIDE_CHANNELS, GuidedRadianceField, ObservedSamples, SceneSamples
from models.nerf.guided.scene_colors import SceneColors
from models.nerf.guided.scene_field import SceneView
from tests.models.nerf.test_losses_and_pipeline import plane_batch


def test_colors_mismatch_least_on_true_planes() -> None:
    """A textured plane: what a coarse look at the target shows is what the sources show at its depth, nowhere else."""
    batch = plane_batch()
    target = batch.target[:, 0]
    rows, cols = (side // 4 for side in target.images.shape[-2:])
    rgb = torch.nn.functional.interpolate(target.images, (rows, cols), mode="area")
    colors = SceneColors.of(rgb, target.cameras, batch.source.images, batch.source.cameras)
    shrunk = [side // 4 for side in batch.source.images.shape[-2:]]
    assert list(colors.sources.shape[-2:]) == shrunk
    pixels = pixel_centers(rows, cols, rgb)[None]
    depth = torch.nn.functional.interpolate(target.depth[:, None], (rows, cols), mode="area").flatten(1)
    planes = DisparityRange(target.near, target.far)
    true = planes.fraction(1 / depth)
    fractions = true[..., None] + torch.tensor([-0.2, 0.0, 0.2])
    swept = sweep_lines(batch.source.cameras, target.cameras.resized(rows, cols), pixels).at(
        planes.inverse_depth(fractions)
    )
    shown = rgb.flatten(2).transpose(1, 2)
    mismatch = colors.mean_color_mismatch(swept, shown)
    is_seen = swept.visible.all(1).all(-1)
    assert is_seen.sum() > 20
    near, here, far = mismatch[is_seen].mean(0)
    assert here < 0.8 * min(near, far)  # 6 x 8 pixels blur the texture


def test_color_mismatch_is_the_mean_squared_difference_over_channels() -> None:
    batch = plane_batch()
    images = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1).expand_as(batch.source.images)
    target = batch.target[:, 0].cameras
    colors = SceneColors.of(torch.zeros(1, 3, 6, 8), target, images, batch.source.cameras)
    swept = sweep_lines(batch.source.cameras, target, torch.tensor([[[16.0, 12.0], [400.0, 12.0]]])).at(
        torch.full((1, 2, 1), 1 / 3)
    )
    shown = torch.tensor([0.2, 0.1, 0.6]).expand(1, 2, 3)
    torch.testing.assert_close(colors.color_mismatch(swept, shown), torch.full((1, 3, 2, 1), 0.03))
    torch.testing.assert_close(colors.mean_color_mismatch(swept, shown), torch.tensor([0.03, 0]).view(1, 2, 1))


@pytest.mark.parametrize("zoom", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("part", [(slice(None), slice(None)), (slice(4, 16), slice(8, 24))])
def test_sources_are_as_coarse_as_the_target(part: tuple[slice, slice], zoom: float) -> None:
    """A window of the target, or a target of another size: a coarse pixel spans the same angle in all views."""
    batch = plane_batch()
    cameras = batch.target[:, 0].cameras
    rows, cols = (len(range(side)[one]) for side, one in zip((24, 32), part, strict=True))
    cropped = cameras.cropped(part[0].start or 0, part[1].start or 0, rows, cols)
    target = cropped.resized(round(rows * zoom), round(cols * zoom))
    small = torch.rand(1, 3, rows // 2, cols // 2)
    colors = SceneColors.of(small, target, batch.source.images, batch.source.cameras)
    assert list(colors.sources.shape[-2:]) == [12, 16]


def test_no_source_is_enlarged() -> None:
    batch = plane_batch()
    target = batch.target[:, 0].cameras
    colors = SceneColors.of(torch.rand(1, 3, 48, 64), target, batch.source.images, batch.source.cameras)
    assert torch.equal(colors.sources, batch.source.images)


def test_planes_that_show_the_right_color_are_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scene's field shows the target as it is, or its negative, without a word on depth."""
    torch.manual_seed(0)
    config = GuidedConfig(feature_channels=8, hidden=8, fused=8, depth_prior=True, sweep_planes=12)
    general, network = GuidedNeRF(config).eval(), GuidedNeRF(replace(config, scene_field=8)).eval()
    network.load_state_dict(general.state_dict(), strict=False)
    batch = plane_batch()
    target = batch.target[:, 0]

    @torch.no_grad()
    def distance_of(network: GuidedNeRF) -> float:
        """Mean distance of the planes from the true one, fraction 1/3, by their likelihood."""
        maps = network.encode(batch.source, None)
        level = network.view(maps, target.cameras, target.near, target.far).levels[0]
        return ((level.centers - 1 / 3).abs() * level.logits.softmax(-1)).sum(-1).mean().item()

    def distance(image: torch.Tensor) -> float:
        """Where the field shows that image."""

        def view(*where: Any) -> SceneView:
            rgb = torch.nn.functional.interpolate(image, where[-2:], mode="area")
            nothing = torch.zeros(1, *where[-2:])
            return SceneView(SplattedDepth(nothing, nothing, nothing), rgb)

        monkeypatch.setattr(network.scene_field, "view", view)
        return distance_of(network)

    assert distance(target.images) < distance_of(general) - 0.01
    assert distance(1 - target.images) > distance(target.images) + 0.01


def test_a_view_of_mismatching_color_is_blended_less() -> None:
    torch.manual_seed(0)
    field = GuidedRadianceField(4, GUIDE_CHANNELS, hidden=8, fused=8)
    views, rays, count = 3, 5, 2
    colors = torch.zeros(1, views, rays * count, 3)
    colors[:, 0] = 1
    seen = ObservedSamples(
        features=torch.rand(1, views, rays * count, 4),
        colors=colors,
        weights=torch.ones(1, views, rays * count),
        behind=torch.zeros(1, views, rays * count),
        directions=torch.zeros(1, views, rays, 4),
        guide=torch.rand(1, rays, GUIDE_CHANNELS),
        offset=torch.linspace(1, -1, count).expand(1, rays, count),
        length=torch.ones(1, rays),
    )
    shown = []
    for of_first in (0.0, 0.1):
        mismatch = torch.zeros(1, views, rays * count)
        mismatch[:, 0] = of_first
        shown.append(field(replace(seen, scene=SceneSamples(torch.zeros(1, rays, 3), mismatch))).rgb)
    assert (shown[1] < 0.7 * shown[0]).all()
