"""Depth maps of several views -> one point cloud of what the views agree about.

The criterion is MVSNet's (Yao et al. 2018, section 4.2, "Post-processing"; Vis-MVSNet has it as well): the
depth d of pixel p is confirmed by another view if p, taken there with d and back with the depth found there, comes to
p' with depth d', |p' - p| < 1 pixel and |d' - d| < 0.01 d. Pixels that enough views confirm are kept, with the mean of
d and the d' of these views as their depth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from data.point_cloud import ColoredPoints, round_trip
from data.view_selection.neighbors import most_similar
from geometry import Cameras, TensorStruct, pixel_centers, require, sample_at_pixels

USUAL_AGREEING = 3
"""Views that must confirm a pixel, where there are so many; chosen by hand. MVSNet has 2 besides the view itself."""
USUAL_NEIGHBORS = 10
"""Other views asked about a pixel: those of MVSNet's pair files."""
DEPTH_TOLERANCE = 0.01
PIXEL_TOLERANCE = 1.0
"""Of MVSNet, as is the one above."""
_KEY_BITS = 21
"""Per axis of a cell's number in an int64: 2 million cells."""


@dataclass(frozen=True)
class DepthMaps(TensorStruct):
    """Depth of several views of one scene in one size. No batch axis."""

    cameras: Cameras
    """One leading axis."""
    depth: Float[Tensor, "view height width"]
    """Camera z, scene units; 0 = unknown."""
    colors: UInt8[Tensor, "view height width 3"]
    confidence: Float[Tensor, "view height width"]
    """0 to 1: the opacity of a rendered ray, for example."""
    free_until: Float[Tensor, "view height width"] | None = None
    """For rays that meet nothing: camera z up to which that is known; 0 for all other rays."""


@dataclass(frozen=True)
class FusedPoints:
    """Points and how they came about."""

    cloud: ColoredPoints
    depth: Float[Tensor, "view height width"]
    """Mean over the view itself and those that confirm a pixel, in this view; 0 = not confirmed by enough."""
    known: int
    """Pixels with known depth, of all views."""
    agreeing: int
    """Views that had to confirm a pixel."""
    spacing: float
    """Side of the cells that hold one point each, scene units; 0: points are not thinned."""

    @property
    def confirmed(self) -> Bool[Tensor, "view height width"]:
        """Pixels that enough other views confirm."""
        return self.depth > 0

    @property
    def kept(self) -> float:
        """Share of the known pixels that are confirmed."""
        return self.confirmed.sum().item() / max(1, self.known)


def fused_points(
    maps: DepthMaps,
    *,
    agreeing: int | None = None,
    depth_tolerance: float = DEPTH_TOLERANCE,
    pixel_tolerance: float = PIXEL_TOLERANCE,
    neighbors: int = USUAL_NEIGHBORS,
    spacing: float | None = None,
    wants_normals: bool = False,
    on_view: Callable[[], object] = lambda: None,
) -> FusedPoints:
    """The points of pixels whose depth at least `agreeing` of the `neighbors` most similar views confirm.

    Colors are means over the view and those that confirm. Then at most one point, the mean, is left in every cell of
    side `spacing`. None: 3 views where there are as many others; as spacing the median width of a pixel at its depth.
    `on_view` is called after every view.

    Raises:
        InputError: for more agreeing views than there are others.
    """
    count = len(maps.depth)
    agreeing = min(USUAL_AGREEING, count - 1) if agreeing is None else agreeing
    most = min(neighbors, count - 1)
    require(0 <= agreeing <= most, f"--agreeing: expected 0 to {most}, the other views asked, got {agreeing}")
    mean_depth = torch.zeros_like(maps.depth)
    clouds, widths = [], []
    for view in range(count):
        others = most_similar(maps.cameras.w2c, view)[:neighbors] if agreeing else []
        cloud, mean_depth[view] = _confirmed_points(maps, view, others, agreeing, depth_tolerance, pixel_tolerance)
        kept = mean_depth[view] > 0
        if wants_normals:
            cloud = cloud._replace(normals=surface_normals(maps.cameras[view], maps.depth[view])[kept])
        clouds.append(cloud)
        widths.append(mean_depth[view][kept] / maps.cameras.intrinsics[view, 0, 0])
        on_view()
    normals = torch.cat([cloud.normals for cloud in clouds]) if wants_normals else None
    cloud = ColoredPoints(
        torch.cat([cloud.points_world for cloud in clouds]), torch.cat([cloud.colors for cloud in clouds]), normals
    )
    if spacing is None:
        spacing = torch.cat(widths).median().item() if len(cloud.points_world) else 0.0
    known = int((maps.depth > 0).sum())
    return FusedPoints(thinned(cloud, spacing), mean_depth, known, agreeing, spacing)


def thinned(cloud: ColoredPoints, spacing: float) -> ColoredPoints:
    """At most one point, the mean of those there, in every cell of a grid; `spacing` 0: the cloud as it is.

    Raises:
        InputError: for a spacing so small that the grid has more than 2 million cells along an axis.
    """
    points = cloud.points_world
    if not spacing or not len(points):
        return cloud
    offsets = (points - points.amin(0)).double()
    extent = offsets.max().item()
    require(
        extent / spacing < 2**_KEY_BITS,
        f"--spacing: expected at least {extent / 2**_KEY_BITS:.3g} for the extent of this scene, got {spacing:.3g}",
    )
    cells = (offsets / spacing).floor().long()
    keys = (cells[:, 0] << 2 * _KEY_BITS) | (cells[:, 1] << _KEY_BITS) | cells[:, 2]
    _, cell, counts = keys.unique(return_inverse=True, return_counts=True)

    def mean(values: Float[Tensor, "point 3"]) -> Float[Tensor, "cell 3"]:
        total = torch.zeros(len(counts), 3, dtype=torch.float64).index_add_(0, cell, values.double())
        return (total / counts[:, None]).float()

    normals = None if cloud.normals is None else torch.nn.functional.normalize(mean(cloud.normals), dim=-1)
    return ColoredPoints(mean(points), mean(cloud.colors.float()).round().to(torch.uint8), normals)


def surface_normals(camera: Cameras, depth: Float[Tensor, "height width"]) -> Float[Tensor, "height width 3"]:
    """World unit normals of a depth map, towards the camera; 0 where the depth of a neighboring pixel is unknown.

    The cross product of the differences between the points right and left, and below and above.
    """
    points = camera.unproject(pixel_centers(*depth.shape, depth), depth.flatten()).unflatten(0, tuple(depth.shape))
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1, eps=1e-30)
    known = depth > 0
    known = known[1:-1, 2:] & known[1:-1, :-2] & known[2:, 1:-1] & known[:-2, 1:-1] & known[1:-1, 1:-1]
    result = torch.zeros_like(points)
    result[1:-1, 1:-1] = normals * known[..., None]
    return result


def _confirmed_points(
    maps: DepthMaps, view: int, others: list[int], agreeing: int, depth_tolerance: float, pixel_tolerance: float
) -> tuple[ColoredPoints, Float[Tensor, "height width"]]:
    """Confirmed points of one view, and their mean depth per pixel, 0 elsewhere."""
    cameras, (height, width) = maps.cameras, maps.depth.shape[1:]
    known = (maps.depth[view] > 0).flatten()
    pixels = pixel_centers(height, width, maps.depth)[known]
    depth = maps.depth[view].flatten()[known]
    count = torch.zeros_like(depth)
    depth_sum, color_sum = depth.clone(), maps.colors[view].flatten(0, 1)[known].float()
    for other in others:
        trip = round_trip(cameras, maps.depth, view, other, pixels, depth)
        is_near = (trip.back.pixels - pixels).norm(dim=-1) < pixel_tolerance
        agrees = trip.overlaps & is_near & ((trip.back.depth - depth).abs() < depth_tolerance * depth)
        if not bool(agrees.any()):
            continue
        colors = maps.colors[other].permute(2, 0, 1).float()
        count += agrees
        depth_sum[agrees] += trip.back.depth[agrees]
        color_sum[agrees] += sample_at_pixels(colors, trip.in_second[agrees], height, width)
    kept = count >= agreeing
    views = 1 + count[kept]
    mean_depth = depth_sum[kept] / views
    points = cameras[view].unproject(pixels[kept], mean_depth)
    colors = (color_sum[kept] / views[:, None]).round().clamp(0, 255).to(torch.uint8)
    per_pixel = torch.zeros(height * width)
    per_pixel[known.nonzero()[kept, 0]] = mean_depth
    return ColoredPoints(points, colors), per_pixel.unflatten(0, (height, width))
