"""Export points, a mesh, cameras and depth from a radiance field, or from what VGGT or MapAnything predict.

python -m render.export --ckpt C --dataset_name dtu --datadir D --scan scan24 --what points mesh cameras depth --out DIR
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from data.depth_fusion import DepthMaps, FusedPoints, fused_points
from data.point_cloud import ColoredPoints, write_ply
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import InputError, one_line_errors, require
from models.vggt.weights import file_sha256
from render.export.cameras import PhotoCameras, of_files, of_scene, write_cameras
from render.export.depth import write_depth
from render.export.mapanything import reconstructed, scene_of_photographs
from render.export.mesh import write_mesh
from render.export.options import ExportOptions
from render.export.renderings import (
    Renderings,
    file_names,
    render_views,
    save_renderings,
    saved_renderings,
)
from render.export.vggt import predicted_views
from render.loading import load_for, precision_for, scenes_for, usable_device
from render.reconstruct.sources import prepare
from render.reconstruct.vggt_prediction import CHUNK_SIZE, predict
from render.video import only_scene
from training.cli import parse_options
from training.files import staged_folder, write_json
from training.nerf.checkpoint import read_nerf_checkpoint

_CACHE = "renderings.npz"
_SHARED_SEED = 0
"""Of the draw of points for COLMAP's model."""


@dataclass(frozen=True)
class Origin:
    """What products are made of."""

    photos: PhotoCameras | None
    """None where cameras are not asked for."""
    renderings: Renderings | None
    """None where no product needs them."""
    cache_key: str = ""
    """Of the renderings; empty: they are not to be kept."""
    warnings: tuple[str, ...] = ()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, export, print what was written."""
    options = parse_options(ExportOptions, __doc__, argv)
    report = export(options)
    sys.stdout.write("\n".join([*_lines(report), f"written to {options.out}"]) + "\n")


def export(options: ExportOptions) -> dict[str, Any]:
    """Export what the options ask for and return what `<out>/export.json` holds.

    Raises:
        InputError: for anything the user can correct, before a file is written or with none left behind.
    """
    with TemporaryDirectory() as work:
        origin = _from_network(options, Path(work) / "images") if options.is_predicted else _from_model(options)
        return _written(options, origin)


def _written(options: ExportOptions, origin: Origin) -> dict[str, Any]:
    report: dict[str, Any] = {"warnings": list(origin.warnings)}
    maps, fused = (None, None) if origin.renderings is None else _fused(options, origin.renderings)
    with staged_folder(Path(options.out)) as folder:
        if fused is not None:
            report["fusion"] = _fusion_report(fused)
        if "points" in options.what and fused is not None:
            write_ply(folder / "points.ply", fused.cloud)
        if "mesh" in options.what and fused is not None and maps is not None:
            report["mesh"] = write_mesh(
                folder / f"mesh.{options.mesh_format}",
                maps,
                fused,
                voxels=options.voxels or 0,
                voxel_size=options.voxel_size or 0.0,
                truncation=options.truncation,
                min_component=options.min_component,
                max_hole=options.max_hole,
                closes_holes=options.close_holes,
            )
        if "cameras" in options.what and origin.photos is not None:
            report["cameras"] = write_cameras(
                folder / "cameras",
                origin.photos,
                points=_drawn(fused.cloud, options.model_points) if fused and options.model_points else None,
                seen_in=maps,
                is_text=options.colmap_text,
            )
        if "depth" in options.what and origin.renderings is not None:
            report["depth"] = write_depth(folder / "depth", origin.renderings)
        if origin.cache_key and origin.renderings is not None:
            save_renderings(folder / _CACHE, origin.renderings, origin.cache_key)
        report["settings"] = {field.name: getattr(options, field.name) for field in fields(options)}
        write_json(folder / "export.json", report)
    return report


def _from_model(options: ExportOptions) -> Origin:
    checkpoint = read_nerf_checkpoint(Path(options.ckpt))
    scans = (options.scan,) if options.scan else ()
    scene = only_scene(scenes_for(checkpoint.record, options, scans, split="all"))
    views = _views_of(scene, options.views)
    photos = of_scene(scene, views) if "cameras" in options.what else None
    if not options.wants_views:
        return Origin(photos, None)
    key = _cache_key(options, scene, views) if options.keep_renderings else ""
    renderings = saved_renderings(Path(options.out) / _CACHE, key) if key else None
    if renderings is None:
        device = usable_device(options.device)
        renderings = render_views(
            load_for(options, checkpoint, device, [scene]),
            scene,
            views,
            options.n_views,
            device=device,
            scale=options.imgScale_test,
            chunk=options.chunk,
            precision=precision_for(options, checkpoint.record, device),
        )
    return Origin(photos, renderings, key)


class _Photographs(NamedTuple):
    """Files to predict from."""

    paths: list[Path]
    names: list[str]
    """For files about them."""
    warnings: tuple[str, ...]
    scene: PosedScene | None
    """They are views of; None: of photographs."""
    view_ids: tuple[int, ...]


def _photographs(options: ExportOptions, prepared: Path) -> _Photographs:
    """What `--images` leads to is prepared in a new folder, which must live as long as the origin."""
    if options.images:
        limits = {"max_side": options.max_side, "max_images": options.max_images}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        photos = prepare(Path(options.images), prepared, **given)
        names = [Path(one.name).stem for one in photos.photos]
        return _Photographs([prepared / photo.name for photo in photos.photos], names, photos.warnings, None, ())
    scenes = read_scenes(
        options.dataset_name,
        options.datadir,
        split="all",
        scans=(options.scan,) if options.scan else None,
        evaluated_only=True,
        options=options.reader_options(),
    )
    scene = only_scene(scenes)
    views = _views_of(scene, options.views)
    return _Photographs(
        [scene.frames[view].image_path for view in views], list(file_names(scene, views)), (), scene, views
    )


def _from_network(options: ExportOptions, prepared: Path) -> Origin:
    photos = _photographs(options, prepared)
    return (_from_vggt if options.origin == "vggt" else _from_mapanything)(options, photos)


def _from_mapanything(options: ExportOptions, photos: _Photographs) -> Origin:
    scene = photos.scene or scene_of_photographs(photos.paths)
    found = reconstructed(
        scene,
        photos.view_ids or tuple(scene.frames),
        photos.names,
        options.mapanything_ckpt,
        given=options.given,
        longer_side=options.image_size or 0,
        device=usable_device(options.device),
    )
    return Origin(found.photos, found.renderings, warnings=photos.warnings)


def _from_vggt(options: ExportOptions, photos: _Photographs) -> Origin:
    with tqdm(total=len(photos.paths), unit="image", desc="VGGT") as bar:

        def on_chunk(done: int, _count: int) -> None:
            bar.update(done - bar.n)

        prediction = predict(
            photos.paths,
            options.vggt_ckpt,
            image_size=options.vggt_image_size or 0,
            chunk_size=options.chunk_size or CHUNK_SIZE if options.long else 0,
            chunk_overlap=options.chunk_overlap,
            device=usable_device(options.device),
            on_chunk=on_chunk,
        )
    return Origin(
        of_files(photos.paths, [view.camera for view in prediction.views]),
        predicted_views(photos.names, prediction),
        warnings=(*photos.warnings, *prediction.warnings),
    )


def _fused(options: ExportOptions, renderings: Renderings) -> tuple[DepthMaps | None, FusedPoints | None]:
    if not options.wants_fusion:
        return None, None
    if options.is_predicted:
        maps = renderings.confident_depth_maps(options.percentile)
    else:
        maps = renderings.depth_maps(options.min_opacity, keeps_background=options.keep_background)
    agreeing = 0 if options.is_predicted and options.agreeing is None else options.agreeing
    with tqdm(total=len(maps.depth), unit="view", desc="points") as bar:
        fused = fused_points(
            maps,
            agreeing=agreeing,
            depth_tolerance=options.depth_tolerance,
            pixel_tolerance=options.pixel_tolerance,
            spacing=options.spacing,
            wants_normals=options.normals,
            on_view=bar.update,
        )
    require(
        len(fused.cloud.points_world) > 0,
        f"points: expected pixels whose depth {fused.agreeing} other views confirm, got none of {fused.known} with "
        "known depth (--agreeing, --depth_tolerance, --min_opacity or --confidence_percentile may be too strict)",
    )
    return maps, fused


def _fusion_report(fused: FusedPoints) -> dict[str, Any]:
    return {
        "known_pixels": fused.known,
        "known_share": fused.known / fused.confirmed.numel(),
        "kept_share": fused.kept,
        "agreeing": fused.agreeing,
        "spacing": fused.spacing,
        "points": len(fused.cloud.points_world),
    }


def _views_of(scene: PosedScene, asked_for: tuple[int, ...]) -> tuple[int, ...]:
    missing = [view for view in asked_for if view not in scene.frames]
    if missing:
        raise InputError(f"--views: expected views of {scene.name} ({sorted(scene.frames)}), got {missing}")
    return tuple(dict.fromkeys(asked_for)) or tuple(scene.frames)


def _cache_key(options: ExportOptions, scene: PosedScene, views: Sequence[int]) -> str:
    """Everything that renderings depend on."""
    names = (
        *("vggt_ckpt", "n_views", "imgScale_test", "N_samples", "N_importance", "N_guided", "feature_pixels"),
        *("vggt_image_size", "near_far", "precision", "white_bkgd", "dataset_name", "datadir", "view_split"),
        *("llff_factor", "llff_size", "image_factor", "quality"),
    )
    values = [getattr(options, name) for name in names]
    return repr([file_sha256(Path(options.ckpt)), scene.name, tuple(views), values])


def _drawn(cloud: ColoredPoints, count: int) -> ColoredPoints:
    """At most `count` of the points, drawn at random but reproducibly."""
    if len(cloud.points_world) <= count:
        return cloud
    chosen = torch.randperm(len(cloud.points_world), generator=torch.Generator().manual_seed(_SHARED_SEED))[:count]
    return ColoredPoints(cloud.points_world[chosen], cloud.colors[chosen])


def _lines(report: dict[str, Any]) -> list[str]:
    """What was written, for people."""
    lines = [f"warning: {text}" for text in report["warnings"]]
    if "fusion" in report:
        fusion = report["fusion"]
        lines.append(
            f"points: {fusion['points']} from {fusion['kept_share']:.0%} of {fusion['known_pixels']} pixels with depth "
            f"({fusion['agreeing']} other views agree), {fusion['spacing']:.3g} apart"
        )
    if "mesh" in report:
        mesh = report["mesh"]
        volume = "not watertight" if mesh["volume"] is None else f"watertight, volume {mesh['volume']:.4g}"
        lines.append(
            f"mesh: {mesh['vertices']} vertices, {mesh['faces']} faces, {volume}, components {mesh['components']} "
            f"({mesh['removed_components']} small ones removed), {mesh['filled_holes']} small holes filled, "
            f"Euler number {mesh['euler_number']}, voxel {mesh['voxel_size']:.3g}"
        )
    if "cameras" in report:
        cameras = report["cameras"]
        lines.append(f"cameras: {cameras['images']} images, {cameras['points']} points")
    if "depth" in report:
        depth = report["depth"]
        lines.append(f"depth: {depth['views']} views of {depth['width']}x{depth['height']}")
    return lines


if __name__ == "__main__":
    main()
