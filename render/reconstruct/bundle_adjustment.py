"""COLMAP's triangulation and bundle adjustment from cameras that are roughly known, in rounds of growing strictness."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from data.colmap_library import pycolmap
from data.colmap_model import add_image, image_w2c, pose_of
from geometry import Cameras
from geometry.epipolar import fundamental_matrix, sampson_distance
from geometry.pose_metrics import similarity_of_cameras
from render.reconstruct.matching import quiet

ROUNDS = (64.0, 16.0, 4.0, 2.0)
"""Pixels: largest reprojection error that an observation may have after each round. From 64 on cameras that are 10
degrees off are found (`benchmarks.camera_refinement`); 2 is half of COLMAP's, whose images are larger."""
LENS_ROUNDS = 2
"""Of them, the last so many also adjust the lens distortion: before, wrong observations would go into it."""
LOOSE = 100.0
"""Pixels, for measuring the reprojection of cameras that nothing was adjusted of."""
MIN_OBSERVATIONS = 15
"""Points that an image must see for its camera to be adjusted, and share with others to hang together with them; also
the matches of a pair of images that count, as in COLMAP."""
_MIN_ANGLE = 1.5
"""Degrees between the rays of a point, as COLMAP's."""
_SQUEEZED = 0.05
"""Relative difference of f_x and f_y above which pixels are taken not to be square."""


class MatchedPair(NamedTuple):
    """Verified matches of two images."""

    first: int
    second: int
    rows: Int[np.ndarray, "match 2"]
    """Of the keypoints of both."""


@dataclass(frozen=True)
class MatchedImages:
    """A COLMAP database with its images, in the order of their names here."""

    database: Path
    names: tuple[str, ...]
    image_ids: tuple[int, ...]
    lens: Int[Tensor, " view"]
    """Number of the camera in the database, from 0."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of every image."""
    keypoints: tuple[np.ndarray, ...]
    """(x, y) of the features of every image, float64."""
    pairs: tuple[MatchedPair, ...]
    """Those with at least `MIN_OBSERVATIONS` matches."""

    @classmethod
    def read(cls, database: Path, names: Sequence[str]) -> "MatchedImages":
        """Of the images named."""
        with pycolmap.Database.open(database) as opened:
            images = [opened.read_image_with_name(name) for name in names]
            cameras = [opened.read_camera(image.camera_id) for image in images]
            keypoints = [opened.read_keypoints(image.image_id)[:, :2].astype(np.float64) for image in images]
            geometries = list(zip(*opened.read_two_view_geometries(), strict=True))
        index_of = {image.image_id: index for index, image in enumerate(images)}
        pairs = []
        for pair_id, geometry in geometries:
            ends = [index_of.get(image) for image in pycolmap.pair_id_to_image_pair(pair_id)]
            rows = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
            if None not in ends and len(rows) >= MIN_OBSERVATIONS:
                pairs.append(MatchedPair(*ends, rows))
        order = {camera: number for number, camera in enumerate(sorted({image.camera_id for image in images}))}
        return cls(
            database,
            tuple(names),
            tuple(image.image_id for image in images),
            torch.tensor([order[image.camera_id] for image in images]),
            tuple((camera.height, camera.width) for camera in cameras),
            tuple(keypoints),
            tuple(pairs),
        )

    @property
    def num_matches(self) -> int:
        """Of all pairs."""
        return sum(len(pair.rows) for pair in self.pairs)

    def model(self, cameras: Cameras) -> pycolmap.Reconstruction:
        """All images with these cameras and all features, without points.

        One camera per lens: SIMPLE_RADIAL without distortion, or PINHOLE where pixels are not square.
        """
        model = pycolmap.Reconstruction()
        for index, name in enumerate(self.names):
            height, width = self.sizes[index]
            camera = _colmap_camera(cameras.intrinsics[index], height, width, int(self.lens[index]) + 1)
            add_image(model, self.image_ids[index], name, cameras.w2c[index], camera, self.keypoints[index])
        return model

    def cameras(self, model: pycolmap.Reconstruction) -> Cameras:
        """Poses and intrinsics of a model of these images, without its lens distortion; float64."""
        images = [model.images[image_id] for image_id in self.image_ids]
        w2c = torch.stack([image_w2c(image) for image in images])
        matrices = [model.cameras[image.camera_id].calibration_matrix() for image in images]
        return Cameras(w2c, torch.from_numpy(np.stack(matrices)), *self.sizes[0])


class Bundle:
    """A model whose cameras are adjusted to the matches of a database."""

    def __init__(self, images: MatchedImages, cameras: Cameras, *, seed: int, num_threads: int) -> None:
        """Start from these cameras."""
        self.images = images
        self.start = cameras
        self.model = images.model(cameras)
        self._seed, self._num_threads = seed, num_threads
        with quiet(), pycolmap.Database.open(images.database) as opened:
            options = pycolmap.DatabaseCacheOptions()
            options.load_all_images = True
            self._cache = pycolmap.DatabaseCache.create(opened, options)

    def adjust(self) -> None:
        """Triangulate, adjust and filter in rounds; see `ROUNDS`."""
        with quiet():
            for index, max_error in enumerate(ROUNDS):
                self.triangulate(2 * max_error)
                self._drop_weak_images()
                if self.model.num_points3D() < MIN_OBSERVATIONS:
                    return
                self._solve(refine_distortion=index >= len(ROUNDS) - LENS_ROUNDS)
                pycolmap.ObservationManager(self.model).filter_all_points3D(max_error, _MIN_ANGLE)
                self._drop_weak_images()

    def triangulate(self, max_error: float) -> None:
        """All points anew, from the cameras as they are, of observations within `max_error` pixels."""
        self.delete_points()
        graph = self._cache.correspondence_graph
        manager = pycolmap.ObservationManager(self.model, graph)
        triangulator = pycolmap.IncrementalTriangulator(graph, self.model, manager)
        options = pycolmap.IncrementalTriangulatorOptions()
        focal = self.images.cameras(self.model).median_focal
        angle = math.degrees(math.atan(max_error / focal))
        options.create_max_angle_error = options.continue_max_angle_error = angle
        options.merge_max_reproj_error = options.complete_max_reproj_error = max_error
        options.min_angle = _MIN_ANGLE
        options.ignore_two_view_tracks = False
        options.random_seed = self._seed
        for image_id in self.images.image_ids:
            triangulator.triangulate_image(options, image_id)
        triangulator.complete_all_tracks(options)
        triangulator.merge_all_tracks(options)
        manager.filter_all_points3D(max_error, _MIN_ANGLE)

    def delete_points(self) -> None:
        """All points; the features stay."""
        for point in list(self.model.points3D):
            self.model.delete_point3D(point)

    @property
    def epipolar_px(self) -> float:
        """Median Sampson distance of all matches, without the distortion of the lens; nan without matches."""
        cameras, errors = self.images.cameras(self.model), [torch.zeros(0, dtype=torch.float64)]
        pixels = [
            _undistorted(self.model.cameras[self.model.images[one].camera_id], keypoints)
            for one, keypoints in zip(self.images.image_ids, self.images.keypoints, strict=True)
        ]
        for first, second, rows in self.images.pairs:
            fundamental = fundamental_matrix(cameras[first], cameras[second])
            errors.append(sampson_distance(fundamental, pixels[first][rows[:, 0]], pixels[second][rows[:, 1]]))
        return torch.cat(errors).nanmedian().item()

    @property
    def has_plausible_lenses(self) -> bool:
        """Whether focal lengths and distortion are in the ranges that COLMAP's mapper accepts."""
        options = pycolmap.IncrementalTriangulatorOptions()
        limits = (options.min_focal_length_ratio, options.max_focal_length_ratio, options.max_extra_param)
        return not any(camera.has_bogus_params(*limits) for camera in self.model.cameras.values())

    @property
    def placed(self) -> list[int]:
        """Indices of the images that see enough points."""
        ids = self.images.image_ids
        return [index for index, one in enumerate(ids) if self.model.images[one].num_points3D >= MIN_OBSERVATIONS]

    @property
    def kept(self) -> float:
        """Observations of points over features that have a verified match."""
        graph = self._cache.correspondence_graph
        matched = sum(graph.num_observations_for_image(one) for one in self.images.image_ids)
        return self.model.compute_num_observations() / max(1, matched)

    def align_to_start(self, parts: Sequence[Sequence[int]]) -> None:
        """Put every part of the model where its cameras were: bundle adjustment leaves frame and unit of parts open.

        Points go with the part of the image that is first in their track.
        """
        for part in parts:
            current = self.images.cameras(self.model)
            similarity = similarity_of_cameras(current.w2c[part], self.start.w2c[part])
            members = {self.images.image_ids[index] for index in part}
            for index in part:
                frame = self.model.images[self.images.image_ids[index]].frame
                frame.rig_from_world = pose_of(similarity.moved_pose(current.w2c[index]))
            for point in self.model.points3D.values():
                if point.track.elements[0].image_id in members:
                    point.xyz = similarity(torch.from_numpy(point.xyz)[None])[0].numpy()

    def parts(self) -> list[list[int]]:
        """Indices of placed images that hang together: they share `MIN_OBSERVATIONS` points, pair by pair."""
        index_of = {image_id: index for index, image_id in enumerate(self.images.image_ids)}
        shared = np.zeros((len(index_of), len(index_of)), np.int64)
        for point in self.model.points3D.values():
            seen = sorted({index_of[element.image_id] for element in point.track.elements})
            shared[np.ix_(seen, seen)] += 1
        remaining, parts = set(self.placed), []
        while remaining:
            part, new = set(), {min(remaining)}
            while new:
                part |= new
                new = {
                    other for other in remaining - part if any(shared[one, other] >= MIN_OBSERVATIONS for one in new)
                }
            parts.append(sorted(part))
            remaining -= part
        return parts

    def _drop_weak_images(self) -> None:
        """Take the observations from images with few, so that their cameras stay; repeated: points go with them."""
        while True:
            weak = [image for image in self.model.images.values() if 0 < image.num_points3D < MIN_OBSERVATIONS]
            if not weak:
                return
            for image in weak:
                for index in image.get_observation_point2D_idxs():
                    if image.points2D[index].has_point3D():
                        self.model.delete_observation(image.image_id, index)

    def _solve(self, *, refine_distortion: bool) -> None:
        """Of the images that see points; where it fails, all stays as it was."""
        options = pycolmap.BundleAdjustmentOptions()
        options.print_summary = False
        options.refine_extra_params = refine_distortion
        options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
        options.ceres.solver_options.num_threads = self._num_threads
        config = pycolmap.BundleAdjustmentConfig()
        for index in self.placed:
            config.add_image(self.images.image_ids[index])
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
        pycolmap.create_default_bundle_adjuster(options, config, self.model).solve()


def _undistorted(camera: pycolmap.Camera, pixels: Float[np.ndarray, "point 2"]) -> Float[Tensor, "point 2"]:
    """Where a camera without the distortion of this one would see the same rays."""
    if not len(pixels):
        return torch.zeros(0, 2, dtype=torch.float64)
    matrix = camera.calibration_matrix()
    return torch.from_numpy(camera.cam_from_img(pixels) * matrix.diagonal()[:2] + matrix[:2, 2])


def _colmap_camera(intrinsics: Float[Tensor, "3 3"], height: int, width: int, camera_id: int) -> pycolmap.Camera:
    focal_x, focal_y, x, y = (float(intrinsics[index]) for index in ((0, 0), (1, 1), (0, 2), (1, 2)))
    is_square = abs(math.log(focal_x / focal_y)) <= _SQUEEZED
    name, params = ("SIMPLE_RADIAL", [math.sqrt(focal_x * focal_y), x, y, 0.0])
    if not is_square:
        name, params = "PINHOLE", [focal_x, focal_y, x, y]
    return pycolmap.Camera(camera_id=camera_id, model=name, width=width, height=height, params=params)
