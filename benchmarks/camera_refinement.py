"""What bundle adjustment makes of wrong cameras: python -m benchmarks.camera_refinement --datadir /path/to/sceaux

The true cameras of a scene in COLMAP's layout are turned, moved and given another focal length at random, and
`render.reconstruct.vggt_cameras` refines them by the matches of the photographs as it refines VGGT's. Prints a row of a
table per scene and angle: errors of all pairs of views before and after.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.colmap_model import find_model, image_w2c, posed_images, read_model
from geometry import Cameras, one_line_errors, require, rigid_inverse
from geometry.pose_metrics import relative_pose_errors, similarity_of_cameras
from render.reconstruct.chunk_alignment import PredictedView
from render.reconstruct.types import Photo, PhotoSet, Solution
from render.reconstruct.vggt_cameras import solve_from
from render.reconstruct.vggt_prediction import Prediction
from training.cli import parse_options
from training.options import option


@dataclass(frozen=True, kw_only=True)
class RefinementOptions:
    """Which scenes, and how wrong their cameras are made."""

    datadir: tuple[str, ...] = option((), "scenes: folders with images and sparse/0", nargs="+")
    degrees: tuple[float, ...] = option((2.0, 5.0, 10.0), "degrees that every camera is turned by", nargs="+")
    centers: float = option(0.07, "deviation of the centers per axis, relative to their mean distance from the middle")
    focal: float = option(0.05, "error of the focal lengths, as a share of them")
    max_images: int = option(12, "photographs per scene, spread evenly over it")
    threads: int = option(1, "CPU threads")
    seed: int = option(0, "randomness of the errors")

    def __post_init__(self) -> None:
        """Refuse what cannot work, by name.

        Raises:
            InputError: naming the option.
        """
        require(len(self.datadir) > 0, "--datadir: expected one scene or more, got none")
        require(self.max_images >= 3, f"--max_images: expected at least 3, got {self.max_images}")
        require(self.focal > -1, f"--focal: expected more than -1, got {self.focal}")
        require(self.threads >= 1, f"--threads: expected at least 1, got {self.threads}")


def disturbed(
    w2c: Float[Tensor, "view 4 4"], *, degrees: float, centers: float, seed: int = 0
) -> Float[Tensor, "view 4 4"]:
    """Every camera turned by `degrees` about a random axis, and moved; see `RefinementOptions`. Float64."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(len(w2c), 3, generator=generator, dtype=torch.float64)
    turn = torch.deg2rad(degrees * torch.nn.functional.normalize(axis, dim=-1))
    cross = torch.linalg.cross(turn[:, None], torch.eye(3, dtype=torch.float64)[None]).mT  # columns: turn x e_i
    moved = w2c.double().clone()
    rotation = torch.linalg.matrix_exp(cross) @ moved[:, :3, :3]
    middle = rigid_inverse(moved)[:, :3, 3]
    extent = (middle - middle.mean(0)).norm(dim=-1).mean()
    middle = middle + centers * extent * torch.randn(len(w2c), 3, generator=generator, dtype=torch.float64)
    moved[:, :3, :3], moved[:, :3, 3] = rotation, -(rotation @ middle[..., None])[..., 0]
    return moved


def _refine(scene: Path, degrees: float, work: Path, options: RefinementOptions) -> str:
    model = read_model(find_model(scene) or scene / "sparse" / "0")
    images = posed_images(model)
    count = min(options.max_images, len(images))
    images = [images[index * len(images) // count] for index in range(count)]
    lenses = [model.cameras[image.camera_id] for image in images]
    photos = [
        Photo(image.name, image.name, lens.height, lens.width) for image, lens in zip(images, lenses, strict=True)
    ]
    truth = torch.stack([image_w2c(image) for image in images])
    wrong = disturbed(truth, degrees=degrees, centers=options.centers, seed=options.seed)
    views = []
    for image, lens, pose in zip(images, lenses, wrong, strict=True):
        intrinsics = torch.from_numpy(lens.calibration_matrix()).float()
        intrinsics[[0, 1], [0, 1]] *= 1 + options.focal
        camera = Cameras(pose.float(), intrinsics, lens.height, lens.width)
        blank = torch.ones(30, 40)
        views.append(PredictedView(image.name, camera, blank.expand(3, 30, 40), blank, blank))
    photo_set = PhotoSet(scene / "images", tuple(photos), is_video=False)

    def solved(*, refine: bool) -> Solution:
        return solve_from(Prediction(tuple(views)), photo_set, work, refine=refine, num_threads=options.threads)

    before, after = solved(refine=False), solved(refine=True)
    found = [after.model.find_image_with_name(image.name) for image in images]
    refined = torch.stack([image_w2c(image) for image in found])
    ratio = torch.tensor(
        [
            after.model.cameras[image.camera_id].mean_focal_length() / lens.mean_focal_length()
            for image, lens in zip(found, lenses, strict=True)
        ]
    )
    cells = [scene.name, str(count), f"{degrees:g}"]
    cells += [f"{_errors(wrong, truth)} -> {_errors(refined, truth)}", f"{ratio.median() - 1:+.1%}"]
    cells += [f"{_pixels(before)} -> {_pixels(after)}", f"{int(after.measures.get('refined', 0))}"]
    return "| " + " | ".join(cells) + " |"


def _errors(w2c: Tensor, truth: Tensor) -> str:
    """Median of all pairs: degrees of rotation and of the direction of translation; center relative to the extent."""
    errors = relative_pose_errors(w2c, truth)
    centers = [rigid_inverse(poses.double())[:, :3, 3] for poses in (w2c, truth)]
    extent = (centers[1] - centers[1].mean(0)).norm(dim=-1).mean()
    distance = (similarity_of_cameras(w2c, truth)(centers[0]) - centers[1]).norm(dim=-1).median() / extent
    return f"{errors.rotation.median():.2f}° {errors.translation.median():.2f}° {distance:.2%}"


def _pixels(solution: Solution) -> str:
    reprojection = "-" if solution.reprojection_px is None else f"{solution.reprojection_px:.2f}"
    return f"{solution.measures.get('epipolar_px', float('nan')):.2f} {reprojection}"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = parse_options(RefinementOptions, __doc__, argv)
    heads = ("scene", "photographs", "turned by", "rotation, direction, center", "focal")
    print("| " + " | ".join((*heads, "epipolar, reprojection px", "refined")) + " |\n" + "|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as work:
        for datadir in options.datadir:
            for degrees in options.degrees:
                print(_refine(Path(datadir), degrees, Path(work), options), flush=True)


if __name__ == "__main__":
    main()
