"""Whole files of every format that is read, as small as it may be: a textured wall seen by cameras that shift."""

import gzip
import json
import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from data.colmap_library import pycolmap
from data.colmap_model import add_image, write_model
from data.image_io import write_bytes, write_image, write_pfm, write_uint16
from data.occupancy.occ3d import OCC3D_SPACE
from data.occupancy.sessions import SessionInfo, SessionWriter
from data.wai.formats import store
from data.wai.scene import WaiScene
from data.wai.scene_meta import META_NAME, FrameMeta, Modality, SceneMeta
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from models.mapanything.weights import load_mapanything
from models.occupancy.networks import SIMPLE, NetworkPlan, build_network, save_network, sizes_of
from models.vggt.backbones import load_network
from models.vqa.config import VQAConfig

HEIGHT, WIDTH, FOCAL, DEPTH, STEP = 32, 40, 50.0, 7.0, 0.14
"""A step sideways moves the wall by one pixel."""
VIEWS = 3
SPACE = EgoGrid(VoxelGrid((-2, -2, -1), (2, 2, 1), (1, 1, 1)), GridFrame())

Write = Callable[[Path], None]


def picture(view: int) -> np.ndarray:
    """The wall as a camera sees it."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 32, 3), dtype=np.uint8)
    return np.ascontiguousarray(noise[:, view : view + WIDTH])


def w2c(view: int) -> np.ndarray:
    """Axes of the world."""
    matrix = np.eye(4)
    matrix[0, 3] = -STEP * view
    return matrix


def intrinsics(scale: float = 1.0) -> np.ndarray:
    """For pixel centers at integers."""
    center = [(WIDTH - 1) / 2 * scale, (HEIGHT - 1) / 2 * scale]
    return np.array([[FOCAL * scale, 0, center[0]], [0, FOCAL * scale, center[1]], [0, 0, 1]])


def _text(path: Path, lines: Sequence[str]) -> None:
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _mvs_camera(path: Path, view: int, scale: float, last: str) -> None:
    rows = [" ".join(map(repr, map(float, row))) for row in w2c(view)]
    lens = [" ".join(map(repr, map(float, row))) for row in intrinsics(scale)]
    _text(path, ["extrinsic", *rows, "", "intrinsic", *lens, "", last])


def _pairs(path: Path) -> None:
    lines = [str(VIEWS)]
    for view in range(VIEWS):
        others = [other for other in range(VIEWS) if other != view]
        lines += [str(view), " ".join([str(len(others)), *(f"{other} 1.5" for other in others)])]
    _text(path, lines)


def dtu(root: Path) -> None:
    """MVSNeRF's layout."""
    _pairs(root / "Cameras" / "pair.txt")
    for view in range(VIEWS):
        _mvs_camera(root / "Cameras" / "train" / f"{view:08d}_cam.txt", view, 0.25, "4.0 0.05")
        write_image(root / "Rectified" / "scan1_train" / f"rect_{view + 1:03d}_3_r5000.png", picture(view))
        write_pfm(root / "Depths" / "scan1" / f"depth_map_{view:04d}.pfm", np.full((HEIGHT, WIDTH), DEPTH, np.float32))
        write_image(root / "masks" / "scan1" / f"{view:03d}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))


def blendedmvs(root: Path) -> None:
    """MVSNet's layout."""
    _pairs(root / "cams" / "pair.txt")
    for view in range(VIEWS):
        _mvs_camera(root / "cams" / f"{view:08d}_cam.txt", view, 1.0, "4.0 0.05 128 9.0")
        write_image(root / "blended_images" / f"{view:08d}.jpg", picture(view))
        write_pfm(root / "rendered_depth_maps" / f"{view:08d}.pfm", np.full((HEIGHT, WIDTH), DEPTH, np.float32))


def idr(root: Path) -> None:
    """Matrices in an archive."""
    matrices = {}
    for view in range(VIEWS):
        write_image(root / "image" / f"{view:06d}.png", picture(view))
        projection = np.eye(4)
        projection[:3] = intrinsics() @ w2c(view)[:3]
        matrices[f"world_mat_{view}"] = 2.5 * projection
        matrices[f"scale_mat_{view}"] = np.array([[1.5, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 1.5, DEPTH], [0, 0, 0, 1]])
    np.savez(root / "cameras.npz", **matrices)


def llff(root: Path) -> None:
    """`poses_bounds.npy`."""
    rows = []
    for view in range(VIEWS):
        write_image(root / "images" / f"{view:03d}.png", picture(view))
        matrix = [[0, 1, 0, STEP * view, HEIGHT], [1, 0, 0, 0, WIDTH], [0, 0, -1, 0, FOCAL]]
        rows.append([*np.array(matrix, np.float64).flatten(), 6.0, 8.0])
    np.save(root / "poses_bounds.npy", np.array(rows))


def _opengl(view: int) -> list[list[float]]:
    return (np.linalg.inv(w2c(view)) @ np.diag([1.0, -1, -1, 1])).tolist()


def blender(root: Path) -> None:
    """NeRF-synthetic."""
    for split, count in (("train", VIEWS), ("val", 1)):
        frames = []
        for view in range(count):
            write_image(root / split / f"r_{view}.png", np.dstack([picture(view), picture(view)[..., :1]]))
            frames.append({"file_path": f"./{split}/r_{view}", "transform_matrix": _opengl(view)})
        content = {"camera_angle_x": 2 * math.atan(0.5 * WIDTH / FOCAL), "frames": frames}
        _text(root / f"transforms_{split}.json", [json.dumps(content)])


def transforms(root: Path) -> None:
    """nerfstudio's, with depth, masks and points."""
    frames = []
    for view in range(VIEWS):
        write_image(root / "images" / f"{view:03d}.png", picture(view))
        write_image(root / "masks" / f"{view:03d}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        write_uint16(root / "depth" / f"{view:03d}.png", np.full((HEIGHT, WIDTH), 7000, np.uint16))
        frames.append(
            {
                "file_path": f"images/{view:03d}.png",
                "mask_path": f"masks/{view:03d}.png",
                "depth_file_path": f"depth/{view:03d}.png",
                "transform_matrix": _opengl(view),
            }
        )
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT, "k1": 0.01}
    more = {"camera_model": "OPENCV", "ply_file_path": "points.ply", "val_filenames": ["images/000.png"]}
    _text(root / "transforms.json", [json.dumps(lens | more | {"frames": frames})])
    _text(root / "scene.json", [json.dumps({"held_out": ["000.png"], "near": 5.0, "far": 9.0, "depth_scale": 0.001})])
    trimesh.PointCloud(_points()).export(root / "points.ply")


def _points() -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.stack([*generator.uniform(-1.5, 1.5, (2, 24)), generator.uniform(6.5, 7.5, 24)], axis=-1)


def colmap(root: Path, *, text: bool) -> None:
    """A sparse model."""
    model = pycolmap.Reconstruction()
    tracks: list[list[pycolmap.TrackElement]] = [[] for _ in _points()]
    params = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]
    camera = pycolmap.Camera(camera_id=1, model="PINHOLE", width=WIDTH, height=HEIGHT, params=params)
    for view in range(VIEWS):
        there = _points() @ w2c(view)[:3, :3].T + w2c(view)[:3, 3]
        add_image(model, view + 1, f"{view:03d}.png", torch.from_numpy(w2c(view)), camera, camera.img_from_cam(there))
        for row, track in enumerate(tracks):
            track.append(pycolmap.TrackElement(view + 1, row))
        write_image(root / "images" / f"{view:03d}.png", picture(view))
    for point, track in zip(_points(), tracks, strict=True):
        model.add_point3D(point, pycolmap.Track(track), np.zeros(3, np.uint8))
    write_model(model, root / "sparse" / "0", text=text)


def co3d(root: Path) -> None:
    """One sequence; annotations as compressed JSON."""
    listed = []
    for view in range(24):
        file = f"toy/one/images/frame{view:06d}.jpg"
        listed.append({"filepath": file, "extri": w2c(view)[:3].tolist(), "intri": intrinsics().tolist()})
        if view < 24:
            write_image(root / file, picture(view))
            depth = np.full((HEIGHT, WIDTH), DEPTH, np.float16).view(np.uint16)
            write_uint16(root / f"toy/one/depths/frame{view:06d}.jpg.geometric.png", depth)
            write_image(root / f"toy/one/depth_masks/frame{view:06d}.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    write_bytes(root / "toy_train.jgz", gzip.compress(json.dumps({"one": listed}).encode()))


def vkitti(root: Path) -> None:
    """Virtual KITTI 2."""
    drive = root / "Scene01" / "clone"
    outer, inner = ["frame cameraID r1,1 ..."], ["frame cameraID K[0,0] ..."]
    for view in range(VIEWS):
        write_image(drive / "frames" / "rgb" / "Camera_0" / f"rgb_{view:05d}.jpg", picture(view))
        depth = np.full((HEIGHT, WIDTH), 700, np.uint16)
        write_uint16(drive / "frames" / "depth" / "Camera_0" / f"depth_{view:05d}.png", depth)
        outer.append(f"{view} 0 " + " ".join(map(repr, map(float, w2c(view).flatten()))))
        inner.append(f"{view} 0 {FOCAL} {FOCAL} {(WIDTH - 1) / 2} {(HEIGHT - 1) / 2}")
    _text(drive / "extrinsic.txt", outer)
    _text(drive / "intrinsic.txt", inner)


def scannet(root: Path) -> None:
    """Exported sensor files."""
    for view in range(VIEWS):
        write_image(root / "color" / f"{view:06d}.jpg", picture(view))
        write_uint16(root / "depth" / f"{view:06d}.png", np.full((HEIGHT // 2, WIDTH // 2), 2500, np.uint16))
        _text(root / "pose" / f"{view:06d}.txt", [" ".join(map(str, row)) for row in np.linalg.inv(w2c(view))])
    _text(root / "intrinsic" / "intrinsic_color.txt", [" ".join(map(str, row)) for row in intrinsics()])


def wai(root: Path) -> None:
    """A meta file with images, masks and depth as EXR."""
    image, depth = Modality("frame_key", "image", "image"), Modality("frame_key", "depth", "depth")
    mask = Modality("frame_key", "mask", "binary")
    scene, frames = WaiScene(root, SceneMeta(root.name, "rooms", (), {"image": image})), []
    for view in range(VIEWS):
        name = f"{view:06d}"
        files = {"image": f"images/{name}.png", "depth": f"depth/{name}.exr", "mask": f"mask/{name}.png"}
        scene.store(files["image"], picture(view) / 255.0, "image")
        scene.store(files["depth"], np.full((HEIGHT, WIDTH), DEPTH, np.float32), "depth")
        scene.store(files["mask"], np.ones((HEIGHT, WIDTH), bool), "binary")
        frames.append(FrameMeta(name, np.linalg.inv(w2c(view)), files | {"file_path": files["image"]}))
    lens = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": (WIDTH - 1) / 2, "cy": (HEIGHT - 1) / 2, "w": WIDTH, "h": HEIGHT}
    values = {**lens, "shared_intrinsics": True, "camera_model": "PINHOLE", "camera_convention": "opencv"}
    values |= {"scale_type": "metric", "held_out": ["000001"]}
    modalities = {"image": image, "depth": depth, "mask": mask}
    WaiScene(root, SceneMeta("scene", "rooms", tuple(frames), modalities, values=values)).write(META_NAME)


def arrays(root: Path) -> None:
    """One file of each format of WAI's modalities."""
    generator = np.random.default_rng(0)
    depth = generator.uniform(1, 9, (12, 16)).astype(np.float32)
    store(root / "depth.exr", depth, "depth")
    store(root / "normals.exr", np.tile([0.0, 0.6, 0.8], (12, 16, 1)).astype(np.float32), "normals")
    store(root / "image.png", generator.random((12, 16, 3)), "image")
    store(root / "mask.png", depth > 4, "binary")
    store(root / "map.npy", depth, "numpy")
    store(root / "map.npz", depth, "numpy")
    store(root / "map.npy", depth, "mmap")
    store(root / "tokens.ptz", torch.from_numpy(depth), "ptz")
    store(root / "tokens.sft", torch.from_numpy(depth), "sft")
    store(root / "record.yaml", {"a": [1, 2.5], "b": {"c": "text"}}, "readable")
    store(root / "record.json", {"a": [1, 2.5], "b": {"c": "text"}}, "readable")


def images(root: Path) -> None:
    """Photographs and masks of the formats that Pillow writes, and depth as PFM and 16 bits."""
    for suffix in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"):
        write_image(root / f"photo{suffix}", picture(0))
    Image.fromarray(picture(0)).convert("P").save(root / "palette.png", transparency=0)
    write_uint16(root / "depth.png", np.full((HEIGHT, WIDTH), 7000, np.uint16))
    write_pfm(root / "depth.pfm", np.full((HEIGHT, WIDTH), DEPTH, np.float32))


def session(root: Path) -> None:
    """A drive of three frames."""
    writer = SessionWriter(root, "rover_a", SessionInfo(SPACE, period=0.25, ground_height=-0.5))
    for frame in range(3):
        occupied = np.zeros(SPACE.grid.size, np.uint8)
        occupied[frame] = 1
        pose = torch.tensor([float(frame), 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0], dtype=torch.float64)
        writer.add(frame, pose, occupied, {"moving": occupied > 0})
    writer.finish()


def occ3d(root: Path) -> None:
    """Two frames, with infos as a pickle of plain containers and as JSON."""
    infos, frames = [], {}
    for row in range(2):
        labels = np.full(OCC3D_SPACE.grid.size, 17, np.uint8)
        labels[row] = 3
        folder = root / "gts" / "scene" / f"token{row}"
        folder.mkdir(parents=True)
        np.savez_compressed(folder / "labels.npz", semantics=labels)
        pose = {"translation": [float(row), 0.0, 0.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
        frames[f"token{row}"] = {"timestamp": str(row), "ego_pose": pose}
        infos.append(
            {
                "token": f"token{row}",
                "ego2global_translation": pose["translation"],
                "ego2global_rotation": pose["rotation"],
                "gt_ego_fut_trajs": np.zeros((6, 2), np.float32),
                "pose_mode": np.array([0.0, 0.0, 1.0]),
            }
        )
    _text(root / "annotations.json", [json.dumps({"scene_infos": {"scene": frames}})])
    write_bytes(root / "infos.pkl", pickle.dumps({"infos": {"scene": infos}}))


def trajectories(root: Path) -> None:
    """Poses of a vehicle, as text and as JSON."""
    rows = [[0.5 * frame, 0.1, 1.5, 1, 0, 0, 0] for frame in range(4)]
    _text(root / "drive.txt", [" ".join(map(str, row)) for row in rows])
    _text(root / "places.txt", [" ".join(map(str, row[:3])) for row in rows])
    _text(
        root / "drive.json", [json.dumps({"frames": [{"transform_matrix": w2c(frame).tolist()} for frame in range(3)]})]
    )


def points(root: Path) -> None:
    """LiDAR sweeps."""
    sweep = np.random.default_rng(0).uniform(-9, 9, (16, 4)).astype(np.float32)
    np.save(root / "sweep.npy", sweep)
    write_bytes(root / "sweep.bin", sweep.tobytes())
    np.savetxt(root / "sweep.txt", sweep)
    trimesh.PointCloud(sweep[:, :3]).export(root / "sweep.ply")


def meshes(root: Path) -> None:
    """A box in every format, and a block of CityGML."""
    box = trimesh.creation.box((2.0, 3.0, 4.0))
    for suffix in ("obj", "glb", "ply", "stl", "off"):
        box.export(root / f"box.{suffix}")
    for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(box)).items():
        write_bytes(root / ("box.gltf" if name.endswith(".gltf") else name), content)
    corners = [(0, 0, 0), (0.0002, 0, 0), (0.0002, 0.0001, 0), (0, 0.0001, 0), (0, 0, 0)]
    ring = " ".join(f"{35 + north:.6f} {139 + east:.6f} {height}" for north, east, height in corners)
    polygon = (
        f"<g:Polygon><g:exterior><g:LinearRing><g:posList>{ring}</g:posList></g:LinearRing></g:exterior></g:Polygon>"
    )
    building = f"<b:Building><b:lod1Solid>{polygon}</b:lod1Solid></b:Building>"
    srs = '<g:boundedBy><g:Envelope srsName="http://www.opengis.net/def/crs/EPSG/0/6697"/></g:boundedBy>'
    member = f"<c:cityObjectMember>{building}</c:cityObjectMember>"
    _text(root / "city.gml", [f'<c:CityModel xmlns:c="c" xmlns:g="g" xmlns:b="b">{srs}{member}</c:CityModel>'])


def questions(root: Path) -> None:
    """Records as an array and as lines, with geometry; ScanQA's and SQA3D's files."""
    for view in range(2):
        write_image(root / "scene0001_00" / f"{view}.png", picture(view))
    eye = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    token: dict[str, Any] = {"R": [eye, eye], "t": [[0, 0, 0], [1, 0, 0]], "K": [eye, eye]}
    token |= {"depth_hist": [[0.0625] * 16] * 2, "depth_range": [[1, 2]] * 2, "image_size": [[40, 32]] * 2}
    record = {"images": ["scene0001_00/0.png", "scene0001_00/1.png"], "question": "What?", "answer": "a box"}
    record |= {"scene_id": "scene0001_00", "geom_token": token, "evidence": [0], "situation": "here"}
    rows = [record | {"question_id": f"q{number}"} for number in range(2)]
    rows.append({**record, "question_id": "q2", "answer": None, "action_json": {"action": "place", "center": [1, 2]}})
    _text(root / "records.json", [json.dumps({"samples": rows})])
    _text(root / "records.jsonl", [json.dumps(row) for row in rows])
    plain = {"scene_id": "scene0001_00", "question_id": "a-1", "question": "What?", "answers": ["box", "a box"]}
    _text(root / "ScanQA_v1.0_val.json", [json.dumps([plain, plain | {"question_id": "a-2"}])])
    asked = {"scene_id": "scene0001_00", "situation": "At the door.", "question": "Left?", "question_id": 5}
    _text(root / "v1_questions_val.json", [json.dumps({"questions": [asked]})])
    answer = {"scene_id": "scene0001_00", "question_id": 5, "answers": [{"answer": "yes"}]}
    _text(root / "v1_annotations_val.json", [json.dumps({"annotations": [answer]})])


def arkit(root: Path) -> None:
    """Boxes, a trajectory, lenses."""
    folder = root / "41"
    frames = folder / "41_frames"
    for number in range(3):
        stem = f"41_{number / 10 + 7:.3f}"
        write_image(frames / "lowres_wide" / f"{stem}.png", picture(number))
        write_uint16(frames / "lowres_depth" / f"{stem}.png", np.full((HEIGHT, WIDTH), 2500, np.uint16))
        _text(frames / "lowres_wide_intrinsics" / f"{stem}.pincam", ["40 32 50.0 50.0 19.5 15.5"])
    _text(frames / "lowres_wide.traj", [f"{number / 10 + 7.02} 0.1 0.2 0.3 1 2 3" for number in range(3)])
    box = {"centroid": [0.0, 2.0, 1.0], "axesLengths": [1.0, 0.1, 0.6], "normalizedAxes": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    boxes = [{"label": label, "segments": {"obbAligned": box}} for label in ("tv_monitor", "chair")]
    _text(folder / "41_3dod_annotation.json", [json.dumps({"data": boxes})])


def camera_path(root: Path) -> None:
    """The viewer's file and nerfstudio's."""
    pose = np.linalg.inv(w2c(1)).tolist()
    cameras = [{"c2w": pose, "intrinsics": intrinsics().tolist(), "near": 1.0, "far": 9.0} for _ in range(2)]
    head = {"width": WIDTH, "height": HEIGHT, "closed": False, "fps": 24, "frames": 12}
    _text(root / "path.json", [json.dumps(head | {"cameras": cameras})])
    theirs = [{"camera_to_world": np.array(_opengl(1)).flatten().tolist(), "fov": 50, "aspect": 1.25}] * 2
    lens = {"render_width": WIDTH, "render_height": HEIGHT, "camera_type": "perspective", "fps": 24, "seconds": 2}
    _text(root / "studio.json", [json.dumps(lens | {"camera_path": theirs})])


def options(root: Path) -> None:
    """A config of a training script."""
    lines = ["# a run", "expname = toy", "dataset_name = dtu", f"datadir = {root}", "scans = [scan1, scan2]"]
    lines += ["lrate = 5e-4", "num_epochs = 3", "N_samples = 32", "vggt_ckpt = none", "rays_per_step = 128"]
    _text(root / "run.txt", lines)


VGGT_SIZES: dict[str, Any] = {
    "aggregator": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "patch_embed": "conv"},
    "depth_head": {"intermediate_layer_idx": [0, 1, 2, 3], "features": 8, "out_channels": [8, 8, 8, 8]},
    "camera_head": {"trunk_depth": 1, "num_heads": 2},
}
DEPTH_ANYTHING_SIZES: dict[str, Any] = {
    "net": {"img_size": 56, "embed_dim": 16, "depth": 4, "num_heads": 2, "alt_start": 1, "out_layers": [0, 1, 2, 3]},
    "head": {"features": 8, "out_channels": [8, 8, 8, 8]},
}
MAPANYTHING_SIZES: dict[str, Any] = {
    **{"patch_size": 8, "embed_dim": 16, "pos_embed_grid": 4, "encoder_blocks": 1, "encoder_heads": 2},
    **{"encoder_mlp": "mlp", "sharing_dim": 16, "blocks": 4, "heads": 2, "mlp": "mlp", "taps": [1, 2]},
    **{"dense_encoder_dims": [8, 16], "global_encoder_dims": [8, 16], "dpt_feature_dim": 8},
    **{"dpt_layer_dims": [8, 8, 8, 8], "pose_hidden": 8, "scale_hidden": 8},
}


def networks(root: Path) -> None:
    """Weights with their sizes beside them, of each kind of network; of answers the trained part alone."""
    kinds = {"vggt": VGGT_SIZES, "mapanything": MAPANYTHING_SIZES}
    kinds["da3"] = {"model_name": "da3-toy", "config": DEPTH_ANYTHING_SIZES}
    for name, sizes in kinds.items():
        _text(root / f"{name}.json", [json.dumps(sizes)])
        source = f"random:{root / name}.json"
        if name == "mapanything":
            model: nn.Module = load_mapanything(source).model
        else:
            model = cast("nn.Module", load_network(source, heads=("camera", "depth")).model)
        save_file(model.state_dict(), root / f"{name}.safetensors")
    identity = json.dumps({"name": "toy", "sha256": "0" * 64})
    metadata = {"format": "vqa-1", "config": json.dumps(VQAConfig().to_plain()), "about": "{}", "image_size": "64"}
    tensors = {"perceiver.latents": torch.zeros(4, 8)}
    save_file(tensors, root / "answers.safetensors", metadata=metadata | {"language": identity, "vggt": identity})


def checkpoint_network() -> nn.Module:
    """What the checkpoint of the samples is of."""
    return nn.Linear(3, 2)


def checkpoints(root: Path) -> None:
    """A training checkpoint, plain weights in both formats, a forecaster with its sizes."""
    network = checkpoint_network()
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    record = {"options": {"seed": 1, "scans": ["a"]}, "commit": "unknown"}
    torch.save({"toy": record, "state_dict": weights, "global_step": 3}, root / "last.ckpt")
    torch.save(network.state_dict(), root / "weights.pt")
    save_file(network.state_dict(), root / "weights.safetensors", metadata={"format": "pt"})
    plan = NetworkPlan(SIMPLE, sizes_of(SIMPLE, {"width": 4, "latent": 8}, "toy"), SPACE)
    save_network(build_network(plan), plan, root / "forecaster.safetensors", root / "forecaster.json", {})
