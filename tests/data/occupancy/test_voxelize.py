"""Meshes -> grids, against winding numbers, separating axes and boxes known by hand."""

import numpy as np
import pytest
import torch

from data.occupancy.procedural_world import WorldSpec, make_world, solid_mesh
from data.occupancy.voxelize import Shells, prepared, voxelized
from geometry import InputError
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid

SPACE = EgoGrid(VoxelGrid((-4, -4, -4), (4, 4, 4), (1, 1, 1)), GridFrame("full"))
QUADS = np.array([[0, 3, 2, 1], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]])
CUBE = np.concatenate([QUADS[:, [0, 1, 2]], QUADS[:, [0, 2, 3]]])


def box(low: tuple, high: tuple) -> np.ndarray:
    """Eight corners."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    return np.array(
        [[x, y, z] for z in (z0, z1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], dtype=np.float64
    )


def cells(shells: Shells, mode: str, grid2world: np.ndarray | None = None) -> set[tuple[int, ...]]:
    occupied = voxelized(shells, SPACE, np.eye(4) if grid2world is None else grid2world, mode)
    return {tuple(cell) for cell in np.argwhere(occupied).tolist()}


def block(x: range, y: range, z: range) -> set[tuple[int, int, int]]:
    return {(i, j, k) for i in x for j in y for k in z}


def test_a_box_by_hand() -> None:
    """From 0.6 to 2.4: the centers at 1.5 are inside, those at 0.5 and 2.5 are not, whose voxels it touches."""
    shells = prepared(box((0.6, 0.6, 0.6), (2.4, 2.4, 2.4)), CUBE)
    assert shells.num_open == 0
    assert cells(shells, "solid") == {(5, 5, 5)}
    assert cells(shells, "union") == block(range(4, 7), range(4, 7), range(4, 7))
    assert cells(shells, "surface") == cells(shells, "union") - {(5, 5, 5)}
    with pytest.raises(InputError, match="--mode"):
        cells(shells, "vertices")


def test_a_voxel_s_closed_box_is_touched_from_both_sides() -> None:
    sheet = np.array([[0.2, 0.2, 1.0], [0.8, 0.2, 1.0], [0.2, 0.8, 1.0]])
    shells = prepared(sheet, np.array([[0, 1, 2]]))
    assert cells(shells, "surface") == {(4, 4, 4), (4, 4, 5)}
    assert cells(shells, "solid") == set()
    assert shells.num_open == 1


@pytest.mark.parametrize("turned", ["inwards", "one face", "both"])
def test_neither_direction_nor_overlap_matters(turned: str) -> None:
    """Two boxes that overlap in one voxel row; parity would empty it, and normals may point anywhere."""
    faces = CUBE.copy()
    if turned == "inwards":
        faces = faces[:, ::-1]
    else:
        faces[3] = faces[3, ::-1]
    second = CUBE[:, ::-1] if turned == "both" else CUBE
    vertices = np.concatenate([box((-2, -2, -2), (1, 1, 1)), box((0, 0, 0), (3, 3, 3))])
    shells = prepared(vertices, np.concatenate([faces, second + 8]))
    assert cells(shells, "solid") == block(range(2, 5), range(2, 5), range(2, 5)) | block(
        range(4, 7), range(4, 7), range(4, 7)
    )


def test_an_object_may_close_without_sharing_edges() -> None:
    """A wall in two halves over an undivided floor: no edge fits, the vector area is 0. Without the roof it is open."""
    corners = box((-2, -2, -2), (2, 2, 2))
    middle = np.array([[0.0, -2, -2], [0, -2, 2]])
    vertices = np.concatenate([corners, middle])
    halves = np.array([[0, 8, 9], [0, 9, 4], [8, 1, 5], [8, 5, 9]])
    faces = np.concatenate([np.delete(CUBE, [2, 8], axis=0), halves])
    shells = prepared(vertices, faces)
    assert shells.num_open == 0
    assert cells(shells, "solid") == block(range(2, 6), range(2, 6), range(2, 6))
    open_top = prepared(vertices, np.delete(faces, [1, 6], axis=0))
    assert cells(open_top, "solid") == set()
    assert len(cells(open_top, "union")) > 0


def test_surfaces_are_those_of_the_separating_axis_test() -> None:
    """Random triangles of all sizes and slants in a turned frame, against 13 axes for every voxel."""
    random = np.random.default_rng(3)
    center = random.uniform(-4, 4, (5, 1, 3))
    triangles = center + random.uniform(-1, 1, (5, 3, 3)) * random.uniform(0.1, 5, (5, 1, 1))
    triangles[0, :, 2] = 0.25  # level
    triangles[1, :, 0] = -1.3  # upright
    shells = prepared(triangles.reshape(-1, 3), np.arange(15).reshape(-1, 3))
    pose = torch.tensor([[0.3, -0.2, 0.4, 0.9, 0.2, -0.3, 0.25, *[0] * 6]], dtype=torch.float64)
    grid2world = SPACE.frame.grid2world(pose)[0].numpy()
    local = (triangles - grid2world[:3, 3]) @ grid2world[:3, :3]
    expected = set()
    for cell in np.ndindex(8, 8, 8):
        corners = local - (np.array(cell) - 3.5)
        if any(touches_unit_box(one) for one in corners):
            expected.add(cell)
    assert cells(shells, "surface", grid2world) == expected


def touches_unit_box(triangle: np.ndarray) -> bool:
    """Akenine-Moller's test for a box of side 1 about the origin."""
    edges = np.roll(triangle, -1, axis=0) - triangle
    axes = [*np.eye(3), np.cross(edges[0], edges[1])]
    axes += [np.cross(edge, axis) for edge in edges for axis in np.eye(3)]
    for axis in axes:
        along, radius = triangle @ axis, 0.5 * np.abs(axis).sum()
        if along.min() > radius or along.max() < -radius:
            return False
    return True


def test_worlds_by_their_meshes_are_the_worlds() -> None:
    """Boxes, ramps and moving boxes: mesh, shells and columns give what the heights say."""
    spec = WorldSpec()
    world = make_world(11, spec)
    for step in (0, 6):
        vertices, faces = solid_mesh(world.standing, 0)
        moving, moving_faces = solid_mesh(world.moving, step)
        both = np.concatenate([vertices, moving]), np.concatenate([faces, moving_faces + len(vertices)])
        ours = voxelized(prepared(*both), spec.space, spec.space.frame.grid2world(world.poses[step]).numpy(), "solid")
        expected, _ = world.occupancy(spec.space, step)
        ground = (spec.space.heights(world.poses[step]) < 0).numpy()
        assert np.array_equal(ours | ground, expected)
