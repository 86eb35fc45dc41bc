"""What a reader has and the repository has not: data sets, VGGT's published weights, the peer's scene. Toy size."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from data.colmap_library import pycolmap
from data.colmap_model import add_image, pinhole_camera, write_model
from data.occupancy.convert import main as convert
from data.procedural.generate import generate
from data.procedural.writers import GeneratorSettings
from data.wai.covisibility import Settings, add_covisibility
from models.vggt import load_vggt
from tests.data.occupancy.test_meshes import city, solid
from tests.data.tiny_scenes import write_blender, write_llff
from tests.data.wai.scenes import write_wall
from tests.documented.extract import ROOT
from tests.render.answering import write_weights
from tests.render.forecast.test_forecast import write_network
from tests.render.reconstruct.photo_sets import FOCAL, HEIGHT, WIDTH, ring, take_photos
from tests.render.tiny import write_smaller_field
from tests.test_benchmarks import FAKE_SCRIPT
from tests.training.vggt.tiny import SIZES

_DTU_SCANS = (1, 3, 24)
"""One to test and two to train on, by DTU's lists."""


def _procedural(layout: str, **changes: int) -> Callable[[Path], None]:
    settings = {"width": 40, "height": 32, "views": 20, "seed": 1, "lights": 1, "first_scan": 1} | changes
    return lambda folder: generate(folder, GeneratorSettings(layout=layout, **settings), 1, workers=1)


def _dtu(folder: Path) -> None:
    """One scene as scans of known numbers."""
    first, *others = _DTU_SCANS
    _procedural("dtu", views=20, first_scan=first)(folder)
    for path in sorted(folder.rglob(f"scan{first}*")):
        for scan in others:
            copy = path.with_name(path.name.replace(f"scan{first}", f"scan{scan}"))
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)


def _annotations(folder: Path) -> None:
    """Those of the toy Co3D, in a folder of their own."""
    whole = folder.with_name("co3d")
    if not whole.exists():
        TOYS["co3d"](whole)
    folder.mkdir()
    for path in whole.rglob("*.jgz"):
        shutil.copy(path, folder)


def _sizes(path: Path) -> None:
    sizes = {**SIZES, "aggregator": {**SIZES["aggregator"], "img_size": 28, "patch_size": 14}}
    path.write_text(json.dumps(sizes))


def _vggt(path: Path) -> None:
    sizes = path.with_suffix(".json")
    _sizes(sizes)
    save_file(load_vggt(f"random:{sizes}:0").model.state_dict(), path)


def shipped_weights(folder: Path) -> None:
    """Those of the repository; radiance fields look at small images, through few planes, and are otherwise the same."""
    folder.mkdir()
    for path in (ROOT / "ckpts").iterdir():
        if path.suffix != ".ckpt":
            (folder / path.name).symlink_to(path)
            continue
        write_smaller_field(path, folder / path.name)


def _camera_path(path: Path) -> None:
    camera = {"c2w": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "vertical_fov": 50}
    path.write_text(json.dumps({"cameras": [camera, camera], "frames": 3}))


def _peer(folder: Path) -> None:
    folder.mkdir()
    (folder / "make_scene.py").write_text(FAKE_SCRIPT)


def _wai(folder: Path) -> None:
    for name in ("room", "hall", "kitchen"):
        write_wall(folder / name, 4)
        add_covisibility(Settings(long_side=32), name, folder / name)


def _photos(folder: Path) -> None:
    """With their cameras, so that they need not be found in a test of commands."""
    poses = ring(8)
    photos = take_photos(folder / "images", poses)
    model = pycolmap.Reconstruction()
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    camera = pinhole_camera(intrinsics, HEIGHT, WIDTH, 1)
    for number, (photo, w2c) in enumerate(zip(photos.photos, poses, strict=True), start=1):
        add_image(model, number, photo.name, w2c, camera)
    write_model(model, folder / "sparse" / "0")


def _sessions(folder: Path) -> None:
    convert(["--procedural", "1", "--sessions", "3", "--frames", "7", "--out", str(folder)])


def _sweeps(folder: Path) -> None:
    folder.mkdir()
    for number in range(2):
        np.savetxt(folder / f"{number}.txt", np.random.default_rng(number).uniform(-3, 3, (20, 3)))


def _room(folder: Path) -> None:
    room = folder.with_name("rooms") / "room00001"
    settings = {"width": 32, "height": 32, "views": 3, "seed": 0, "lights": 1, "first_scan": 1}
    generate(room.parent, GeneratorSettings(layout="rooms_qa", **settings), 1, workers=1)
    folder.symlink_to(room)


def _records(path: Path) -> None:
    """Questions about the room."""
    room = path.with_name("asked")
    _room(room)
    rows = [json.loads(line) for line in (room / "questions.jsonl").read_text().splitlines()]
    changes = [{"images": [str(room / name) for name in row["images"]], "geom_token": None} for row in rows]
    path.write_text("".join(json.dumps(row | own) + "\n" for row, own in zip(rows, changes, strict=True)))


def _questions(path: Path) -> None:
    rows = [{"images": ["-"], "question": "What?", "answer": "a house", "scene_id": "scan24", "question_id": "1"}]
    path.write_text(json.dumps(rows))


TOYS: dict[str, Callable[[Path], object]] = {
    "dtu": _dtu,
    "blendedmvs": _procedural("blendedmvs", views=8),
    "co3d": _procedural("co3d", views=24),
    "annotations": _annotations,
    "vkitti": _procedural("vkitti", views=8),
    "llff": lambda folder: write_llff(folder / "fern", views=20),
    "nerf_synthetic": lambda folder: write_blender(folder / "lego", views=20),
    "peer": _peer,
    "photos": _photos,
    "wai": _wai,
    "wai/room": lambda folder: _wai(folder.parent),
    "vggt.safetensors": _vggt,
    "sizes.json": _sizes,
    "camera_path.json": _camera_path,
    "city.gml": lambda path: path.write_text(city(f"<bldg:Building>{solid('lod1Solid', 5)}</bldg:Building>")),
    "sessions": _sessions,
    "sessions/drone_20260101_000000": lambda folder: _sessions(folder.parent),
    "sweeps": _sweeps,
    "poses.txt": lambda path: path.write_text("0 0 0 1 0 0 0\n1 0 0 1 0 0 0\n"),
    "forecaster.safetensors": lambda path: write_network(path.parent, path.stem),
    "records.jsonl": _records,
    "questions.json": _questions,
    "room/view1.png": lambda path: _room(path.parent),
    "room/view2.png": lambda path: path,
    "vqa.safetensors": write_weights,
}
"""Name below toys/ -> how it is written; each is made when a command first reads it."""

SAME = {
    "data/dtu": "dtu",
    "data/BlendedMVS": "blendedmvs",
    "data/llff": "llff",
    "data/nerf_synthetic": "nerf_synthetic",
    "data/co3d": "co3d",
    "data/vkitti": "vkitti",
    "toys/blender": "nerf_synthetic",
    "toys/nerf_llff_data": "llff",
    "runs/photographs": "photos",
}
"""Folders that configs and options have as defaults -> the toy that lies there."""
