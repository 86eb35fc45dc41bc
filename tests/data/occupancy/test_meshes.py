"""Mesh files and city models: polygons, groups, numbers from the end, degrees."""

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh

from data.occupancy.citygml import Origin, read_city
from data.occupancy.meshes import read_mesh, triangulated
from data.occupancy.voxelize import prepared
from geometry import InputError

OBJ_OF_NAN = "v 0 0 nan\nv 1 0 0\nv 1 1 0\nv 0 1e300 0\nf 1 2 3 4\n"


def area(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, number]] for number in range(3))
    return np.cross(b - a, c - a) / 2


def test_polygons_with_corners_inwards_and_holes() -> None:
    """An L of area 3 and a square with a hole, both slanted; normals follow the outer ring."""
    corners = np.array([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]], dtype=np.float64)
    slanted = np.concatenate([corners, corners[:, :1]], axis=1)
    found = area(slanted, triangulated([slanted]))
    assert np.allclose(found.sum(axis=0), [-3, 0, 3])
    assert np.allclose(np.linalg.norm(found, axis=1).sum(), 3 * 2**0.5)
    backwards = area(slanted[::-1], triangulated([slanted[::-1]]))
    assert np.allclose(backwards.sum(axis=0), [3, 0, -3])
    square = np.array([[0, 0, 1], [4, 0, 1], [4, 4, 1], [0, 4, 1]], dtype=np.float64)
    hole = square / 2 + [1, 1, 0.5]
    both = np.concatenate([square, hole])
    assert np.allclose(area(both, triangulated([square, hole])).sum(axis=0), [0, 0, 12])
    assert len(triangulated([np.zeros((4, 3))])) == 0


def test_obj_of_polygons_groups_and_negative_numbers(tmp_path: Path) -> None:
    path = tmp_path / "two.obj"
    path.write_text(
        "o a\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1/1/1 2/2/1 3/3/1 4/4/1\n"
        "o b # another\nv 0 0 2\nv 1 0 2\nv 1 1 2\nf -3//1 -2//1 -1//1\n"
    )
    mesh = read_mesh(path)
    assert mesh.faces.shape == (3, 3)
    assert mesh.objects.tolist() == [0, 0, 1]
    assert mesh.vertices[mesh.faces[2], 2].tolist() == [2, 2, 2]
    upright = read_mesh(path, y_up=True, scale=2.0)
    assert upright.bounds.tolist() == [[0, -4, 0], [2, 0, 2]]
    path.write_text("\ufeffv 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 \\\n3\n")
    assert read_mesh(path).faces.tolist() == [[0, 1, 2]]
    for text, named in (("v 0 0 0\nf 1 2 3\n", "line 2"), ("v 0 0 0\n", "triangles"), (OBJ_OF_NAN, "finite")):
        path.write_text(text)
        with pytest.raises(InputError, match=named):
            read_mesh(path)
    with pytest.raises(InputError, match="--mesh"):
        read_mesh(tmp_path / "none.obj")


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_what_trimesh_reads(tmp_path: Path, suffix: str) -> None:
    """Two boxes; the nodes of a scene stay objects and stand where their transforms say."""
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box((1, 2, 3)))
    scene.add_geometry(trimesh.creation.box((1, 1, 1)), transform=trimesh.transformations.translation_matrix([9, 0, 0]))
    path = tmp_path / f"boxes.{suffix}"
    (scene.to_geometry() if suffix == "ply" else scene).export(path)
    mesh = read_mesh(path)
    assert mesh.bounds.tolist() == [[-0.5, -1, -1.5], [9.5, 1, 1.5]]
    assert len(set(mesh.objects.tolist())) == (1 if suffix == "ply" else 2)
    assert prepared(mesh.vertices, mesh.faces, mesh.objects).num_open == 0
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_mesh(path)


LAT, LON = 35.0, 139.0
NORTH, EAST = 110940.4, 91287.7
"""Meters of a degree at 35 degrees north (GRS 80): meridian and parallel."""


def ring(*corners: tuple[float, float, float]) -> str:
    """gml of a closed ring of (north, east, height) in meters from the origin."""
    points = [f"{LAT + n / NORTH:.12f} {LON + e / EAST:.12f} {z}" for n, e, z in (*corners, corners[0])]
    return f"<gml:LinearRing><gml:posList>{' '.join(points)}</gml:posList></gml:LinearRing>"


def city(buildings: str, srs: str = "EPSG/0/6697") -> str:
    spaces = 'xmlns:core="c" xmlns:gml="g" xmlns:bldg="b" xmlns:xlink="x"'
    envelope = f'<gml:boundedBy><gml:Envelope srsName="http://www.opengis.net/def/crs/{srs}"/></gml:boundedBy>'
    members = f"<core:cityObjectMember>{buildings}</core:cityObjectMember>"
    return f"<core:CityModel {spaces}>{envelope}{members}</core:CityModel>"


def solid(level: str, height: float) -> str:
    """A block 10 m east and 20 m north."""
    low, high = [(0, 0, 0), (20, 0, 0), (20, 10, 0), (0, 10, 0)], None
    high = [(n, e, height) for n, e, _ in low]
    walls = [[low[i], high[i], high[(i + 1) % 4], low[(i + 1) % 4]] for i in range(4)]
    polygons = "".join(
        f'<gml:surfaceMember><gml:Polygon gml:id="{level}{number}"><gml:exterior>{ring(*corners)}</gml:exterior>'
        "</gml:Polygon></gml:surfaceMember>"
        for number, corners in enumerate([low, high[::-1], *walls])
    )
    return f"<bldg:{level}><gml:Solid><gml:exterior>{polygons}</gml:exterior></gml:Solid></bldg:{level}>"


def test_city_models_by_level_and_in_meters(tmp_path: Path) -> None:
    path = tmp_path / "tile.gml"
    footprint = f"<bldg:lod0FootPrint><gml:Polygon><gml:exterior>{ring((0, 0, 0), (9, 0, 0), (9, 9, 0))}</gml:exterior>"
    footprint += "</gml:Polygon></bldg:lod0FootPrint>"
    named = '<bldg:lod2MultiSurface><gml:surfaceMember xlink:href="#lod2Solid0"/></bldg:lod2MultiSurface>'
    path.write_text(
        city(f"<bldg:Building>{footprint}{solid('lod1Solid', 5)}{solid('lod2Solid', 8)}{named}</bldg:Building>")
    )
    best, low = read_city(path), read_city(path, max_level=1)
    assert best.levels == {2: 1}
    assert low.levels == {1: 1}
    assert best.mesh.faces.shape == (12, 3)  # the polygon that is named once more counts once
    assert np.allclose(best.mesh.bounds, [[-5, -10, 0], [5, 10, 8]], atol=2e-3)
    assert low.mesh.bounds[1, 2] == 5
    assert prepared(best.mesh.vertices, best.mesh.faces, best.mesh.objects).num_open == 0
    with pytest.raises(InputError, match="--origin"):
        read_city(path, origin=Origin(-LAT, LON))
    path.write_text(path.read_text().replace("EPSG/0/6697", "urn:ogc:def:crs,crs:EPSG::4258,crs:EPSG::7837"))
    assert np.array_equal(read_city(path).mesh.bounds, best.mesh.bounds)  # a system of its own for heights
    corner = read_city(path, origin=Origin(LAT, LON)).mesh.bounds
    assert np.allclose(corner, [[0, 0, 0], [10, 20, 8]], atol=2e-3)


def test_terrain_and_what_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "dem.gml"
    triangle = f"<gml:Triangle><gml:exterior>{ring((0, 0, 1), (20, 0, 2), (20, 10, 3))}</gml:exterior></gml:Triangle>"
    broken = "<gml:Triangle><gml:exterior><gml:posList>1 2 3 4</gml:posList></gml:exterior></gml:Triangle>"
    relief = f"<tin><gml:TriangulatedSurface>{triangle}{broken}</gml:TriangulatedSurface></tin>"
    path.write_text(city(relief))
    model = read_city(path)
    assert model.levels == {-1: 1}
    assert len(model.problems) == 1
    assert prepared(model.mesh.vertices, model.mesh.faces).num_open == 1
    path.write_text(city(relief.replace("<gml:Triangulated", "<undeclared:a/><gml:Triangulated")))
    assert "undeclared" in read_city(path).problems[0]
    path.write_text(city(relief)[:-40])
    with pytest.raises(InputError, match="cannot be read"):
        read_city(path)
    flat = triangle.replace("<gml:posList>", '<gml:posList srsDimension="2">')
    path.write_text(city(relief.replace(broken, flat)))
    assert len(read_city(path).problems) == 1
    turned = re.sub(r"(35[\d.]*) (139[\d.]*)", r"\2 \1", triangle)
    path.write_text(city(relief.replace(triangle, turned), "OGC/1.3/CRS84"))
    assert np.array_equal(read_city(path).mesh.bounds, model.mesh.bounds)
    path.write_text(city("<bldg:Building/>"))
    with pytest.raises(InputError, match="expected polygons"):
        read_city(path)
