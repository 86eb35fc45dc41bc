"""The scene's field as a touchstone for colours: closed forms."""

import pytest
import torch

from geometry import pixel_centers
from models.nerf.plane_sweep import DisparityRange, sweep_lines
from models.nerf.scene_colors import SceneColors
from tests.models.nerf.test_losses_and_pipeline import plane_batch


def test_true_planes_are_doubted_least() -> None:
    """A textured plane: what a coarse look at the target shows is what the sources show at its depth, nowhere else."""
    batch = plane_batch()
    target = batch.target[:, 0]
    rows, cols = (side // 4 for side in target.images.shape[-2:])
    rgb = torch.nn.functional.interpolate(target.images, (rows, cols), mode="area")
    colors = SceneColors.of(rgb, target.cameras, batch.source.images)
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
    doubt = colors.mean_doubt(swept, shown)
    is_seen = swept.visible.all(1).all(-1)
    assert is_seen.sum() > 20
    near, here, far = doubt[is_seen].mean(0)
    assert here < 0.8 * min(near, far)  # 6 x 8 pixels blur the texture


def test_doubt_is_the_mean_squared_difference_over_channels() -> None:
    batch = plane_batch()
    images = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1).expand_as(batch.source.images)
    target = batch.target[:, 0].cameras
    colors = SceneColors.of(torch.zeros(1, 3, 6, 8), target, images)
    swept = sweep_lines(batch.source.cameras, target, torch.tensor([[[16.0, 12.0], [400.0, 12.0]]])).at(
        torch.full((1, 2, 1), 1 / 3)
    )
    shown = torch.tensor([0.2, 0.1, 0.6]).expand(1, 2, 3)
    torch.testing.assert_close(colors.doubt(swept, shown), torch.full((1, 3, 2, 1), 0.03))
    torch.testing.assert_close(colors.mean_doubt(swept, shown), torch.tensor([0.03, 0]).view(1, 2, 1))


@pytest.mark.parametrize("part", [(slice(None), slice(None)), (slice(4, 16), slice(8, 24))])
def test_a_window_of_the_target_is_compared_as_coarsely_as_all_of_it(part: tuple[slice, slice]) -> None:
    batch = plane_batch()
    target = batch.target[:, 0]
    image = target.images[(..., *part)]
    cropped = target.cameras.cropped(part[0].start or 0, part[1].start or 0, *image.shape[-2:])
    small = torch.nn.functional.interpolate(image, [side // 2 for side in image.shape[-2:]], mode="area")
    colors = SceneColors.of(small, cropped, batch.source.images)
    assert list(colors.sources.shape[-2:]) == [side // 2 for side in batch.source.images.shape[-2:]]
