"""City models in CityGML (OGC 12-019), such as Project PLATEAU's: polygons of buildings, bridges, terrain -> triangles.

Of every building (or part of one) the best level of detail is taken: of LOD2 its wall, roof and ground surfaces, of
LOD1 its block. LOD0, a footprint, is none. Geographic coordinates (EPSG:6697 and others: latitude, longitude, height)
become meters in a plane that touches the ellipsoid at the tile's center, x east, y north; z stays the height.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from lxml import etree

from data.occupancy.meshes import TriangleMesh, triangulated
from geometry.errors import InputError, require
from geometry.plain_files import plain_file

_LOD = re.compile(r"lod(\d)\w+")
_PARTS = ("Building", "BuildingPart", "BuildingInstallation", "Bridge", "BridgePart")
_SEMI_MAJOR, _FLATTENING = 6378137.0, 1 / 298.257222101
"""Meters; of GRS 80, on which JGD2011, ETRS89 and (to 0.1 mm) WGS 84 rest."""
_GEOGRAPHIC = {"6697", "6668", "4612", "4326", "4979", "4258", "4937", "4269", "6318", "6319", "4283", "7843", "7844"}
"""EPSG numbers with latitude, longitude order in degrees."""
_LONGITUDE_FIRST = re.compile(r"CRS84h?$|CRS:84$", re.IGNORECASE)
"""Names of OGC's systems of longitude, latitude (OGC 09-048r5, table 2)."""
_MAX_SPAN = 0.5
"""Degrees of a tile: in a plane larger than about 50 km the earth's curve is meters."""


class Origin(NamedTuple):
    """Where the plane touches."""

    latitude: float
    """Degrees."""
    longitude: float

    def plane(self, positions: Float[np.ndarray, "point 3"]) -> Float[np.ndarray, "point 3"]:
        """East, north, height in meters of latitude, longitude, height.

        East and north are exact in the plane that touches the ellipsoid below the origin; z stays the height, which
        the plane leaves by d^2 / 2R, 8 cm at 1 km.
        """
        latitude, longitude = math.radians(self.latitude), math.radians(self.longitude)
        here = np.array([[self.latitude, self.longitude, 0.0]])
        offset = _geocentric(positions * [1.0, 1.0, 0.0]) - _geocentric(here)
        east = np.array([-math.sin(longitude), math.cos(longitude), 0.0])
        north = np.array(
            [
                -math.sin(latitude) * math.cos(longitude),
                -math.sin(latitude) * math.sin(longitude),
                math.cos(latitude),
            ]
        )
        return np.stack([offset @ east, offset @ north, positions[:, 2]], axis=-1)


def _geocentric(positions: np.ndarray) -> np.ndarray:
    """Cartesian coordinates of latitude, longitude in degrees and height in meters."""
    squared = _FLATTENING * (2 - _FLATTENING)
    latitude, longitude = np.radians(positions[:, 0]), np.radians(positions[:, 1])
    normal = _SEMI_MAJOR / np.sqrt(1 - squared * np.sin(latitude) ** 2)
    around = (normal + positions[:, 2]) * np.cos(latitude)
    z = (normal * (1 - squared) + positions[:, 2]) * np.sin(latitude)
    return np.stack([around * np.cos(longitude), around * np.sin(longitude), z], axis=-1)


@dataclass(frozen=True)
class CityModel:
    """Triangles of a file."""

    mesh: TriangleMesh
    origin: Origin | None
    """None: the file's coordinates are meters already."""
    num_objects: int
    """Buildings and others that have triangles."""
    levels: dict[int, int]
    """Objects by the level of detail that was taken; -1: terrain."""
    problems: tuple[str, ...]
    """What is not as it should be, and polygons that were left out."""


def read_city(path: Path, *, origin: Origin | None = None, max_level: int = 2) -> CityModel:
    """Triangles of all objects of a CityGML file.

    Args:
        path: The file.
        origin: Of the plane; None: the center of the tile. Give neighboring tiles one origin.
        max_level: Best level of detail to take.

    Raises:
        InputError: naming the file, for what is no CityGML, an unknown coordinate system, and no polygon at all.
    """
    problems: list[str] = []
    root = _parsed(path, problems)
    order = _geographic_order(root, path)
    is_geographic = order is not None
    if origin is not None and not is_geographic:
        problems.append(f"{path}: coordinates are meters, which --origin does not move")
    rings: list[list[np.ndarray]] = []
    objects: list[int] = []
    levels: dict[int, int] = defaultdict(int)
    by_id = {value: node for node in root.iter() for key, value in node.attrib.items() if _name(key) == "id"}
    number = -1
    for member in (node for node in root.iter() if _name(node) in ("cityObjectMember", "featureMember")):
        for level, polygons in _objects(member, by_id, max_level):
            found = [ring for polygon in polygons if (ring := _rings(polygon, path, problems))]
            if found:
                number += 1
                levels[level] += 1
                rings += found
                objects += [number] * len(found)
    require(len(rings) > 0, f"{path}: expected polygons of LOD 1 to {max_level} or terrain, got none")
    if order is not None:
        rings = [[ring[:, order] for ring in polygon] for polygon in rings]
        places = np.concatenate([ring for polygon in rings for ring in polygon])
        center = _center(places, path)
        origin = center if origin is None else origin
        apart = max(abs(center.latitude - origin.latitude), abs(center.longitude - origin.longitude))
        require(
            apart <= _MAX_SPAN,
            f"{path}: expected a tile within {_MAX_SPAN} degrees of its --origin {origin[0]:g} {origin[1]:g}, which "
            f"neighboring tiles share, got {center[0]:.4f} {center[1]:.4f}",
        )
        rings = [[origin.plane(ring) for ring in polygon] for polygon in rings]
    return CityModel(
        mesh=_mesh(rings, objects, problems, path),
        origin=origin if is_geographic else None,
        num_objects=number + 1,
        levels=dict(levels),
        problems=tuple(problems),
    )


def _parsed(path: Path, problems: list[str]) -> etree._Element:
    """Root of the file. Prefixes without a namespace, which real tiles have, are a problem; anything worse an error."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, huge_tree=True, remove_comments=True, recover=True
    )
    try:
        root = etree.parse(str(plain_file(path)), parser).getroot()
    except (OSError, etree.XMLSyntaxError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    broken = [entry for entry in parser.error_log if entry.domain_name != "NAMESPACE"]
    require(root is not None and not broken, f"{path} cannot be read: {broken[0] if broken else 'it is empty'}")
    require(_name(root) == "CityModel", f"{path}: expected a CityModel, got {_name(root)}")
    if len(parser.error_log) > 0:
        first = parser.error_log[0]
        problems.append(f"{path}, line {first.line}: {first.message} ({len(parser.error_log)} such errors)")
    return root


def _name(node: etree._Element | str) -> str:
    """Tag or attribute name without its namespace; "" of comments."""
    tag = node if isinstance(node, str) else node.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _geographic_order(root: etree._Element, path: Path) -> list[int] | None:
    """Where latitude, longitude, height stand among the numbers of a corner; None of meters.

    By the name of the system (of a compound one by all its parts), else by the numbers.
    """
    names = {value for node in root.iter() for key, value in node.attrib.items() if _name(key) == "srsName"}
    if any(_LONGITUDE_FIRST.search(name) for name in names):
        return [1, 0, 2]
    numbers = {number for name in names for number in re.findall(r"(?<!\d)\d{4,5}(?!\d)", name)}
    if numbers & _GEOGRAPHIC:
        return [0, 1, 2]
    if numbers:
        return None  # a projected system: meters
    first = next((node for node in root.iter() if _name(node) == "posList" and node.text), None)
    try:
        values = [float(word) for word in first.text.split()[:3]] if first is not None else []
    except ValueError:
        values = []
    require(len(values) == 3, f"{path}: expected gml:posList with three numbers per corner, got none")
    is_degrees = abs(values[0]) <= 90 and abs(values[1]) <= 180 and "." in (first.text or "")
    return [0, 1, 2] if is_degrees else None


def _objects(
    member: etree._Element, by_id: dict[str, etree._Element], max_level: int
) -> Iterator[tuple[int, list[etree._Element]]]:
    """Level and polygons of each building, part or terrain of a member."""
    by_owner: dict[etree._Element, dict[int, list[etree._Element]]] = defaultdict(lambda: defaultdict(list))
    for node in member.iter():
        name = _name(node)
        match = _LOD.fullmatch(name)
        level = int(match[1]) if match else -1
        if (match and 1 <= level <= max_level) or name == "tin":
            owner = next((one for one in node.iterancestors() if _name(one) in _PARTS), member)
            by_owner[owner][level] += _polygons(node, by_id)
    for levels in by_owner.values():
        best = max((level for level, polygons in levels.items() if polygons), default=None)
        if best is not None:
            yield best, list(dict.fromkeys(levels[best]))  # a solid names polygons of its boundary once more


def _polygons(node: etree._Element, by_id: dict[str, etree._Element]) -> list[etree._Element]:
    """Polygons and triangles below a node, also those that it only names (xlink:href)."""
    found = []
    for below in node.iter():
        if _name(below) in ("Polygon", "Triangle", "Rectangle"):
            found.append(below)
        for key, value in below.attrib.items():
            if _name(key) == "href" and value.startswith("#") and value[1:] in by_id:
                found += [one for one in by_id[value[1:]].iter() if _name(one) in ("Polygon", "Triangle", "Rectangle")]
    return found


def _rings(polygon: etree._Element, path: Path, problems: list[str]) -> list[np.ndarray]:
    """Outer ring and holes, the repeated last corner left out; [] for a polygon that cannot be used."""
    found = []
    for side in ("exterior", "interior"):
        for ring in (node for node in polygon if _name(node) == side):
            corners = _corners(ring)
            if corners is None or len(corners) < 3:
                name = next((value for key, value in polygon.attrib.items() if _name(key) == "id"), "without id")
                problems.append(f"{path}: polygon {name} (line {polygon.sourceline}): expected 3 corners of 3 numbers")
                if side == "exterior":
                    return []
                continue
            found.append(corners)
    return found


def _corners(ring: etree._Element) -> np.ndarray | None:
    """Of one ring, from posList, or from several pos."""
    if any(node.get("srsDimension", "3") != "3" for node in ring.iter()):
        return None
    lists = [node.text or "" for node in ring.iter() if _name(node) in ("posList", "pos", "coordinates")]
    try:
        numbers = np.array([float(word) for text in lists for word in text.replace(",", " ").split()])
    except ValueError:
        return None
    if len(numbers) == 0 or len(numbers) % 3 or not np.isfinite(numbers).all():
        return None
    corners = numbers.reshape(-1, 3)
    return corners[:-1] if len(corners) > 1 and np.array_equal(corners[0], corners[-1]) else corners


def _center(positions: np.ndarray, path: Path) -> Origin:
    low, high = positions.min(axis=0), positions.max(axis=0)
    require(
        bool((high[:2] - low[:2] <= _MAX_SPAN).all() and abs(low[0]) <= 90),
        f"{path}: expected latitudes and longitudes of at most {_MAX_SPAN} degrees span, got {low[:2]} to {high[:2]}",
    )
    middle = (low + high) / 2
    return Origin(float(middle[0]), float(middle[1]))


def _mesh(
    rings: Sequence[Sequence[np.ndarray]], objects: Sequence[int], problems: list[str], path: Path
) -> TriangleMesh:
    vertices, faces, owners, first = [], [], [], 0
    num_flat = 0
    for polygon, owner in zip(rings, objects, strict=True):
        found = triangulated(polygon)
        num_flat += len(found) == 0
        vertices += polygon
        faces.append(found + first)
        owners += [owner] * len(found)
        first += sum(len(ring) for ring in polygon)
    if num_flat:
        problems.append(f"{path}: {num_flat} polygons without area")
    return TriangleMesh(np.concatenate(vertices), np.concatenate(faces), np.array(owners, dtype=np.int64))
