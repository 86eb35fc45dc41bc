"""What reads each format, which files of a sample are damaged, and what a result must be to count as correct."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.hostile import samples
from data.image_io import image_size, read_depth_pfm, read_image, read_uint16
from data.occupancy.citygml import read_city
from data.occupancy.meshes import read_mesh
from data.occupancy.occ3d import read_occ3d
from data.occupancy.points import read_points
from data.occupancy.sessions import read_sessions
from data.occupancy.trajectories import read_trajectory
from data.readers.options import ReaderOptions
from data.readers.registry import READERS
from data.scene import PosedScene
from data.scene_qa.arkit import read_arkit
from data.scene_qa.official import SplitFiles, read_scanqa, read_sqa3d
from data.scene_qa.records import read_records
from data.scene_qa.types import QARecord, ViewGeometry
from data.seeds import evenly_spread
from data.wai.formats import load
from geometry import InputError
from geometry.cameras import MAX_ROTATION_ERROR
from models.mapanything.weights import load_mapanything
from models.occupancy.networks import load_network as load_forecaster
from models.vggt.backbones import load_network
from models.vggt.preprocess import load_images
from models.vggt.weights import read_tensors, weight_shapes
from models.vqa.weights import read_weights
from render.paths import frames_of, read_path
from render.reconstruct.photo_files import read_photo
from training.checkpoint import CheckpointKind, CheckpointRecord, read_checkpoint
from training.cli import parse_options
from training.nerf.options import GeneralOptions

Read = Callable[[Path, Path], list[InputError]]
"""read(folder, damaged file) -> what was reported; raises `InputError` where nothing is left to read."""
TOY = CheckpointKind("toy", "train_toy.py", CheckpointRecord, lambda record: samples.checkpoint_network())


_MOST_VIEWS = 4
"""Of a scene that are looked at, evenly spread; the first is among them."""


class Garbage(AssertionError):
    """A file was taken for whole, and what came of it cannot be."""


@dataclass(frozen=True)
class Format:
    """One row of the table."""

    write: samples.Write
    read: Read
    damaged: Mapping[str, str]
    """Pattern of files of the sample -> the kind of damage."""
    is_one: bool = False
    """All files are read together, whichever is damaged."""


def demand(condition: bool, what: str) -> None:
    """Raise `Garbage` unless the condition holds."""
    if not condition:
        raise Garbage(what)


def _scenes(name: str, folder: Path, file: Path) -> list[InputError]:
    problems: list[InputError] = []
    more: dict[str, Any] = {"options": ReaderOptions()} if READERS[name].options else {}
    for scene in READERS[name].read(folder, split="all", report=problems.append, **more):
        _check_scene(scene, problems)
    return problems


def _check_scene(scene: PosedScene, problems: list[InputError]) -> None:
    views = set(scene.frames)
    demand(bool(views), "a scene without views")
    demand({*scene.train_views, *scene.held_out_views} <= views, "a split of views that are not there")
    demand(not {*scene.train_views} & {*scene.held_out_views}, "views both held out and trained on")
    for view in evenly_spread(sorted(views), _MOST_VIEWS):
        try:
            frame = scene.frames[view]
            _check_camera(frame.w2c, frame.intrinsics)
            demand(0 < frame.near < frame.far < float("inf"), f"near {frame.near} and far {frame.far}")
            demand(min(frame.height, frame.width) > 0, "an image without pixels")
            demand({*scene.neighbors[view]} <= views - {view}, "neighbors that are not there")
            image = scene.image(view)
            demand(image.dtype == np.uint8 and image.shape == (frame.height, frame.width, 3), f"image {image.shape}")
            if scene.has_depth(view):
                _check_depth(scene.depth(view), (frame.height, frame.width))
            if frame.mask_path is not None:
                scene.mask(view)
        except InputError as error:
            problems.append(error)
    try:
        loaded = scene.views([min(views)])
        demand(bool(((loaded.images >= 0) & (loaded.images <= 1)).all()), "colors outside of [0, 1]")
        _check_camera(loaded.cameras.w2c[0], loaded.cameras.intrinsics[0])
    except InputError as error:
        problems.append(error)


def _check_camera(w2c: Tensor, intrinsics: Tensor) -> None:
    demand(bool(w2c.isfinite().all() and intrinsics.isfinite().all()), "a camera that is not finite")
    turn = w2c[:3, :3].double()
    demand(float((turn @ turn.T - torch.eye(3)).abs().max()) < 2 * MAX_ROTATION_ERROR, "a rotation that is none")
    demand(float(torch.linalg.det(turn)) > 0, "a mirrored camera")
    demand(bool(((w2c[3] - torch.eye(4)[3]).abs() < 2 * MAX_ROTATION_ERROR).all()), f"a last row {w2c[3].tolist()}")
    demand(float(intrinsics[0, 0]) > 0 and float(intrinsics[1, 1]) > 0, "a focal length of 0 or less")


def _check_depth(depth: np.ndarray, size: tuple[int, ...]) -> None:
    demand(depth.shape == size, f"depth {depth.shape} for an image {size}")
    demand(bool(np.isfinite(depth).all()) and bool((depth >= 0).all()), "depth that is negative or not finite")


def _images(folder: Path, file: Path) -> list[InputError]:
    if file.suffix == ".pfm":
        depth = read_depth_pfm(file)
        _check_depth(depth, depth.shape)
    elif file.name == "depth.png":
        demand(read_uint16(file).ndim == 2, "a depth map that is no map")
    else:
        height, width = image_size(file)
        demand(read_image(file).shape == (height, width, 3), "an image of another size than its header's")
        demand(max(read_photo(file, 64).image.shape[:2]) <= 64, "a photograph larger than asked for")
        images = load_images([file], size=28)
        demand(bool(((images >= 0) & (images <= 1)).all()), "colors outside of [0, 1]")
    return []


def _arrays(folder: Path, file: Path) -> list[InputError]:
    kind = {"depth": "depth", "normals": "normals", "mask": "binary"}.get(file.stem)
    value = load(file, "mmap" if "--" in file.name else kind)
    if file.name == "image.png":
        demand(bool((value >= 0).all() and (value <= 1).all()), "colors outside of [0, 1]")
    if file.suffix in (".npy", ".npz"):
        demand(isinstance(value, np.ndarray) and value.dtype.kind in "fiub", f"an array of {value.dtype}")
    return []


def _drives(folder: Path, file: Path) -> list[InputError]:
    problems: list[InputError] = []
    for session in read_sessions(folder, report=problems.append):
        _check_poses(session.poses, len(session.numbers))
        demand(0 < session.info.period < float("inf"), f"a period of {session.info.period} s")
        for number in session.numbers:
            try:
                shape = session.arrays(number, ("occupancy", "moving"))["moving"].shape
                demand(shape == session.info.space.grid.size, f"a grid of {shape}")
            except InputError as error:
                problems.append(error)
    return problems


def _check_poses(poses: Tensor, count: int) -> None:
    demand(poses.shape == (count, 13) and bool(poses.isfinite().all()), "poses that are not finite")
    demand(bool(((poses[:, 3:7].norm(dim=-1) - 1).abs() < 1e-6).all()), "a quaternion that is not of length 1")


def _occ3d(folder: Path, file: Path) -> list[InputError]:
    problems: list[InputError] = []
    for scene in read_occ3d(folder, folder / "infos.pkl" if file.suffix == ".pkl" else None, report=problems.append):
        _check_poses(scene.poses, len(scene.tokens))
        demand(scene.steps.shape == (len(scene.tokens), 2), "steps of another number")
        demand(bool(scene.steps.isfinite().all()), "steps that are not finite")
        for row in range(len(scene.tokens)):
            try:
                scene.labels(row)
            except InputError as error:
                problems.append(error)
    return problems


def _points(folder: Path, file: Path) -> list[InputError]:
    found = read_points(file)
    demand(found.shape[1] == 4 and bool(np.isfinite(found[:, :3]).all()), "points that are not finite")
    return []


def _meshes(folder: Path, file: Path) -> list[InputError]:
    mesh = read_city(file).mesh if file.suffix == ".gml" else read_mesh(file)
    demand(bool(np.isfinite(mesh.vertices).all()), "corners that are not finite")
    demand(int(mesh.faces.min()) >= 0 and int(mesh.faces.max()) < len(mesh.vertices), "faces of corners beyond the end")
    demand(len(mesh.objects) == len(mesh.faces), "another number of objects than of faces")
    return []


def _questions(folder: Path, file: Path) -> list[InputError]:
    problems: list[InputError] = []
    if file.name.startswith("records"):
        found = read_records([file], problems.append)
    elif file.name.startswith("ScanQA"):
        found = read_scanqa(SplitFiles(file), None, problems.append)
    else:
        files = SplitFiles(folder / "v1_questions_val.json", folder / "v1_annotations_val.json")
        found = read_sqa3d(files, None, problems.append)
    _check_records(found, is_answered=file.name.startswith("records"))
    return problems


def _check_records(records: list[QARecord], *, is_answered: bool) -> None:
    for record in records:
        demand(bool(record.question) and (bool(record.answers) or not is_answered), "a question without an answer")
        for text in (record.question, *record.answers, record.id, record.scene):
            text.encode()  # half a surrogate pair cannot be written or tokenized
        if record.geometry is not None:
            _check_geometry(record.geometry, len(record.images))


def _check_geometry(geometry: ViewGeometry, count: int) -> None:
    demand(geometry.rotations.shape == (count, 3, 3), "rotations of another number than the images")
    for values in (geometry.rotations, geometry.translations, geometry.intrinsics, geometry.depth_histogram):
        demand(bool(values.isfinite().all()), "geometry that is not finite")


def _arkit(folder: Path, file: Path) -> list[InputError]:
    problems: list[InputError] = []
    _check_records(read_arkit(folder, 2, problems.append), is_answered=True)
    return problems


def _camera_paths(folder: Path, file: Path) -> list[InputError]:
    path = read_path(file, (32, 40))
    for part in (path, frames_of(path, 5)):
        for w2c, intrinsics in zip(part.cameras.w2c, part.cameras.intrinsics, strict=True):
            _check_camera(w2c, intrinsics)
    return []


def _options(folder: Path, file: Path) -> list[InputError]:
    found = parse_options(GeneralOptions, "a run", ["--config", str(file)])
    demand(np.isfinite(found.lrate) and found.lrate > 0, f"a learning rate of {found.lrate}")
    return []


def _checkpoints(folder: Path, file: Path) -> list[InputError]:
    if file.suffix == ".ckpt":
        read_checkpoint(file, TOY).network()
    elif file.stem == "weights":
        shapes = weight_shapes(file)
        tensors = read_tensors(file, list(shapes))
        demand({key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes, "tensors of other shapes")
    else:
        load_forecaster(folder / "forecaster.safetensors")
    return []


def _networks(folder: Path, file: Path) -> list[InputError]:
    source = file.with_suffix(".safetensors")
    if file.stem == "mapanything":
        load_mapanything(source)
    elif file.stem == "answers":
        found, _ = read_weights(source)
        demand(0 < found.image_size < 2**16, f"images of {found.image_size} pixels")
    else:
        load_network(source, heads=("camera", "depth"))
    return []


def _trajectories(folder: Path, file: Path) -> list[InputError]:
    poses = read_trajectory(file, 0.5)
    _check_poses(poses, len(poses))
    return []


def _reader(name: str, write: samples.Write, damaged: Mapping[str, str]) -> Format:
    return Format(write, partial(_scenes, name), damaged, is_one=True)


_CAMERAS = {"**/*_cam.txt": "text", "**/pair.txt": "text"}
FORMATS: dict[str, Format] = {
    "DTU": _reader("dtu", samples.dtu, _CAMERAS | {"**/*.pfm": "header", "**/*.png": "png"}),
    "BlendedMVS": _reader("blendedmvs", samples.blendedmvs, _CAMERAS | {"**/*.jpg": "bytes", "**/*.pfm": "header"}),
    "IDR, NeuS": _reader("dtu", samples.idr, {"cameras.npz": "zip"}),
    "LLFF": _reader("llff", samples.llff, {"poses_bounds.npy": "npy"}),
    "NeRF-synthetic": _reader("blender", samples.blender, {"*.json": "json", "**/*.png": "png"}),
    "transforms.json": _reader(
        "transforms", samples.transforms, {"*.json": "json", "points.ply": "header", "masks/*.png": "png"}
    ),
    "COLMAP, binary": _reader("colmap", partial(samples.colmap, text=False), {"sparse/0/*.bin": "bytes"}),
    "COLMAP, text": _reader("colmap", partial(samples.colmap, text=True), {"sparse/0/*.txt": "text"}),
    "Co3D": _reader("co3d", samples.co3d, {"*.jgz": "gzip_json", "toy/one/depths/frame000000*": "png"}),
    "Virtual KITTI": _reader("vkitti", samples.vkitti, {"**/*trinsic.txt": "text", "**/depth_*.png": "png"}),
    "ScanNet": _reader("scannet", samples.scannet, {"pose/*": "text", "intrinsic/*": "text", "depth/*": "png"}),
    "WAI": _reader("wai", samples.wai, {"scene_meta.json": "json", "depth/*": "exr", "mask/*": "png"}),
    "images, PFM": Format(samples.images, _images, {"*.png": "png", "*.[jwtbg]*": "bytes", "*.pfm": "header"}),
    "WAI modalities": Format(
        samples.arrays,
        _arrays,
        {"*.exr": "exr", "*.png": "png", "*.npy": "npy", "*.npz": "zip", "*.ptz": "bytes", "*.sft": "safetensors"}
        | {"*.yaml": "text", "*.json": "json"},
    ),
    "sessions": Format(samples.session, _drives, {"**/*.json": "json", "**/*.npz": "zip"}),
    "Occ3D": Format(samples.occ3d, _occ3d, {"annotations.json": "json", "infos.pkl": "bytes", "**/labels.npz": "zip"}),
    "trajectories": Format(samples.trajectories, _trajectories, {"*.txt": "text", "*.json": "json"}),
    "LiDAR": Format(samples.points, _points, {"*.npy": "npy", "*.bin": "bytes", "*.txt": "text", "*.ply": "header"}),
    "meshes, CityGML": Format(
        samples.meshes,
        _meshes,
        {
            "*.obj": "text",
            "*.off": "text",
            "*.gltf": "json",
            "*.gml": "text",
            "*.ply": "header",
            "*.[gs][lt][bl]": "bytes",
        },
    ),
    "questions": Format(samples.questions, _questions, {"*.json": "json", "*.jsonl": "json_lines"}),
    "ARKitScenes": Format(
        samples.arkit,
        _arkit,
        {"**/*.json": "json", "**/*.traj": "text", "**/*.pincam": "text", "**/lowres_depth/*": "png"},
    ),
    "camera paths": Format(samples.camera_path, _camera_paths, {"*.json": "json"}),
    "configs": Format(samples.options, _options, {"*.txt": "text"}),
    "checkpoints, weights": Format(
        samples.checkpoints,
        _checkpoints,
        {"*.ckpt": "zip", "*.pt": "zip", "*.safetensors": "safetensors", "*.json": "json"},
    ),
    "networks": Format(samples.networks, _networks, {"*.json": "json", "*.safetensors": "safetensors"}),
}
"""By the name in the table."""
