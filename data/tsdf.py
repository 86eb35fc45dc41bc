"""Depth maps -> a surface: a truncated signed distance field (TSDF), averaged over the views, and its zero crossing.

Curless and Levoy 1996, sections 3 and 4: a voxel at camera z, on a ray that a view sees end at `depth`, is
(depth - z) / cos(ray, optical axis) from the surface along the ray, and cos(ray, normal) times that across it. That
distance d is cut off at 1 truncation in front (free space); from 1 truncation behind on, along the ray, it is unknown:
a ray that meets an object from the side soon leaves it again, and knows nothing about the surface there. Distances and
weights of the views are averaged, D = sum w_i d_i / sum w_i, with w = confidence * cos(ray, normal). Two views that see
a wall at 1.0 and 1.2 with weights 3 and 1 put it at 1.05. The volume is worked on block by block, so that memory does
not grow with it.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes
from torch import Tensor

from data.depth_fusion import DepthMaps, surface_normals
from geometry import InputError, pixel_centers, require, sample_at_pixels

TRUNCATION = 4.0
"""Voxels: distances of the views to one surface may differ by less than that. Usual values are 3 to 5."""
USUAL_VOXELS = 256
"""Along the longest side."""
USUAL_HOLE = 16
"""Edges around the largest hole that is filled, 5 voxels across; chosen by hand."""
_OUTLIERS = 0.01
"""Share of the points at both ends of an axis that do not count for the bounds; chosen by hand."""
_MARGIN = 0.1
"""Share of the extent by which the bounds are wider than the points that count at each end; chosen by hand."""
_BLOCK = 48
"""Voxels along a block's side: 110 000 voxels in memory, with some 20 numbers each."""
_MIN_COSINE = 0.05
"""Least cosine between ray and normal in a weight: surfaces seen from the side count little, but they count."""
_MIN_SHORTENING = 0.25
"""Least cosine in a distance: it stretches the truncation along rays that hardly reach into the surface."""
_MIN_DISTANCE = 1e-3
"""Truncations: distances are moved away from 0 to this, so that no vertex lies on a grid point (0.004 voxels)."""
MOST_VOXELS = 4096
"""Along a side."""


class Grid(NamedTuple):
    """Axis-aligned voxels; the sample (i, j, k) is at origin + voxel_size * (i, j, k)."""

    origin: Float[Tensor, "3"]
    """World frame, scene units."""
    voxel_size: float
    """Scene units."""
    shape: tuple[int, int, int]
    """Samples along x, y and z."""


@dataclass(frozen=True)
class Mesh:
    """Triangles; counterclockwise when seen from free space."""

    vertices: Float[np.ndarray, "vertex 3"]
    """World frame, scene units."""
    faces: Int[np.ndarray, "face 3"]
    colors: UInt8[np.ndarray, "vertex 3"]

    def trimesh(self) -> trimesh.Trimesh:
        """For measures and files; nothing is merged or reordered."""
        return trimesh.Trimesh(self.vertices, self.faces, vertex_colors=self.colors, process=False)


class _Block(NamedTuple):
    """Sums over views at the samples of a block."""

    distance: Float[Tensor, " sample"]
    weight: Float[Tensor, " sample"]
    color: Float[Tensor, "sample 3"]
    color_weight: Float[Tensor, " sample"]


class _View(NamedTuple):
    """What integration looks up, per pixel."""

    maps: Float[Tensor, "5 height width"]
    """Depth, RGB and weight."""
    free_until: Float[Tensor, " pixel"] | None
    along: Float[Tensor, " pixel"]
    """1 / cos(ray, optical axis): from a difference in depth to the distance along the ray."""
    across: Float[Tensor, " pixel"]
    """cos(ray, normal): from there to the distance from the surface."""


def grid_around(points_world: Float[Tensor, "point 3"], voxels: int = 0, voxel_size: float = 0.0) -> Grid:
    """A grid around most of the points, with `voxels` along its longest side or voxels of `voxel_size`.

    From the 1st to the 99th percentile along every axis, and a tenth of that further at both ends.

    Raises:
        InputError: for no points, or more than 4096 voxels along a side.
    """
    require(len(points_world) > 0, "mesh: expected points to put the volume around, got none: no pixel has known depth")
    points = np.asarray(points_world.double())
    low, high = np.quantile(points, [_OUTLIERS, 1 - _OUTLIERS], axis=0)
    extent = high - low
    margin = _MARGIN * extent.max()
    low, high = low - margin, high + margin
    longest = float((high - low).max())
    require(longest > 0, "mesh: expected points in several places, got only one place")
    voxel_size = voxel_size or longest / ((voxels or USUAL_VOXELS) - 1)
    shape = tuple(int(side) + 1 for side in np.ceil((high - low) / voxel_size - 1e-6))
    require(
        max(shape) <= MOST_VOXELS,
        f"--voxel_size: expected at least {longest / MOST_VOXELS:.3g} for this scene, got {voxel_size:.3g}",
    )
    return Grid(torch.from_numpy(low).float(), float(voxel_size), (shape[0], shape[1], shape[2]))


def fused_mesh(
    maps: DepthMaps,
    grid: Grid,
    *,
    truncation: float = TRUNCATION,
    closes_holes: bool = False,
    on_block: Callable[[int, int], object] = lambda done, count: None,
) -> Mesh:
    """The surface between free space and what is behind it, where both are seen.

    `truncation` is in voxels. `closes_holes`: what no view sees is inside, so that the surface is closed (Curless and
    Levoy, section 4). `on_block` is told how many of how many blocks are done.

    Raises:
        InputError: when there is no surface in the volume.
    """
    views = [_lookups(maps, view) for view in range(len(maps.depth))]
    starts = list(_starts(grid) if closes_holes else _starts_near_surfaces(maps, grid, truncation))
    pieces = []
    for done, start in enumerate(starts):
        piece = _block_surface(maps, views, grid, start, truncation, closes_holes)
        if piece is not None:
            pieces.append(piece)
        on_block(done + 1, len(starts))
    if not pieces:
        raise InputError("mesh: expected a surface in the volume, got none: no depth is seen in it")
    return _joined(pieces, grid)


def without_small_components(mesh: Mesh, share: float) -> tuple[Mesh, int]:
    """The mesh without connected parts of fewer faces than `share` of the largest, and how many these were."""
    whole = mesh.trimesh()
    labels = trimesh.graph.connected_component_labels(whole.face_adjacency, node_count=len(mesh.faces))
    sizes = np.bincount(labels)
    kept = (sizes >= share * sizes.max())[labels]
    used, faces = np.unique(mesh.faces[kept], return_inverse=True)
    smaller = Mesh(mesh.vertices[used], faces.reshape(-1, 3), mesh.colors[used])
    return smaller, int((sizes < share * sizes.max()).sum())


def without_small_holes(mesh: Mesh, most_edges: int) -> tuple[Mesh, int]:
    """The mesh with a fan of faces in every hole of at most `most_edges` edges, and how many these were.

    A hole is a boundary that is one closed chain. A flat disk with n edges around it has some n^2 / 6 faces: where a
    connected part has fewer than n^2, the boundary may be its own outline, and it stays open.
    """
    sides = np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])
    undirected, which, uses = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True)
    border = sides[uses[which.reshape(-1)] == 1]
    count = len(mesh.vertices)

    def parts(edges: Int[np.ndarray, "edge 2"]) -> Int[np.ndarray, " vertex"]:
        graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
        return connected_components(graph, directed=False)[1]

    chain = parts(border)
    edges = np.bincount(chain[border[:, 0]], minlength=count)
    is_simple = np.ones(count, bool)
    degree = np.bincount(border.reshape(-1), minlength=count)
    is_simple[chain[(degree > 0) & (degree != 2)]] = False
    part = parts(undirected)
    faces_of_part = np.bincount(part[mesh.faces[:, 0]], minlength=count)
    own = chain[border[:, 0]]
    is_inner = faces_of_part[part[border[:, 0]]] >= edges[own] ** 2
    border = border[is_simple[own] & is_inner & (edges[own] <= most_edges)]
    if not len(border):
        return mesh, 0
    _, hole = np.unique(chain[border[:, 0]], return_inverse=True)
    sizes = np.bincount(hole)

    def centers(values: np.ndarray) -> Float[np.ndarray, "hole 3"]:
        at = values[border[:, 0]].astype(np.float64)
        return np.stack([np.bincount(hole, at[:, axis]) for axis in range(3)], axis=-1) / sizes[:, None]

    fans = np.stack([border[:, 1], border[:, 0], count + hole], axis=-1)
    colors = np.rint(centers(mesh.colors)).astype(np.uint8)
    vertices = np.concatenate([mesh.vertices, centers(mesh.vertices)])
    return Mesh(vertices, np.concatenate([mesh.faces, fans]), np.concatenate([mesh.colors, colors])), len(sizes)


def _lookups(maps: DepthMaps, view: int) -> _View:
    camera, depth = maps.cameras[view], maps.depth[view]
    height, width = depth.shape
    pixels = pixel_centers(height, width, depth)
    zero = depth.new_zeros(())
    rays = camera.rays(pixels, zero, zero)
    normals = surface_normals(camera, depth).flatten(0, 1)
    cosine = -(normals * rays.directions).sum(-1)
    shortening = torch.where(cosine > 0, cosine.clamp_min(_MIN_SHORTENING), 1.0)
    weight = maps.confidence[view].flatten() * cosine.clamp_min(_MIN_COSINE) * (depth.flatten() > 0)
    stacked = torch.cat([depth[None], maps.colors[view].permute(2, 0, 1).float(), weight.reshape(1, height, width)])
    free = None if maps.free_until is None else _eroded(maps.free_until[view]).flatten()
    return _View(stacked, free, 1 / rays.cos_optical, shortening)


def _eroded(free_until: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """The least of 3x3 pixels: beside a silhouette voxels may be inside although the nearest ray passes the object."""
    return -torch.nn.functional.max_pool2d(-free_until[None], 3, stride=1, padding=1)[0]


def _starts(grid: Grid) -> Iterator[tuple[int, int, int]]:
    """First samples of blocks of `_BLOCK` cells along a side; neighbors share the samples between them."""
    yield from itertools.product(*(range(0, side - 1, _BLOCK) for side in grid.shape))


def _starts_near_surfaces(maps: DepthMaps, grid: Grid, truncation: float) -> Iterator[tuple[int, int, int]]:
    """Blocks within the truncation of a pixel's point: elsewhere no distance is negative."""
    shape = torch.tensor([-(-(side - 1) // _BLOCK) for side in grid.shape])
    touched = torch.zeros(*shape.tolist(), dtype=torch.bool)
    margin = (truncation + 2) / _BLOCK
    for view in range(len(maps.depth)):
        depth = maps.depth[view].flatten()
        pixels = pixel_centers(*maps.depth.shape[1:], maps.depth)[depth > 0]
        points = maps.cameras[view].unproject(pixels, depth[depth > 0])
        places = (points - grid.origin) / (grid.voxel_size * _BLOCK)
        for offset in itertools.product((-margin, margin), repeat=3):
            blocks = (places + torch.tensor(offset)).floor().clamp(-1e6, 1e6).long()
            inside = ((blocks >= 0) & (blocks < shape)).all(-1)
            touched[tuple(blocks[inside].unique(dim=0).unbind(-1))] = True
    yield from (tuple(_BLOCK * number for number in block) for block in touched.nonzero().tolist())


def _block_surface(
    maps: DepthMaps,
    views: list[_View],
    grid: Grid,
    start: tuple[int, int, int],
    truncation: float,
    closes_holes: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Vertices in units of voxels, faces and colors of one block; None without a surface."""
    ends = [min(first + _BLOCK, side - 1) for first, side in zip(start, grid.shape, strict=True)]
    axes = [torch.arange(first, end + 1) for first, end in zip(start, ends, strict=True)]
    samples = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    shape = samples.shape[:3]
    points = grid.origin + grid.voxel_size * samples.reshape(-1, 3).float()
    block = _integrated(maps, views, points, truncation * grid.voxel_size)
    seen = block.weight > 0
    distance = torch.where(seen, block.distance / block.weight.clamp_min(1e-12), -1.0)
    if closes_holes:  # the border of the volume is outside
        border = ((samples == 0) | (samples == torch.tensor(grid.shape) - 1)).any(-1).flatten()
        distance = torch.where(border, 1.0, distance)
        seen = torch.ones_like(seen)
    distance = torch.where(distance < 0, distance.clamp_max(-_MIN_DISTANCE), distance.clamp_min(_MIN_DISTANCE))
    volume, cells = distance.reshape(shape).numpy(), _whole_cells(seen.reshape(shape)).numpy()
    if not (volume.min() < 0 < volume.max() and cells.any()):
        return None
    try:
        vertices, faces, _, _ = marching_cubes(volume, 0.0, mask=cells, gradient_direction="descent")
    except (RuntimeError, ValueError):  # no crossing in the cells that count
        return None
    colors = _interpolated(torch.cat([block.color, block.color_weight[:, None]], -1).reshape(*shape, 4), vertices)
    colors = colors[:, :3] / np.maximum(colors[:, 3:], 1e-12)
    return vertices.astype(np.float64) + np.asarray(start), faces, np.clip(np.rint(colors), 0, 255).astype(np.uint8)


def _integrated(maps: DepthMaps, views: list[_View], points: Float[Tensor, "sample 3"], truncation: float) -> _Block:
    """Sums over all views; `truncation` in scene units."""
    height, width = maps.depth.shape[1:]
    block = _Block(*(torch.zeros(len(points), *rest) for rest in ((), (), (3,), ())))
    for index, view in enumerate(views):
        seen = maps.cameras[index].project(points)
        chosen = seen.visible.nonzero()[:, 0]
        if not len(chosen):
            continue
        pixels, z = seen.pixels[chosen], seen.depth[chosen]
        column, row = pixels[:, 0].long().clamp(0, width - 1), pixels[:, 1].long().clamp(0, height - 1)
        pixel = row * width + column
        nearest = view.maps.flatten(1)[:, pixel].T
        smooth = sample_at_pixels(view.maps, pixels, height, width)
        # between pixels on both sides of an edge, or beside unknown ones, there is no surface: the nearest pixel counts
        is_smooth = ((smooth[:, 0] - nearest[:, 0]).abs() < truncation / 2) & (nearest[:, 0] > 0)
        depth, color, weight = torch.where(is_smooth[:, None], smooth, nearest).split([1, 3, 1], dim=-1)
        depth, weight = depth[:, 0], weight[:, 0]
        along_ray = (depth - z) * view.along[pixel] / truncation
        distance = along_ray * view.across[pixel]
        weight = weight * (nearest[:, 0] > 0) * (along_ray > -1)
        if view.free_until is not None:
            is_free = z < view.free_until[pixel]
            distance = torch.where(is_free, 1.0, distance)
            weight = torch.where(is_free, 1.0, weight)
        near_surface = weight * (distance.abs() < 1) + 1e-6 * weight  # where only free space is seen, its colors
        block.distance.index_add_(0, chosen, weight * distance.clamp_max(1.0))
        block.weight.index_add_(0, chosen, weight)
        block.color.index_add_(0, chosen, near_surface[:, None] * color)
        block.color_weight.index_add_(0, chosen, near_surface)
    return block


def _whole_cells(seen: Bool[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Cells of which all corners are seen, at the index of their last corner, as scikit-image's mask has it."""
    whole = torch.zeros_like(seen)
    corners = [
        seen[i : i + seen.shape[0] - 1, j : j + seen.shape[1] - 1, k : k + seen.shape[2] - 1]
        for i, j, k in itertools.product((0, 1), repeat=3)
    ]
    whole[1:, 1:, 1:] = torch.stack(corners).all(0)
    return whole


def _interpolated(
    values: Float[Tensor, "x y z channel"], places: Float[np.ndarray, "vertex 3"]
) -> Float[np.ndarray, "vertex channel"]:
    """Trilinear; places in units of samples."""
    place = torch.from_numpy(np.ascontiguousarray(places)).float()
    low = torch.minimum(place.floor().long(), torch.tensor(values.shape[:3]) - 2).clamp_min(0)
    share = place - low
    result = torch.zeros(len(place), values.shape[-1])
    for corner in itertools.product((0, 1), repeat=3):
        at = low + torch.tensor(corner)
        weight = torch.where(torch.tensor(corner) == 1, share, 1 - share).prod(-1)
        result += weight[:, None] * values[at[:, 0], at[:, 1], at[:, 2]]
    return result.numpy()


def _joined(pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]], grid: Grid) -> Mesh:
    """Blocks share the vertices between them: a vertex is known by the edge of the grid that it is on."""
    vertices = np.concatenate([vertices for vertices, _, _ in pieces])
    offsets = np.cumsum([0, *(len(vertices) for vertices, _, _ in pieces[:-1])])
    faces = np.concatenate([faces + offset for (_, faces, _), offset in zip(pieces, offsets, strict=True)])
    colors = np.concatenate([colors for _, _, colors in pieces])
    whole = np.rint(vertices)
    is_whole = np.abs(vertices - whole) < _MIN_DISTANCE / 4
    edges = np.where(is_whole, 2 * whole, 2 * np.floor(vertices) + 1).astype(np.int64)
    key = (edges[:, 0] << 42) | (edges[:, 1] << 21) | edges[:, 2]
    _, first, vertex = np.unique(key, return_index=True, return_inverse=True)
    faces = vertex.reshape(-1)[faces]
    ends = np.stack([faces, np.roll(faces, 1, axis=1)])
    faces = faces[(ends[0] != ends[1]).all(1)]
    positions = np.asarray(grid.origin, np.float64) + grid.voxel_size * vertices[first]
    return Mesh(positions, faces, colors[first])
