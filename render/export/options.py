"""Options of `python -m render.export`: each belongs to some products and origins, and is refused elsewhere."""

import sys
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path

from data.depth_fusion import DEPTH_TOLERANCE, PIXEL_TOLERANCE, USUAL_AGREEING
from data.tsdf import MOST_VOXELS, TRUNCATION, USUAL_HOLE, USUAL_VOXELS
from geometry import InputError, require
from models.mapanything.inference import DEFAULT_PERCENTILE
from models.nerf.samplers import SAMPLE_COUNTS, SIZES_OF_MAPS
from render.export.mapanything import GIVEN
from render.export.renderings import USUAL_OPACITY
from render.options import RenderOptions
from render.reconstruct.sources import MAX_IMAGES, MAX_SIDE
from render.reconstruct.vggt_prediction import CHUNK_SIZE
from training.nerf.data_options import DataOptions
from training.options import option

PRODUCTS = ("points", "mesh", "cameras", "depth")
ORIGINS = ("model", "vggt", "mapanything")
MESH_FORMATS = ("ply", "glb", "obj")
MODEL_POINTS = 10_000
"""In COLMAP's points3D, where points are there anyway: structure from motion finds as many in some 50 photographs."""

_FUSED = ("points", "mesh", "cameras")
_PRODUCTS_OF: dict[str, tuple[str, ...]] = {
    "min_opacity": _FUSED,
    "keep_background": _FUSED,
    "agreeing": _FUSED,
    "depth_tolerance": _FUSED,
    "pixel_tolerance": _FUSED,
    "confidence_percentile": _FUSED,
    "spacing": ("points",),
    "normals": ("points",),
    "voxels": ("mesh",),
    "voxel_size": ("mesh",),
    "truncation": ("mesh",),
    "min_component": ("mesh",),
    "max_hole": ("mesh",),
    "close_holes": ("mesh",),
    "mesh_format": ("mesh",),
    "colmap_text": ("cameras",),
    "colmap_points": ("cameras",),
}
_ORIGINS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ckpt", "n_views", "imgScale_test", "near_far", "white_bkgd", "chunk", "precision"), ("model",)),
    **dict.fromkeys(("min_opacity", "keep_background", "keep_renderings", "quality"), ("model",)),
    **dict.fromkeys((*SAMPLE_COUNTS, *SIZES_OF_MAPS), ("model",)),
    **dict.fromkeys(("vggt_ckpt", "vggt_image_size"), ("model", "vggt")),
    **dict.fromkeys(("images", "max_side", "max_images", "confidence_percentile"), ("vggt", "mapanything")),
    **dict.fromkeys(("long", "chunk_size", "chunk_overlap"), ("vggt",)),
    **dict.fromkeys(("mapanything_ckpt", "given", "image_size"), ("mapanything",)),
}
"""Options that do nothing elsewhere."""
_MOST = sys.float_info.max
"""Any number but infinity."""
USUAL_PERCENTILE = 50.0
"""Percent of VGGT's pixels left out: the setting with which VGGT's own demonstration starts."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(RenderOptions):
    """What to export, from where, and how."""

    what: tuple[str, ...] = option(("points",), f"products: {', '.join(PRODUCTS)}", nargs="+")
    origin: str = option(
        "model", "model (--ckpt), or vggt or mapanything (cameras and depth are the network's own)", aliases=("from",)
    )
    mapanything_ckpt: str = option(
        "", "--from mapanything: a .ckpt of train_mapanything.py, a .safetensors file, a folder or a hub id"
    )
    given: tuple[str, ...] = option(
        (), f"--from mapanything: what the network gets of a data set's scan: {', '.join(GIVEN)}", nargs="+"
    )
    image_size: int | None = option(
        None, "--from mapanything: longer side of the images in pixels; not given: that of the network's positions"
    )
    images: str = option(
        "", "--from vggt, mapanything: folder of photographs or video, instead of a scan of a data set"
    )
    max_side: int | None = option(
        None, f"--images: longest side in pixels to which photographs are reduced; not given: {MAX_SIDE}"
    )
    max_images: int | None = option(
        None, f"--images: most photographs, or frames of a video, to use; not given: {MAX_IMAGES}"
    )
    scan: str = option("", "the scan to export; may be left out when there is only one")
    views: tuple[int, ...] = option((), "view numbers to export; none given: all", nargs="+")
    out: str = option("", "folder for the products")
    long: bool = option(False, "--from vggt: predict in overlapping chunks, joined by similarity transforms")
    chunk_size: int | None = option(None, f"--from vggt --long: photographs in a chunk; not given: {CHUNK_SIZE}")
    chunk_overlap: int | None = option(
        None, "--from vggt --long: photographs that neighboring chunks share; not given: a third of a chunk"
    )
    keep_renderings: bool = option(
        False, "keep what was rendered in the folder; the next export with the same --ckpt and views starts from it"
    )
    min_opacity: float = option(USUAL_OPACITY, "rays of less opacity have no depth")
    keep_background: bool = option(False, "keep what --near_far open sees behind the scene's far")
    confidence_percentile: float | None = option(
        None,
        "--from vggt, mapanything: percent of the pixels, the least confident, left out; not given: "
        f"{USUAL_PERCENTILE:g} of vggt, {DEFAULT_PERCENTILE:g} of mapanything",
    )
    agreeing: int | None = option(
        None,
        f"other views that must confirm a pixel's depth; not given: {USUAL_AGREEING} or as many as there are, 0 with "
        "--from vggt and mapanything",
    )
    depth_tolerance: float = option(
        DEPTH_TOLERANCE, "difference in depth that counts as agreeing, as a share of the depth"
    )
    pixel_tolerance: float = option(
        PIXEL_TOLERANCE, "pixels between a pixel and its way there and back that count as agreeing"
    )
    spacing: float | None = option(
        None, "at most one point in cells of this side, scene units; 0 = all; not given: the width of a pixel"
    )
    normals: bool = option(False, "points with normals from depth")
    voxels: int | None = option(None, f"voxels along the volume's longest side; not given: {USUAL_VOXELS}")
    voxel_size: float | None = option(None, "side of a voxel, scene units, instead of --voxels")
    truncation: float = option(TRUNCATION, "voxels up to which distances of the views are averaged")
    min_component: float = option(0.01, "connected parts of fewer faces than this share of the largest are removed")
    max_hole: int = option(USUAL_HOLE, "holes in the mesh with so many edges around, or fewer, are filled; 0: none")
    close_holes: bool = option(False, "what no view sees counts as inside, so that the mesh is closed")
    mesh_format: str = option("ply", f"file type: {', '.join(MESH_FORMATS)}")
    colmap_text: bool = option(False, "COLMAP model as text instead of binary")
    colmap_points: int | None = option(
        None,
        f"most points in COLMAP's points3D, drawn from the fused ones; not given: {MODEL_POINTS} where views are "
        "rendered for another product or a network predicts, else 0",
    )

    def __post_init__(self) -> None:
        """See `RenderOptions`."""
        require(self.origin in ORIGINS, f"--from: expected one of {', '.join(ORIGINS)}, got {self.origin!r}")
        unknown = [product for product in self.what if product not in PRODUCTS]
        require(bool(self.what) and not unknown, f"--what: expected some of {', '.join(PRODUCTS)}, got {unknown}")
        self._refuse_foreign()
        super().__post_init__()
        require(bool(self.out), "--out: expected a folder for the products, got none")
        require(not Path(self.out).is_file(), f"--out: expected a folder, got the file {self.out!r}")
        require(not self.voxels or self.voxel_size is None, "--voxels: expected no --voxel_size beside it, got both")
        require(
            self.long or (self.chunk_size is None and self.chunk_overlap is None),
            "--chunk_size, --chunk_overlap: expected --long beside them, got none",
        )
        require(
            self.mesh_format in MESH_FORMATS,
            f"--mesh_format: expected {', '.join(MESH_FORMATS)}, got {self.mesh_format!r}",
        )
        for name in ("max_side", "max_images"):
            is_used = bool(self.images) or getattr(self, name) is None
            require(is_used, f"--{name}: expected --images beside it, got none")
        self._require_ranges()

    @property
    def is_predicted(self) -> bool:
        """Whether cameras and depth are a network's own."""
        return self.origin != "model"

    @property
    def percentile(self) -> float:
        """Percent of the pixels, the least confident, that are left out."""
        if self.confidence_percentile is not None:
            return self.confidence_percentile
        return USUAL_PERCENTILE if self.origin == "vggt" else DEFAULT_PERCENTILE

    @property
    def model_points(self) -> int:
        """Most points in COLMAP's points3D."""
        if self.colmap_points is not None:
            return self.colmap_points
        has_depth = self.is_predicted or set(self.what) != {"cameras"}
        return MODEL_POINTS if has_depth and "cameras" in self.what else 0

    @property
    def wants_views(self) -> bool:
        """Whether any product is made of rendered views."""
        return set(self.what) != {"cameras"} or self.model_points > 0

    @property
    def wants_fusion(self) -> bool:
        """Whether any product is made of fused points."""
        return "points" in self.what or "mesh" in self.what or self.model_points > 0

    def _require_checkpoint(self) -> None:
        if not self.is_predicted:
            super()._require_checkpoint()
            return
        require(
            self.origin != "mapanything" or bool(self.mapanything_ckpt),
            "--mapanything_ckpt: expected a checkpoint or weights, got none",
        )
        unknown = [name for name in self.given if name not in GIVEN]
        require(not unknown, f"--given: expected some of {', '.join(GIVEN)}, got {unknown}")
        require(
            "depth" not in self.given or "intrinsics" in self.given,
            "--given depth: expected intrinsics beside it, without which depth has no place",
        )
        if self.images:
            found = Path(self.images).exists()
            require(found, f"--images: expected a folder of photographs or a video, got {self.images!r}")

    def _refuse_foreign(self) -> None:
        given = {field.name for field in fields(self) if getattr(self, field.name) != field.default}
        for name in sorted(given & _PRODUCTS_OF.keys()):
            products = _PRODUCTS_OF[name]
            is_used = bool({*self.what} & {*products})
            require(is_used, f"--{name}: belongs to --what {' or '.join(products)}, got --what {' '.join(self.what)}")
        if self.what == ("cameras",) and not self.model_points:
            _refuse(
                given,
                [name for name, products in _PRODUCTS_OF.items() if products == _FUSED],
                "points; for points in COLMAP's model give --colmap_points",
            )
        for name, origins in _ORIGINS_OF.items():
            if self.origin not in origins:
                _refuse(given, [name], f"--from {' or '.join(origins)}")
        if self.images:
            others = [field.name for field in fields(DataOptions) if field.name != "dataset_name"]
            _refuse(
                given,
                [*others, "scan", "views", "dataset_name", "given"],
                "a data set, which --images takes the place of",
            )

    def _require_ranges(self) -> None:
        for name, lowest, highest in (
            ("min_opacity", 0.0, 1.0),
            ("confidence_percentile", 0.0, 100.0),
            ("min_component", 0.0, 1.0),
            ("spacing", 0.0, _MOST),
            ("colmap_points", 0, _MOST),
            ("agreeing", 0, _MOST),
            ("max_hole", 0, _MOST),
            ("voxels", 8, MOST_VOXELS),
            ("truncation", 2.0, _MOST),
            ("chunk_size", 2, _MOST),
            ("image_size", 1, _MOST),
        ):
            value = getattr(self, name)
            wanted = f"{lowest:g} or more" if highest == _MOST else f"{lowest:g} to {highest:g}"
            require(value is None or lowest <= value <= highest, f"--{name}: expected {wanted}, got {value}")
        for name in ("depth_tolerance", "pixel_tolerance", "voxel_size"):
            value = getattr(self, name)
            require(value is None or 0 < value <= _MOST, f"--{name}: expected a positive number, got {value}")


def _refuse(given: Collection[str], names: Collection[str], where: str) -> None:
    for name in names:
        if name in given:
            raise InputError(f"--{name}: belongs to {where}")
