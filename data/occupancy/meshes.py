"""Meshes on disk -> triangles in meters, z up: OBJ, what trimesh reads (glTF, GLB, PLY, STL, OFF), and CityGML."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mapbox_earcut
import numpy as np
import trimesh
from jaxtyping import Float, Int

from geometry.errors import InputError, require
from geometry.plain_files import plain_file

SUFFIXES = (".obj", ".gltf", ".glb", ".ply", ".stl", ".off", ".gml", ".xml", ".citygml")
_FARTHEST = 1e9
"""Meters of a corner from the origin: float64 knows it to a micrometer, and projected coordinates are smaller."""
CITY_SUFFIXES = (".gml", ".xml", ".citygml")


@dataclass(frozen=True)
class TriangleMesh:
    """Triangles, and to which object each belongs."""

    vertices: Float[np.ndarray, "vertex 3"]
    """Meters, z up."""
    faces: Int[np.ndarray, "face 3"]
    objects: Int[np.ndarray, " face"]
    """Number of the building, OBJ group or node of the scene."""

    def joined(self, other: "TriangleMesh") -> "TriangleMesh":
        """Both, objects apart."""
        first_free = int(self.objects.max(initial=-1)) + 1
        return TriangleMesh(
            np.concatenate([self.vertices, other.vertices]),
            np.concatenate([self.faces, other.faces + len(self.vertices)]),
            np.concatenate([self.objects, other.objects + first_free]),
        )

    def moved(self, offset: Sequence[float]) -> "TriangleMesh":
        """Shifted by so many meters."""
        return TriangleMesh(self.vertices + np.asarray(offset, dtype=np.float64), self.faces, self.objects)

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Least and greatest coordinates of the triangles."""
        corners = self.vertices[self.faces].reshape(-1, 3)
        return np.stack([corners.min(axis=0), corners.max(axis=0)])


def triangulated(rings: Sequence[Float[np.ndarray, "corner 3"]]) -> Int[np.ndarray, "triangle 3"]:
    """Triangles of a planar polygon with holes, as numbers of the rings' corners one after the other.

    The first ring is the outer one; the normal follows its direction. None for a polygon without area.
    """
    if len(rings) == 1 and len(rings[0]) == 3:
        return np.array([[0, 1, 2]])
    corners = np.concatenate(rings)
    outer = rings[0] - rings[0][0]
    normal = np.cross(outer[1:-1], outer[2:]).sum(axis=0)  # twice the vector area
    axis = int(np.abs(normal).argmax())
    if normal[axis] == 0:
        return np.zeros((0, 3), dtype=np.int64)
    seen = np.delete(corners, axis, axis=1)  # the plane in which it looks largest
    ends = np.cumsum([len(ring) for ring in rings]).astype(np.uint32)
    found = mapbox_earcut.triangulate_float64(seen, ends).astype(np.int64).reshape(-1, 3)
    if len(found) == 0:
        return found
    a, b, c = (corners[found[:, number]] for number in range(3))
    if (np.cross(b - a, c - a).sum(axis=0) * normal).sum() < 0:
        found = found[:, ::-1]
    return found


def read_mesh(path: Path, *, y_up: bool = False, scale: float = 1.0) -> TriangleMesh:
    """A mesh file; of CityGML see `data.occupancy.citygml`.

    Args:
        path: Its suffix names the format.
        y_up: The file's y is up (glTF by its standard, and many OBJ files): x y z -> x -z y.
        scale: Meters per unit of the file.

    Raises:
        InputError: for an unknown suffix and a file without triangles.
    """
    require(path.is_file(), f"--mesh: expected a file, got {path}")
    suffix = path.suffix.lower()
    require(suffix in SUFFIXES, f"--mesh {path}: expected one of {', '.join(SUFFIXES)}, got {suffix or 'no suffix'}")
    mesh = read_obj(path) if suffix == ".obj" else _read_other(path)
    vertices = mesh.vertices * scale
    require(
        bool((np.abs(vertices) <= _FARTHEST).all()),  # False of nan
        f"{path}: expected finite corners within {_FARTHEST:g} m (--scale)",
    )
    require(len(mesh.faces) > 0, f"{path}: expected triangles, got none")
    if y_up:
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=-1)
    return TriangleMesh(vertices, mesh.faces, mesh.objects)


def read_obj(path: Path) -> TriangleMesh:
    """Corners and faces of a Wavefront file: polygons, `o` and `g` groups, v/vt/vn, numbers counted from the end.

    Raises:
        InputError: naming file and line.
    """
    try:
        lines = plain_file(path).read_text("utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    vertices: list[list[float]] = []
    faces: list[np.ndarray] = []
    objects: list[int] = []
    group = -1
    begun: list[str] = []
    for number, line in enumerate(lines, start=1):
        words = begun + line.split("#", 1)[0].split()
        begun = []
        if words and words[-1] == "\\":  # the line goes on in the next one
            begun = words[:-1]
            continue
        if not words:
            continue
        try:
            if words[0] == "v":
                vertices.append([float(word) for word in words[1:4]])
                require(len(vertices[-1]) == 3, f"{path}, line {number}: expected three numbers, got {line.strip()!r}")
            elif words[0] in ("o", "g"):
                group += 1
            elif words[0] == "f":
                corners = _obj_corners(words[1:], len(vertices))
                points = np.array([vertices[corner] for corner in corners])
                found = np.array(corners)[triangulated([points])]
                faces.append(found)
                objects += [max(group, 0)] * len(found)
        except (ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}, line {number}: expected a vertex or a face, got {line.strip()!r}") from error
    joined = np.concatenate(faces) if faces else np.zeros((0, 3), dtype=np.int64)
    return TriangleMesh(np.array(vertices, dtype=np.float64).reshape(-1, 3), joined, np.array(objects, dtype=np.int64))


def _obj_corners(words: Sequence[str], count: int) -> list[int]:
    """Numbers from 0 on; in the file they count from 1 on, or, negative, back from the last vertex."""
    numbers = [int(word.split("/")[0]) for word in words]
    corners = [number - 1 if number > 0 else count + number for number in numbers]
    if len(corners) < 3 or min(corners) < 0 or max(corners) >= count or 0 in numbers:
        raise IndexError(words)
    return corners


def _read_other(path: Path) -> TriangleMesh:
    try:
        # from memory: of a file trimesh would ask for as many bytes as a header says
        content, resolver = io.BytesIO(plain_file(path).read_bytes()), trimesh.resolvers.FilePathResolver(str(path))
        scene = trimesh.load_scene(content, file_type=path.suffix[1:].lower(), resolver=resolver, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh)]
    except Exception as error:  # its readers raise whatever the format's parser does
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    mesh = TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.int64))
    for part in parts:
        faces = np.asarray(part.faces, dtype=np.int64)
        vertices = np.asarray(part.vertices, dtype=np.float64)
        last = int(faces.max(initial=-1))
        require(
            vertices.shape[1:] == faces.shape[1:] == (3,),
            f"{path}: expected corners of 3 numbers and faces of 3 corners, got {vertices.shape[1:]} {faces.shape[1:]}",
        )
        require(
            int(faces.min(initial=0)) >= 0 and last < len(vertices),
            f"{path}: expected faces of {len(vertices)} corners, got one of corner {last}",
        )
        mesh = mesh.joined(TriangleMesh(vertices, faces, np.zeros(len(faces), dtype=np.int64)))
    return mesh
