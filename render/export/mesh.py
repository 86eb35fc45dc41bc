"""A mesh from fused depth as a file, and what can be said about it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.depth_fusion import DepthMaps, FusedPoints
from data.image_io import write_bytes
from data.tsdf import TRUNCATION, Mesh, fused_mesh, grid_around, without_small_components, without_small_holes


def write_mesh(
    path: Path,
    maps: DepthMaps,
    fused: FusedPoints,
    *,
    voxels: int = 0,
    voxel_size: float = 0.0,
    truncation: float = TRUNCATION,
    min_component: float = 0.0,
    max_hole: int = 0,
    closes_holes: bool = False,
) -> dict[str, Any]:
    """Fuse the confirmed depth of all views into a mesh, write it in the format of the extension, and measure it.

    Raises:
        InputError: when there is no surface.
    """
    grid = grid_around(fused.cloud.points_world, voxels, voxel_size)
    with tqdm(unit="block", desc="mesh") as bar:

        def on_block(_done: int, count: int) -> None:
            bar.total = count
            bar.update()

        mesh = fused_mesh(
            replace(maps, depth=fused.depth), grid, truncation=truncation, closes_holes=closes_holes,
            on_block=on_block,
        )  # fmt: skip
    mesh, removed = without_small_components(mesh, min_component) if min_component else (mesh, 0)
    mesh, filled = without_small_holes(mesh, max_hole) if max_hole else (mesh, 0)
    content = mesh.trimesh().export(file_type=path.suffix[1:])
    write_bytes(path, content.encode() if isinstance(content, str) else content)
    made = {"removed_components": removed, "filled_holes": filled}
    return {**measures(mesh), **made, "voxel_size": grid.voxel_size, "voxels": list(grid.shape)}


def measures(mesh: Mesh) -> dict[str, Any]:
    """Counts, topology and size; the volume only of a watertight mesh. Scene units."""
    whole = mesh.trimesh()
    is_watertight = bool(whole.is_watertight)
    return {
        "vertices": len(mesh.vertices),
        "faces": len(mesh.faces),
        "watertight": is_watertight,
        "components": int(whole.body_count),
        "euler_number": int(whole.euler_number),
        "area": float(whole.area),
        "volume": float(whole.volume) if is_watertight else None,
        "bounds": np.asarray(whole.bounds).tolist(),
    }
