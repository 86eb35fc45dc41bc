"""The command from options to files, which other programs' libraries read back; a model that knows the truth."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from data.colmap_library import pycolmap
from data.image_io import read_uint16, write_image
from data.point_cloud import colored_points
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import Cameras, InputError
from render.export import __main__ as command
from render.export.cameras import PhotoCameras
from render.export.options import ExportOptions
from render.export.renderings import Renderings, file_names, render_views
from render.export.vggt import predicted_views
from render.reconstruct.chunk_alignment import PredictedView
from render.reconstruct.vggt_prediction import Prediction
from tests.data.exact_maps import sphere_maps
from tests.render.tiny import HEIGHT, SCAN, WIDTH, TruthModel

CPU = torch.device("cpu")
ALL = ("points", "mesh", "cameras", "depth")


@pytest.fixture(scope="module")
def scene(data_root: Path) -> PosedScene:
    return read_scenes("dtu", str(data_root), split="all", scans=(SCAN,), evaluated_only=True)[0]


@pytest.fixture
def truth(scene: PosedScene) -> Iterator[mock.Mock]:
    """The command's model renders the photographs and true depth."""
    with mock.patch.object(command, "load_for", side_effect=lambda *_: TruthModel(scene)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def exported(general: Path, data_root: Path, scene: PosedScene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    with mock.patch.object(command, "load_for", side_effect=lambda *_: TruthModel(scene)):
        arguments = f"--ckpt {general} --datadir {data_root} --scan {SCAN} --device cpu --out {out} --normals"
        command.main([*arguments.split(), "--what", *ALL, "--voxels", "40", "--colmap_points", "200"])
    return out


def options(ckpt: Path, data_root: Path, out: Path, **changes: Any) -> ExportOptions:
    return ExportOptions(
        **{"ckpt": str(ckpt), "datadir": str(data_root), "scan": SCAN, "device": "cpu", "out": str(out), **changes}
    )


def test_points_lie_on_the_true_surface(exported: Path, scene: PosedScene) -> None:
    cloud = trimesh.load(exported / "points.ply")
    report = json.loads((exported / "export.json").read_text())
    assert len(cloud.vertices) == report["fusion"]["points"] > 500
    assert 0.3 < report["fusion"]["kept_share"] <= 1
    true = colored_points(scene.views(list(scene.frames))).points_world.numpy()
    distance = cKDTree(true).query(cloud.vertices)[0]
    assert np.median(distance) < report["fusion"]["spacing"]
    assert "property float nx" in (exported / "points.ply").read_bytes()[:600].decode(errors="ignore")


def test_mesh_is_what_the_report_says(exported: Path) -> None:
    report = json.loads((exported / "export.json").read_text())["mesh"]
    mesh = trimesh.load(exported / "mesh.ply", process=False)
    assert (len(mesh.vertices), len(mesh.faces)) == (report["vertices"], report["faces"])
    assert mesh.is_watertight == report["watertight"]
    assert mesh.visual.vertex_colors[:, :3].std() > 1
    assert report["euler_number"] == mesh.euler_number
    assert (report["volume"] is None) == (not report["watertight"])


def test_colmap_model_has_the_scenes_cameras(exported: Path, scene: PosedScene) -> None:
    model = pycolmap.Reconstruction(exported / "cameras" / "sparse" / "0")
    by_name = {frame.image_path.name: frame for frame in scene.frames.values()}
    assert {image.name for image in model.images.values()} == set(by_name)
    assert 100 < model.num_points3D() <= 200
    for image in model.images.values():
        frame = by_name[image.name]
        assert np.allclose(image.cam_from_world().matrix(), frame.w2c[:3].numpy(), atol=1e-4)
        assert np.allclose(image.camera.calibration_matrix(), frame.intrinsics.numpy(), atol=1e-3)
        assert (image.camera.width, image.camera.height) == (frame.width, frame.height)
        for seen in image.points2D:
            there = image.project_point(model.points3D[seen.point3D_id].xyz)
            assert np.abs(there - seen.xy).max() < 0.5
    assert np.median([point.track.length() for point in model.points3D.values()]) >= 2


def test_transforms_lead_to_the_images(exported: Path, scene: PosedScene) -> None:
    content = json.loads((exported / "cameras" / "transforms.json").read_text())
    frame = content["frames"][3]
    path = (exported / "cameras" / frame["file_path"]).resolve()
    (own,) = [one for one in scene.frames.values() if one.image_path.resolve() == path]
    opengl = np.array(frame["transform_matrix"])
    assert np.allclose(opengl[:3, 3], own.center.numpy(), rtol=1e-4)
    point = own.center.numpy() - 700 * opengl[:3, 2] + 10 * opengl[:3, 1]  # forward is -z, up is +y
    camera = Cameras(own.w2c, own.intrinsics, own.height, own.width)
    x, y = camera.project(torch.tensor(point, dtype=torch.float32)[None]).pixels[0].tolist()
    assert x == pytest.approx(frame["cx"], abs=0.01)
    assert y == pytest.approx(frame["cy"] - frame["fl_y"] * 10 / 700, abs=0.01)
    assert (frame["w"], frame["h"]) == (own.width, own.height)


def test_depth_files_are_the_true_depth(exported: Path, scene: PosedScene) -> None:
    about = json.loads((exported / "depth" / "depth.json").read_text())
    view = next(iter(scene.frames))
    (name,) = file_names(scene, [view])
    depth = np.load(exported / "depth" / f"{name}.npy")
    assert depth.dtype == np.float32
    assert np.array_equal(depth, scene.depth(view))
    assert np.abs(read_uint16(exported / "depth" / f"{name}.png") * about["png_scale"] - depth).max() < 0.02
    assert read_uint16(exported / "depth" / f"{name}_confidence.png").min() == 65535
    assert Image.open(exported / "depth" / f"{name}_color.png").size == (WIDTH, HEIGHT)
    (own,) = [one for one in about["views"] if one["name"] == name]
    assert np.allclose(own["w2c"], scene.frames[view].w2c)
    assert len(about["views"]) == len(scene.frames)


def test_sources_are_other_training_views(scene: PosedScene) -> None:
    model = TruthModel(scene)
    views = [scene.train_views[0], scene.held_out_views[0]]
    render_views(model, scene, views, 3, device=CPU)
    for view, (sources, _) in zip(views, model.encoded, strict=True):
        assert len(sources) == 3
        assert view not in sources
        assert set(sources) <= set(scene.train_views)


def test_transparent_and_border_depth_is_unknown() -> None:
    depth = torch.tensor([[[5.0, 5.0, 1.005, 9.99, 5.0]]])
    maps = Renderings(
        ("a",),
        Cameras(torch.eye(4)[None], torch.eye(3)[None], 1, 5),
        depth,
        torch.zeros(1, 1, 5, 3),
        torch.tensor([[[0.9, 0.4, 0.9, 0.9, 0.05]]]),
        torch.tensor([1.0]),
        torch.tensor([10.0]),
    ).depth_maps()
    assert maps.depth.tolist() == [[[5.0, 0.0, 0.0, 0.0, 0.0]]]
    assert maps.free_until.tolist() == [[[0.0, 0.0, 0.0, 0.0, 10.0]]]


def test_cameras_alone_need_no_model(
    general: Path, data_root: Path, scene: PosedScene, tmp_path: Path, truth: mock.Mock
) -> None:
    views = tuple(scene.frames)[:3]
    report = command.export(
        options(general, data_root, tmp_path, what=("cameras",), colmap_text=True, views=views, imgScale_test=0.5)
    )
    assert not truth.called
    assert report["cameras"]["images"] == 3
    model = pycolmap.Reconstruction(tmp_path / "cameras" / "sparse" / "0")
    assert (tmp_path / "cameras" / "sparse" / "0" / "cameras.txt").is_file()
    assert {(camera.width, camera.height) for camera in model.cameras.values()} == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize("mesh_format", ["glb", "obj"])
def test_kept_renderings_are_used_again_and_products_replaced(
    mesh_format: str, general: Path, data_root: Path, tmp_path: Path, truth: mock.Mock
) -> None:
    changes = {"keep_renderings": True, "what": ("mesh", "depth"), "mesh_format": mesh_format, "voxels": 16}
    first = command.export(options(general, data_root, tmp_path, **changes))
    (tmp_path / "depth" / "stale.npy").touch()
    again = command.export(options(general, data_root, tmp_path, **changes))
    assert truth.call_count == 1
    assert again["mesh"] == first["mesh"]
    assert not (tmp_path / "depth" / "stale.npy").exists()
    mesh = trimesh.load(tmp_path / f"mesh.{mesh_format}", force="mesh", process=False)
    assert len(mesh.faces) == first["mesh"]["faces"]
    command.export(options(general, data_root, tmp_path, **changes, n_views=4))
    assert truth.call_count == 2


def test_a_failure_leaves_nothing(general: Path, data_root: Path, tmp_path: Path, truth: mock.Mock) -> None:
    with mock.patch.object(command, "write_depth", side_effect=RuntimeError("disk")), pytest.raises(RuntimeError):
        command.export(options(general, data_root, tmp_path / "out", what=("points", "depth")))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="expected pixels whose depth 3 other views confirm"):
        command.export(options(general, data_root, tmp_path / "out", depth_tolerance=1e-9))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxels": 64}, "--voxels: belongs to --what mesh, got --what points"),
        ({"normals": True, "what": ("mesh",)}, "--normals: belongs to --what points"),
        ({"agreeing": 2, "what": ("depth",)}, "--agreeing: belongs to --what points or mesh or cameras"),
        ({"agreeing": 2, "what": ("cameras",)}, "--agreeing: belongs to points"),
        ({"colmap_points": 5}, "--colmap_points: belongs to --what cameras"),
        ({"what": ("points", "splats")}, r"--what: expected some of .* got \['splats'\]"),
        ({"long": True}, "--long: belongs to --from vggt"),
        ({"origin": "vggt"}, "--ckpt: belongs to --from model"),
        ({"origin": "vggt", "ckpt": "", "min_opacity": 0.1}, "--min_opacity: belongs to --from model"),
        ({"origin": "vggt", "ckpt": "", "images": "x"}, "--datadir: belongs to a data set"),
        ({"origin": "sfm"}, "--from: expected one of model, vggt"),
        ({"voxels": 64, "voxel_size": 1.0, "what": ("mesh",)}, "--voxels: expected no --voxel_size"),
        ({"mesh_format": "stl", "what": ("mesh",)}, "--mesh_format: expected ply, glb, obj"),
        ({"min_opacity": 1.5}, "--min_opacity: expected 0 to 1"),
        ({"out": ""}, "--out: expected a folder"),
        ({"views": (1, 99)}, r"--views: expected views of .* got \[99\]"),
        ({"n_views": 17}, "expected 17 source views"),
        ({"agreeing": 40}, "--agreeing: expected 0 to 10"),
    ],
)
def test_wrong_options(
    changes: dict[str, Any], message: str, general: Path, data_root: Path, tmp_path: Path, truth: mock.Mock
) -> None:
    with pytest.raises(InputError, match=message):
        command.export(options(general, data_root, **{"out": tmp_path / "out", **changes}))
    assert list(tmp_path.iterdir()) == []


def test_skew_is_refused() -> None:
    intrinsics = torch.tensor([[50.0, 1.0, 16], [0, 50, 12], [0, 0, 1]])
    with pytest.raises(InputError, match="without skew"):
        PhotoCameras(Path(), ("a.png",), (Cameras(torch.eye(4), intrinsics, 24, 32),))


def sphere_prediction(count: int) -> Prediction:
    """A prediction that is right; files are twice as large as its maps, the last map has fewer rows."""
    maps = sphere_maps(count=count, size=32)
    views = []
    for index in range(count):
        rows = 32 if index < count - 1 else 24
        camera = maps.cameras[index].cropped(0, 0, rows, 32).resized(2 * rows, 64)
        confidence = torch.where(maps.depth[index] > 0, 10.0, 1.0)
        image = maps.colors[index].permute(2, 0, 1).float() / 255
        views.append(
            PredictedView(f"{index}.png", camera, image[:, :rows], maps.depth[index, :rows], confidence[:rows])
        )
    return Prediction(tuple(views), warnings=("a warning",))


def test_vggts_own_cameras_and_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 12
    prediction = sphere_prediction(count)
    for view in prediction.views:
        image = np.zeros((view.camera.height, view.camera.width, 3), np.uint8)
        write_image(tmp_path / "photos" / view.name, image)
    paths = sorted((tmp_path / "photos").iterdir())
    prediction = Prediction(
        tuple(next(view for view in prediction.views if view.name == path.name) for path in paths),
        warnings=prediction.warnings,
    )
    with mock.patch.object(command, "predict", return_value=prediction) as predict:
        arguments = f"--from vggt --images {tmp_path / 'photos'} --long --chunk_size 8 --device cpu --voxels 24"
        command.main([*arguments.split(), "--what", *ALL, "--out", str(tmp_path / "out")])
    assert predict.call_args.kwargs["chunk_size"] == 8
    assert "warning: a warning" in capsys.readouterr().out
    points = trimesh.load(tmp_path / "out" / "points.ply").vertices
    assert len(points) > 500
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 0.05
    model = pycolmap.Reconstruction(tmp_path / "out" / "cameras" / "sparse" / "0")
    assert model.num_points3D() == len(points)
    sizes = {image.name: (image.camera.width, image.camera.height) for image in model.images.values()}
    assert sizes == {f"{index}.png": (64, 64 if index < count - 1 else 48) for index in range(count)}
    for image in model.images.values():
        view = prediction.views[paths.index(tmp_path / "photos" / image.name)]
        assert np.allclose(image.cam_from_world().matrix(), view.camera.w2c[:3].numpy(), atol=1e-5)
    assert np.load(tmp_path / "out" / "depth" / "0.npy").shape == (32, 32)


def test_percentile_leaves_out_the_least_confident() -> None:
    renderings = predicted_views(["a", "b", "c"], sphere_prediction(3))
    renderings.confidence[0] *= 0.5
    known = renderings.confident_depth_maps(50.0).depth > 0
    assert known[0].sum() == 0
    assert known[1].sum() == (renderings.depth[1] > 0).sum()
    assert (renderings.confident_depth_maps(0.0).depth > 0).sum() == (renderings.depth > 0).sum()
