"""Looking at grids: their faces, their colors, and a page that is served."""

from pathlib import Path

import numpy as np
import pytest

from data.occupancy.ray_casting import SKY
from data.occupancy.sessions import read_session
from data.occupancy.view import ERRORS, Grids, main
from data.occupancy.voxel_mesh import INVENTED, MISSED, RIGHT, exposed_faces, height_colors, overview
from geometry import InputError
from geometry.voxels import VoxelGrid
from tests.data.occupancy.test_sessions import write

GRID = VoxelGrid((-2, -2, 0), (2, 2, 2), (1, 1, 0.5))


def test_faces_lie_between_occupied_and_empty_voxels() -> None:
    """Two voxels in a row: ten faces, outward normals, the area of the body."""
    occupied = np.zeros(GRID.size, dtype=bool)
    occupied[1:3, 2, 3] = True
    triangles, cells = exposed_faces(occupied, GRID)
    assert len(triangles) == 20
    a, b, c = triangles.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a) / 2
    assert np.isclose(np.linalg.norm(normals, axis=1).sum(), 2 * (2 * 1 + 2 * 0.5 + 1 * 0.5))
    outwards = triangles.mean(axis=1) - (np.array([0.5, 0, 1.75]) - np.array([0.5, -0.5, 0]))
    assert (np.einsum("ij,ij->i", normals, outwards) > 0).all()
    assert set(map(tuple, cells.tolist())) == {(1, 2, 3), (2, 2, 3)}
    image = overview(triangles, height_colors(cells, GRID), GRID, 40, 60)
    is_sky = (image == (255 * SKY).astype(np.uint8)).all(axis=-1)
    assert 10 < int((~is_sky).sum()) < 1200
    assert is_sky[0].all()


def test_errors_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = read_session(write(tmp_path, "drone_a", 3))
    other = tmp_path / "other"
    other.mkdir()
    grid = np.zeros((4, 4, 2), dtype=np.uint8)
    grid[1, :2] = 1
    grid[3] = 1
    np.savez_compressed(other / "000001_occupancy.npz", occupancy=grid)
    grids = Grids(session, other)
    assert grids.numbers == (1,)
    _, colors, line = grids.mesh(1, ERRORS)
    assert {tuple(color) for color in colors.tolist()} == {RIGHT, MISSED, INVENTED}
    assert "IoU 0.250" in line
    main([str(session.folder), "--compare", str(other), "--port", "0", "--seconds", "0.1"])
    assert "1 frames; http://" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(session.folder), "--grid", "small", "--port", "0"])
    assert "expected the grid" in capsys.readouterr().err
    with pytest.raises(InputError, match="--compare"):
        Grids(session, tmp_path / "nothing")
