"""Cameras of photographs by VGGT, refined by bundle adjustment over matches (`--poses vggt`).

VGGT gives every photograph a camera, also where neighbors share too little for COLMAP to place them. Where there are
matches they make these cameras exact (`bundle_adjustment`). Photographs without enough matches keep VGGT's camera, in
the frame of the others.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data.colmap_library import pycolmap
from data.problems import shortened
from geometry import Cameras, require
from geometry.pose_metrics import rotation_angle
from render.reconstruct.bundle_adjustment import LOOSE, Bundle, MatchedImages
from render.reconstruct.matching import MatchingOptions, matched_database, quiet
from render.reconstruct.types import PhotoSet, Solution
from render.reconstruct.vggt_prediction import PointCloud, Prediction, confident_points, predict

_MAX_FOCAL_SPREAD = 0.1
"""Relative deviation of the focal lengths of one lens above which a warning says so; chosen by hand."""
_MAX_EPIPOLAR = 2.0
"""Pixels, median of all matches, above which adjusted cameras do not fit them; photographs come out at 0.08 to 0.4."""
_DEPTH_POINTS = 20_000
"""Points from VGGT's depth in a model, of all photographs that see no triangulated ones."""
_SURE = 0.5
"""Quantile of a view's confidence that those points reach."""


def solve(
    photos: PhotoSet,
    work: Path,
    vggt_ckpt: str | Path = "",
    *,
    refine: bool = True,
    image_size: int = 0,
    chunk_size: int = 0,
    chunk_overlap: int | None = None,
    camera_matches: bool = False,
    device: torch.device | str = "cpu",
    seed: int = 0,
    num_threads: int = -1,
) -> Solution:
    """Cameras and points of all photographs; the world is VGGT's, see `orientation.upright`.

    `work` is a folder for features and matches, which a later call finds again; the rest as `vggt_prediction.predict`
    and `solve_from`.

    Raises:
        InputError: for fewer than two photographs, and as `predict`.
    """
    require(len(photos.photos) >= 2, f"VGGT's cameras: expected at least 2 photographs, got {len(photos.photos)}")
    prediction = predict(
        photos,
        vggt_ckpt,
        image_size=image_size,
        chunk_size=chunk_size,
        chunk_overlap=chunk_overlap,
        camera_matches=camera_matches,
        device=device,
    )
    return solve_from(prediction, photos, work, refine=refine, seed=seed, num_threads=num_threads)


def solve_from(
    prediction: Prediction, photos: PhotoSet, work: Path, *, refine: bool = True, seed: int = 0, num_threads: int = -1
) -> Solution:
    """The prediction as a COLMAP model, refined where matches allow it and are fitted better then.

    In `measures`: "confidence" (mean of all pixels), "focal_spread" (relative deviation within a lens), "matches",
    "epipolar_px" (median of the cameras returned) and "epipolar_predicted_px", "points" and "joint_residual" (the
    worst, of chunks). Where cameras were refined also "refined" (photographs), "observations_kept" (share of the
    matched features), "alignment_degrees" and "alignment_centers" (median change of a camera and of its center, the
    latter relative to the extent of the centers).
    """
    names = [view.name for view in prediction.views]
    database = matched_database(photos, work, MatchingOptions(), seed=seed, num_threads=num_threads)
    images = MatchedImages.read(database, names)
    predicted, spread = _with_shared_lenses(prediction, images)
    bundle = Bundle(images, predicted, seed=seed, num_threads=num_threads)
    measures = {
        "confidence": prediction.mean_confidence,
        "focal_spread": spread,
        "matches": float(images.num_matches),
    }
    warnings = list(prediction.warnings)
    if prediction.joints:
        measures["joint_residual"] = max(joint.residual for joint in prediction.joints)
    if spread > _MAX_FOCAL_SPREAD:
        warnings.append(
            f"VGGT's focal lengths of one camera deviate by {spread:.0%}: its cameras are not to be trusted"
        )
    if not images.pairs:
        warnings.append(f"no two of the {len(names)} photographs have matches: all cameras are VGGT's own, unchecked")
        reprojection = None
    else:
        measures |= dict.fromkeys(("epipolar_predicted_px", "epipolar_px"), bundle.epipolar_px)
        refined = None
        if refine:
            refined = _refined(Bundle(images, predicted, seed=seed, num_threads=num_threads), measures, warnings)
        reprojection = _reprojection(bundle) if refined is None else refined.model.compute_mean_reprojection_error()
        bundle = refined or bundle
    with quiet():
        bundle.model.extract_colors_for_all_images(photos.folder)
    _add_depth_points(bundle, prediction)
    measures["points"] = float(bundle.model.num_points3D())
    return Solution(bundle.model, "vggt", (), reprojection, measures, tuple(warnings))


def _refined(bundle: Bundle, measures: dict[str, float], warnings: list[str]) -> Bundle | None:
    """Adjusted to the matches, in the frame and unit of the cameras that `bundle` has; None where these fit better.

    Adds to `measures` and `warnings`.
    """
    before, count = measures["epipolar_predicted_px"], len(bundle.images.names)
    bundle.adjust()
    after, placed = bundle.epipolar_px, len(bundle.placed)
    if placed < 2:
        warnings.append(f"the matches of {count} photographs are too few to adjust to: all cameras are VGGT's own")
    elif not (bundle.has_plausible_lenses and after <= min(before, _MAX_EPIPOLAR)):
        warnings.append(
            f"bundle adjustment was given up, the cameras are VGGT's own: it places {placed} of {count} photographs "
            f"with a median epipolar error of {after:.2g} pixels, VGGT's have {before:.2g}"
        )
    else:
        parts = bundle.parts()
        bundle.align_to_start(parts)
        measures |= {"epipolar_px": after} | _changes(bundle)
        warnings += _about_matches(bundle, len(parts))
        return bundle
    return None


def _with_shared_lenses(prediction: Prediction, images: MatchedImages) -> tuple[Cameras, float]:
    """The predicted cameras with the median focal lengths of their lens, and how much a lens's deviate, at most.

    The deviation is 1.48 times the median absolute deviation of the logarithm, a standard deviation for normal errors.
    """
    intrinsics = prediction.intrinsics.double().clone()
    spread = 0.0
    for lens in images.lens.unique():
        members = images.lens == lens
        focal = intrinsics[members].diagonal(dim1=-2, dim2=-1)[:, :2].log()
        middle = focal.median(0).values
        spread = max(spread, 1.4826 * (focal - middle).abs().median(0).values.max().item())
        ratio = middle.exp() / focal.exp()
        intrinsics[members, 0, 0] *= ratio[:, 0]
        intrinsics[members, 1, 1] *= ratio[:, 1]
    return Cameras(prediction.w2c.double(), intrinsics, *images.sizes[0]), spread


def _changes(bundle: Bundle) -> dict[str, float]:
    """What bundle adjustment did to the cameras that it placed, in the frame of the predicted ones."""
    before, after = bundle.start.w2c[bundle.placed], bundle.images.cameras(bundle.model).w2c[bundle.placed]
    centers = [-(w2c[:, :3, :3].mT @ w2c[:, :3, 3:])[..., 0] for w2c in (before, after)]
    extent = (centers[0] - centers[0].mean(0)).norm(dim=-1).mean().clamp(min=1e-12)
    angles = rotation_angle(after[:, :3, :3] @ before[:, :3, :3].mT)
    return {
        "refined": float(len(bundle.placed)),
        "observations_kept": bundle.kept,
        "alignment_degrees": angles.median().item(),
        "alignment_centers": ((centers[1] - centers[0]).norm(dim=-1).median() / extent).item(),
    }


def _about_matches(bundle: Bundle, parts: int) -> list[str]:
    """One sentence per thing that matches did not settle."""
    sentences = []
    count, placed = len(bundle.images.names), set(bundle.placed)
    alone = [name for index, name in enumerate(bundle.images.names) if index not in placed]
    if alone:
        sentences.append(
            f"{len(alone)} of {count} photographs have too few matches and keep VGGT's camera: {shortened(alone)}"
        )
    if parts > 1:
        sentences.append(
            f"matches leave {parts} groups of photographs apart: VGGT alone says how these lie to each other"
        )
    return sentences


def _reprojection(bundle: Bundle) -> float | None:
    """Mean error in pixels of the matches under cameras as predicted; of points that are taken away again."""
    model = bundle.model
    with quiet():
        bundle.triangulate(LOOSE)
    error = model.compute_mean_reprojection_error() if model.num_points3D() else None
    bundle.delete_points()
    return error


def _add_depth_points(bundle: Bundle, prediction: Prediction) -> None:
    """Confident points of VGGT's depth, each seen by its own photograph, for those that see no triangulated ones."""
    cameras, placed = bundle.images.cameras(bundle.model), set(bundle.placed)
    count = max(1, _DEPTH_POINTS // len(prediction.views))
    clouds = {}
    for index, view in enumerate(prediction.views):
        if index not in placed:
            step = max(1, round((view.depth.numel() * (1 - _SURE) / count) ** 0.5))
            w2c, intrinsics = cameras.w2c[index].float(), cameras.intrinsics[index].float()
            own = replace(view, camera=Cameras(w2c, intrinsics, view.camera.height, view.camera.width))
            clouds[index] = confident_points(own, quantile=_SURE, step=step)
    _add_points(bundle, clouds)


def _add_points(bundle: Bundle, clouds: dict[int, PointCloud]) -> None:
    """Points that one image alone sees each, by its index. COLMAP takes features of an image once only, so all anew."""
    model = bundle.model
    kept = [  # copies: the model's own are gone with it
        (point.xyz.copy(), [(seen.image_id, seen.point2D_idx) for seen in point.track.elements], point.color.copy())
        for point in model.points3D.values()
    ]
    model.delete_all_points2D_and_points3D()
    for index, (image_id, keypoints) in enumerate(zip(bundle.images.image_ids, bundle.images.keypoints, strict=True)):
        pixels = clouds[index].pixels.double().numpy() if index in clouds else keypoints[:0]
        points2D = [pycolmap.Point2D(pixel) for pixel in np.concatenate([keypoints, pixels])]
        model.images[image_id].points2D = pycolmap.Point2DList(points2D)
    for xyz, seen, color in kept:
        model.add_point3D(xyz, _track(seen), color)
    for index, cloud in clouds.items():
        image_id, first = bundle.images.image_ids[index], len(bundle.images.keypoints[index])
        colors = (cloud.colors * 255).round().clamp(0, 255).byte().numpy()
        for row, (point, color) in enumerate(zip(cloud.points.double().numpy(), colors, strict=True), first):
            model.add_point3D(point, _track([(image_id, row)]), color)
    model.update_point_3d_errors()


def _track(seen: list[tuple[int, int]]) -> pycolmap.Track:
    return pycolmap.Track([pycolmap.TrackElement(image_id, row) for image_id, row in seen])
