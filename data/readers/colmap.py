"""Scenes with a COLMAP model -> `PosedScene`. Scene unit: the model's.

    {scan}/images/                      photographs, in folders of their own where the model names them so
    {scan}/images_4/                    optional, with `image_factor` 4; any folder may hold them smaller than the
                                        model's cameras say, all sides by one factor
    {scan}/sparse/0/                    the model, text or binary, of any version; or sparse/, colmap/sparse/0/
    {scan}/masks/                       optional; named as the images, or with .png behind or instead of the extension
    {scan}/depth/                       optional, 16-bit PNG named alike, with `depth_scale` in scene.json
    {scan}/scene.json                   optional: held_out (list of image names), near and far (of all views, instead
                                        of those from the points), depth_scale (scene units per count)

`datadir` holds such folders or is one. All camera models of COLMAP are read but 360-degree ones: images of cameras with
distortion are undistorted, those of other sizes than most are brought to that size (data/rectification.py). View
numbers are positions among the sorted names of the images that have a pose. Held out are the views that scene.json
names, else every 8th.
"""

from functools import partial
from pathlib import Path

import numpy as np

from data.colmap_model import find_model, image_w2c, model_points, observations, posed_images, read_model
from data.problems import LeftOut, Report, raise_problem
from data.readers.options import ReaderOptions
from data.readers.photographs import Photograph, build_scene, file_below, image_folder, read_description
from data.readers.splits import Split, read_divided_by_views
from data.scene import PosedScene, ScenePoints
from geometry import InputError


def read_colmap(
    datadir: Path,
    *,
    split: Split,
    scans: tuple[str, ...] | None = None,
    report: Report = raise_problem,
    options: ReaderOptions | None = None,
) -> list[PosedScene]:
    """Every scene there is, for every split: they are divided by views.

    Raises:
        InputError: for an unknown scan, and (unless `report` collects) for a damaged model, a missing image or an
            impossible camera.
    """
    options = options or ReaderOptions()
    return read_divided_by_views(
        datadir,
        find_colmap_scans(datadir),
        "images/ and sparse/0, or folders that have them",
        scans,
        report,
        lambda folder, scan: _read_scene(folder, scan, report, options),
    )


def find_colmap_scans(datadir: Path) -> dict[str, Path]:
    """Scan name -> folder."""
    if find_model(datadir) is not None:
        return {datadir.resolve().name: datadir}
    return {path.name: path for path in sorted(datadir.iterdir()) if path.is_dir() and find_model(path) is not None}


def _read_scene(folder: Path, scan: str, report: Report, options: ReaderOptions) -> PosedScene:
    model_folder = find_model(folder)
    model, description = read_model(model_folder), read_description(folder / "scene.json")
    images = image_folder(folder, options.image_factor)
    points = model_points(model)
    posed = posed_images(model)
    photographs, missing = [], 0
    for view, image in enumerate(posed):
        try:
            path = file_below(images, image.name)
            if path is None:
                raise LeftOut(
                    "images of the model without a file", f"{images / image.name}: expected an image, got none"
                )
        except InputError as error:
            report(error)
            continue
        seen = observations(image)
        known = np.isin(seen.point_ids, points.ids)
        missing += int((~known).sum())
        at = partial(file_below, name=image.name)
        photographs.append(
            Photograph(
                view_id=view,
                image_path=path,
                w2c=image_w2c(image),
                camera=model.camera(image.camera_id),
                where=f"{model_folder} image {image.name}",
                mask_path=at(folder / "masks"),
                depth_path=at(folder / "depth", suffixes=(".png",)) if description.depth_scale else None,
                rows=np.searchsorted(points.ids, seen.point_ids[known]),
                pixels=seen.pixels[known],
            )
        )
    return build_scene(
        scan,
        photographs,
        ScenePoints(points.points_world, points.track_lengths) if len(points.points_world) else None,
        {view: image.name for view, image in enumerate(posed)},
        description,
        options,
        report,
        _notes(scan, model.num_images() - len(posed), missing),
    )


def _notes(scan: str, without_pose: int, without_point: int) -> list[str]:
    counted = {
        "images of the model have no pose and are left out": without_pose,
        "observations are of points that the model lacks and are left out": without_point,
    }
    return [f"{scan}: {count} {what}" for what, count in counted.items() if count]
