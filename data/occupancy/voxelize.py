"""Triangle meshes -> grids: which voxels lie inside solids, and which ones a surface touches.

`solid`: the center of the voxel is inside, |winding number| > 1/2 summed over shells (Jacobson et al. 2013). A parity
of crossings would be wrong where shells overlap. `surface`: a triangle touches the closed box of the voxel, the
separating axis test's question (Akenine-Moller 2001), answered column by column. `union` = both: thin sheets and open
meshes survive, buildings are full.

Both scan columns along the grid's z. A shell is closed where its boundary vanishes, so that the number of its crossings
above a center, counted with sign, is its winding number there, an integer. Open shells have surfaces only.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from geometry.errors import require
from geometry.voxels import EgoGrid, VoxelGrid

MODES = ("solid", "surface", "union")
_MERGE = 1e-5
"""Meters: corners this close are one."""
_BALANCE = 1e-3
"""Of the area: an object whose vector area (the integral of its normals) is smaller counts as closed although its
polygons do not share their edges (T-junctions), as in many city models."""


@dataclass(frozen=True)
class Shells:
    """Triangles of a scene in the world, prepared once for any number of grids."""

    triangles: Float[np.ndarray, "triangle 3 3"]
    """Corners, meters."""
    signs: Int[np.ndarray, " triangle"]
    """+1, or -1 where the normals of its shell point inwards; 0 of open shells, which have no inside."""
    num_open: int
    """Triangles of open shells."""

    def __len__(self) -> int:
        return len(self.triangles)

    def joined(self, other: "Shells") -> "Shells":
        """Both."""
        return Shells(
            np.concatenate([self.triangles, other.triangles]),
            np.concatenate([self.signs, other.signs]),
            self.num_open + other.num_open,
        )


class _Face(NamedTuple):
    """Directed edges of all faces: one row for each, three to a face."""

    edge: Int[np.ndarray, " side"]
    """Number of the undirected edge."""
    direction: Int[np.ndarray, " side"]
    """+1 from the lower to the higher corner, else -1."""


def prepared(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    objects: Int[np.ndarray, " face"] | None = None,
) -> Shells:
    """Find the shells of a mesh, which of them are closed, and which way their normals point.

    Args:
        vertices: World, meters; corners of different faces may repeat.
        faces: Triangles.
        objects: To which object (building, OBJ group) a face belongs; faces of one object may close without sharing
            their edges. Default: all to one.
    """
    require(bool(np.isfinite(vertices).all()), "mesh: expected finite corners")
    triangles = vertices[faces]
    areas = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2
    objects = np.zeros(len(faces), dtype=np.int64) if objects is None else objects
    merged = _merged(vertices)[faces]
    sides = _sides(merged)
    shell = _shells(sides, len(faces))
    is_closed = _without_boundary(sides, shell)[shell]
    is_closed, areas, triangles = _reoriented(sides, shell, is_closed, areas, triangles)
    # faces that close as an object only
    number = np.where(is_closed, shell, shell.max(initial=0) + 1 + np.unique(objects, return_inverse=True)[1])
    count = int(number.max(initial=0)) + 1
    vector = np.stack([np.bincount(number, areas[:, axis], count) for axis in range(3)], axis=-1)
    total = np.bincount(number, np.linalg.norm(areas, axis=-1), count)
    closes = np.linalg.norm(vector, axis=-1) <= _BALANCE * total
    center = triangles.mean(axis=1)
    origin = center.mean(axis=0) if len(center) else np.zeros(3)
    volume = np.bincount(number, ((center - origin) * areas).sum(-1), count)  # times 3; the divergence of x is 3
    sign = np.where(closes, np.where(volume < 0, -1, 1), 0)[number]
    return Shells(triangles, sign, int((sign == 0).sum()))


def _merged(vertices: np.ndarray) -> np.ndarray:
    """For each vertex the number of its place."""
    if len(vertices) == 0:
        return np.zeros(0, dtype=np.int64)
    cells = np.round(vertices / _MERGE).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def _sides(merged: np.ndarray) -> _Face:
    start, end = merged, np.roll(merged, -1, axis=1)
    low, high = np.minimum(start, end).ravel(), np.maximum(start, end).ravel()
    edge = np.unique(low * (merged.max(initial=0) + 1) + high, return_inverse=True)[1].reshape(-1)
    return _Face(edge, np.sign(end - start).ravel())


def _shells(sides: _Face, num_faces: int) -> np.ndarray:
    """Number of the shell of each face: faces that share edges."""
    order = np.argsort(sides.edge, kind="stable")
    face, edge = order // 3, sides.edge[order]
    same = edge[1:] == edge[:-1]
    links = sparse.coo_matrix((np.ones(int(same.sum())), (face[1:][same], face[:-1][same])), (num_faces, num_faces))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _without_boundary(sides: _Face, shell: np.ndarray) -> Bool[np.ndarray, " shell"]:
    """Shells whose every edge is passed as often in one direction as in the other."""
    surplus = np.bincount(sides.edge, sides.direction)
    return np.bincount(np.repeat(shell, 3), surplus[sides.edge] != 0) == 0


def _reoriented(
    sides: _Face, shell: np.ndarray, is_closed: np.ndarray, areas: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn faces of shells that would close if their faces agreed on a side: every edge has two faces."""
    uses = np.bincount(sides.edge)
    odd = np.bincount(np.repeat(shell, 3), uses[sides.edge] != 2)
    candidates = (odd[shell] == 0) & ~is_closed
    if not candidates.any():
        return is_closed, areas, triangles
    order = np.argsort(sides.edge, kind="stable")
    pairs = order[uses[sides.edge[order]] == 2].reshape(-1, 2)
    pairs = pairs[candidates[pairs[:, 0] // 3]]
    agrees = sides.direction[pairs[:, 0]] != sides.direction[pairs[:, 1]]
    flips = _side_of_each(pairs // 3, agrees, len(shell))
    flips &= candidates
    areas = np.where(flips[:, None], -areas, areas)
    triangles = np.where(flips[:, None, None], triangles[:, ::-1], triangles)
    direction = np.where(np.repeat(flips, 3), -sides.direction, sides.direction)
    return _without_boundary(_Face(sides.edge, direction), shell)[shell], areas, triangles


def _side_of_each(pairs: np.ndarray, agrees: np.ndarray, count: int) -> np.ndarray:
    """Which faces to turn so that neighbors agree: a two-coloring, by the doubled graph of faces and turned faces."""
    first, second = pairs[:, 0], pairs[:, 1]
    other = np.where(agrees, second, second + count)
    mirror = np.where(agrees, second + count, second)
    rows, cols = np.concatenate([first, first + count]), np.concatenate([other, mirror])
    links = sparse.coo_matrix((np.ones(len(rows)), (rows, cols)), (2 * count, 2 * count))
    label = connected_components(links, directed=False)[1]
    return label[:count] > label[count:]


# ---- grids


def voxelized(
    shells: Shells, space: EgoGrid, grid2world: Float[np.ndarray, "4 4"], mode: str = "union"
) -> Bool[np.ndarray, "x y z"]:
    """Occupancy of a grid that stands at `grid2world` (`GridFrame.grid2world`).

    Raises:
        InputError: for an unknown mode.
    """
    require(mode in MODES, f"--mode: expected {', '.join(MODES)}, got {mode!r}")
    triangles, signs = near_triangles(shells, space.grid, grid2world, solid=mode != "surface")
    occupied = np.zeros(space.grid.size, dtype=bool)
    if mode != "surface":
        closed = signs != 0
        fill_solid(occupied, triangles[closed], signs[closed])
    if mode != "solid":
        fill_surface(occupied, triangles)
    return occupied


def near_triangles(
    shells: Shells, grid: VoxelGrid, grid2world: Float[np.ndarray, "4 4"], *, solid: bool = True
) -> tuple[Float[np.ndarray, "near 3 3"], Int[np.ndarray, " near"]]:
    """Triangles in continuous voxel indices of the grid, those that can matter only; with their signs.

    `solid`: also those above the grid, whose crossings count for the centers below them.
    """
    rotation, translation = grid2world[:3, :3], grid2world[:3, 3]
    minimum, voxel = np.array(grid.minimum), np.array(grid.voxel)
    offset = shells.triangles - translation
    # by elements: a matrix product may round the same corner of two triangles differently, which opens shells
    turned = sum(offset[..., axis, None] * rotation[axis] for axis in range(3))
    local = (turned - minimum) / voxel
    low, high = local.min(axis=1), local.max(axis=1)
    size = np.array(grid.size)
    matters = (high[:, :2] >= 0).all(-1) & (low[:, :2] <= size[:2]).all(-1) & (high[:, 2] >= 0)
    if not solid:
        matters &= low[:, 2] <= size[2]
    return local[matters], shells.signs[matters]


def expanded(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, value) for every integer from first to last of each row."""
    counts = np.maximum(last - first + 1, 0)
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - starts[rows] + first[rows]


class Covered(NamedTuple):
    """Column centers that lie in the projections of triangles, one row each."""

    triangle: Int[np.ndarray, " hit"]
    x: Int[np.ndarray, " hit"]
    y: Int[np.ndarray, " hit"]
    z: Float[np.ndarray, " hit"]
    """Of the triangle's plane there."""


def covered_columns(triangles: Float[np.ndarray, "triangle 3 3"], columns: tuple[int, int]) -> Covered:
    """Columns whose center (i + 1/2, j + 1/2) a triangle covers, seen along z.

    By lines of constant x, half open: of two triangles that share an edge exactly one covers a center on it, because
    both compute the same crossing of the edge and the line.
    """
    edge_a, edge_b = triangles - 0.5, np.roll(triangles, -1, axis=1) - 0.5  # centers become integers
    first = np.maximum(np.ceil(edge_a[..., 0].min(axis=1)), 0).astype(np.int64)
    last = np.minimum(np.floor(edge_a[..., 0].max(axis=1)), columns[0] - 1).astype(np.int64)
    row, x = expanded(first, last)
    swap = edge_a[..., 0] > edge_b[..., 0]
    low, high = np.where(swap[..., None], edge_b, edge_a), np.where(swap[..., None], edge_a, edge_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (high[..., 1] - low[..., 1]) / (high[..., 0] - low[..., 0])
    crosses = (low[row, :, 0] <= x[:, None]) & (x[:, None] < high[row, :, 0])
    at = low[row, :, 1] + (x[:, None] - low[row, :, 0]) * np.where(np.isfinite(slope), slope, 0.0)[row]
    start = np.where(crosses, at, np.inf).min(axis=1)
    end = np.where(crosses, at, -np.inf).max(axis=1)
    hit = crosses.any(axis=1)
    row, x, start, end = row[hit], x[hit], start[hit], end[hit]
    line, y = expanded(
        np.maximum(np.ceil(start), 0).astype(np.int64), np.minimum(np.ceil(end) - 1, columns[1] - 1).astype(np.int64)
    )
    row, x = row[line], x[line]
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        gradient = -normal[:, :2] / normal[:, 2:]
    corner = edge_a[row, 0]
    z = corner[:, 2] + gradient[row, 0] * (x - corner[:, 0]) + gradient[row, 1] * (y - corner[:, 1]) + 0.5
    low_z, high_z = triangles[..., 2].min(axis=1)[row], triangles[..., 2].max(axis=1)[row]
    return Covered(row, x, y, np.clip(np.nan_to_num(z, nan=0.0), low_z, high_z))


def fill_solid(
    occupied: Bool[np.ndarray, "x y z"],
    triangles: Float[np.ndarray, "triangle 3 3"],
    signs: Int[np.ndarray, " triangle"],
) -> None:
    """Mark the voxels whose center has a winding number other than 0; triangles of closed shells in voxel indices."""
    size_x, size_y, size_z = occupied.shape
    hits = covered_columns(triangles, (size_x, size_y))
    upward = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])[:, 2]
    crossing = (np.sign(upward).astype(np.int64) * signs)[hits.triangle]
    below = np.clip(np.ceil(hits.z - 0.5), 0, size_z).astype(np.int64)  # centers under the crossing
    matters = below > 0
    columns, column = np.unique((hits.x * size_y + hits.y)[matters], return_inverse=True)
    counts = np.zeros((len(columns), size_z), dtype=np.int32)
    np.add.at(counts, (column.reshape(-1), below[matters] - 1), crossing[matters].astype(np.int32))
    winding = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # of a center: the crossings above it
    occupied.reshape(-1, size_z)[columns] |= winding != 0


def fill_surface(occupied: Bool[np.ndarray, "x y z"], triangles: Float[np.ndarray, "triangle 3 3"]) -> None:
    """Mark the voxels whose closed box a triangle touches; triangles in voxel indices.

    A triangle is cut by the slab of each row of columns, that by each column's; what is left is convex, so that it
    touches the boxes between its lowest and highest point.
    """
    size_x, size_y, size_z = occupied.shape
    low, high = triangles[..., 0].min(axis=1), triangles[..., 0].max(axis=1)
    first = np.maximum(np.ceil(low).astype(np.int64) - 1, 0)
    last = np.minimum(np.floor(high).astype(np.int64), size_x - 1)
    row, x = expanded(first, last)
    start, end = _slab_segments(triangles[row], x.astype(np.float64))
    present = np.isfinite(start[..., 0])
    y_low = np.where(present, np.minimum(start[..., 0], end[..., 0]), np.inf).min(axis=1)
    y_high = np.where(present, np.maximum(start[..., 0], end[..., 0]), -np.inf).max(axis=1)
    some = present.any(axis=1)
    x, start, end, y_low, y_high = x[some], start[some], end[some], y_low[some], y_high[some]
    first = np.maximum(np.ceil(y_low).astype(np.int64) - 1, 0)
    last = np.minimum(np.floor(y_high).astype(np.int64), size_y - 1)
    slab, y = expanded(first, last)
    z_low, z_high = _height_range(start, end, slab, y.astype(np.float64))
    touched = z_low <= z_high
    bottom = np.maximum(np.ceil(z_low[touched]) - 1, 0).astype(np.int64)
    top = np.minimum(np.floor(z_high[touched]), size_z - 1).astype(np.int64)
    inside = bottom <= top
    columns, column = np.unique((x[slab[touched]] * size_y + y[touched])[inside], return_inverse=True)
    steps = np.zeros((len(columns), size_z + 1), dtype=np.int32)
    np.add.at(steps, (column.reshape(-1), bottom[inside]), 1)
    np.add.at(steps, (column.reshape(-1), top[inside] + 1), -1)
    occupied.reshape(-1, size_z)[columns] |= steps.cumsum(axis=1)[:, :-1] > 0


def _slab_segments(
    triangles: Float[np.ndarray, "cut 3 3"], x: Float[np.ndarray, " cut"]
) -> tuple[Float[np.ndarray, "cut 5 2"], Float[np.ndarray, "cut 5 2"]]:
    """(y, z) of both ends of the five sides of each triangle cut by the slab x to x + 1; nan where there is none.

    The first three are pieces of its own sides, the others lie in the planes of the slab.
    """
    a, b = triangles, np.roll(triangles, -1, axis=1)
    swap = a[..., 0] > b[..., 0]
    low, high = np.where(swap[..., None], b, a), np.where(swap[..., None], a, b)
    length = high[..., 0] - low[..., 0]
    is_across = length > 0
    slope = (high[..., 1:] - low[..., 1:]) / np.where(is_across, length, 1.0)[..., None]
    bounds = x[:, None], x[:, None] + 1
    reaches = (low[..., 0] <= bounds[1]) & (high[..., 0] >= bounds[0])
    start_x = np.maximum(low[..., 0], bounds[0])
    end_x = np.minimum(high[..., 0], bounds[1])
    start = low[..., 1:] + (start_x - low[..., 0])[..., None] * slope
    end = np.where(
        (high[..., 0] <= bounds[1])[..., None], high[..., 1:], low[..., 1:] + (end_x - low[..., 0])[..., None] * slope
    )
    start[~reaches] = np.nan
    end[~reaches] = np.nan
    starts, ends = [start], [end]
    for bound in bounds:
        crosses = (low[..., 0] <= bound) & (bound <= high[..., 0])
        at = low[..., 1:] + (bound - low[..., 0])[..., None] * slope
        y = at[..., 0]
        rows = np.arange(len(y))
        first = np.where(crosses, y, np.inf).argmin(axis=1)
        last = np.where(crosses, y, -np.inf).argmax(axis=1)
        none = ~crosses.any(axis=1)
        for ends_of_all, chosen in ((starts, first), (ends, last)):
            point = at[rows, chosen]
            point[none] = np.nan
            ends_of_all.append(point[:, None])
    return np.concatenate(starts, axis=1), np.concatenate(ends, axis=1)


def _height_range(
    start: Float[np.ndarray, "cut 5 2"], end: Float[np.ndarray, "cut 5 2"], slab: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest z of what is left between y and y + 1; lowest above highest where nothing is."""
    swap = start[..., 0] > end[..., 0]
    low, high = np.where(swap[..., None], end, start), np.where(swap[..., None], start, end)
    length = high[..., 0] - low[..., 0]
    slope = (high[..., 1] - low[..., 1]) / np.where(length > 0, length, 1.0)
    z_low, z_high = np.full(len(y), np.inf), np.full(len(y), -np.inf)
    for side in range(start.shape[1]):
        y0, z0, y1, z1, rise = (
            values[slab]
            for values in (low[:, side, 0], low[:, side, 1], high[:, side, 0], high[:, side, 1], slope[:, side])
        )
        present = (y0 <= y + 1) & (y1 >= y)  # False where nan
        at_start = np.where(y0 >= y, z0, z0 + (y - y0) * rise)
        at_end = np.where(y1 <= y + 1, z1, z0 + (y + 1 - y0) * rise)
        z_low = np.where(present, np.minimum(z_low, np.minimum(at_start, at_end)), z_low)
        z_high = np.where(present, np.maximum(z_high, np.maximum(at_start, at_end)), z_high)
    return z_low, z_high
