"""The command from options to files, which other programs' libraries read back; a model that knows the truth."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import trimesh
from PIL import ExifTags, Image
from scipy.spatial import cKDTree

from data.colmap_library import pycolmap
from data.image_io import image_size, read_image, read_uint16
from data.point_cloud import colored_points
from data.readers.registry import read_scenes
from data.scene import PosedScene
from geometry import Cameras, InputError
from models.nerf.depth_range import FARTHER, DepthRange
from models.nerf.renderer import TargetView
from render.export import __main__ as command
from render.export.cameras import names_in, of_files, of_scene, write_cameras
from render.export.options import ExportOptions
from render.export.renderings import Renderings, file_names, render_views, save_renderings, saved_renderings
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


def options(general: Path, data_root: Path, folder: Path, **changes: Any) -> ExportOptions:
    usual = {"ckpt": str(general), "datadir": str(data_root), "scan": SCAN, "device": "cpu", "out": str(folder)}
    return ExportOptions(**usual | changes)


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
    path = exported / "cameras" / frame["file_path"]
    (own,) = [one for one in scene.frames.values() if one.image_path.read_bytes() == path.read_bytes()]
    opengl = np.array(frame["transform_matrix"])
    assert np.allclose(opengl[:3, 3], own.center.numpy(), rtol=1e-4)
    point = own.center.numpy() - 700 * opengl[:3, 2] + 10 * opengl[:3, 1]  # forward is -z, up is +y
    camera = Cameras(own.w2c, own.intrinsics, own.height, own.width)
    x, y = camera.project(torch.tensor(point, dtype=torch.float32)[None]).pixels[0].tolist()
    assert x == pytest.approx(frame["cx"], abs=0.01)
    assert y == pytest.approx(frame["cy"] - frame["fl_y"] * 10 / 700, abs=0.01)
    assert (frame["w"], frame["h"]) == (own.width, own.height)
    points = trimesh.load(exported / "cameras" / content["ply_file_path"]).vertices
    assert 100 < len(points) <= 200


@pytest.mark.parametrize("reader", ["colmap", "transforms"])
def test_the_readers_of_this_code_read_the_cameras_back(reader: str, exported: Path, scene: PosedScene) -> None:
    (again,) = read_scenes(reader, str(exported / "cameras"), split="all", scans=None)
    names = names_in([frame.image_path for frame in scene.frames.values()])
    by_name = dict(zip(names, scene.frames.values(), strict=True))
    assert len(again.frames) == len(by_name)
    for view, frame in again.frames.items():
        own = by_name[frame.image_path.name]
        assert torch.allclose(frame.w2c, own.w2c, atol=1e-3)
        assert torch.allclose(frame.intrinsics, own.intrinsics, atol=1e-3)
        assert np.array_equal(again.image(view), scene.image(own.view_id))
        assert own.near * 0.8 < frame.near < frame.far < own.far * 1.2  # around the points, with the reader's margin


def test_photographs_with_distortion_are_written_without_it(exported: Path, tmp_path: Path) -> None:
    """The cameras are pinholes: the files beside them must be what they see."""
    source = tmp_path / "lens"
    shutil.copytree(exported / "cameras" / "images", source / "images")
    content = json.loads((exported / "cameras" / "transforms.json").read_text()) | {"k1": -0.2}
    (source / "transforms.json").write_text(json.dumps(content))
    shutil.copy(exported / "cameras" / "points.ply", source)
    (bent,) = read_scenes("transforms", str(source), split="all", scans=None)
    views = list(bent.frames)[:3]
    write_cameras(tmp_path / "out", of_scene(bent, views))
    (straight,) = read_scenes("transforms", str(tmp_path / "out"), split="all", scans=None)
    for view, again in zip(views, straight.frames, strict=True):
        assert torch.allclose(straight.frames[again].intrinsics, bent.frames[view].intrinsics, atol=1e-3)
        assert np.array_equal(straight.image(again), bent.image(view))
        assert not np.array_equal(read_image(bent.frames[view].image_path), bent.image(view))


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


class OpenModel(TruthModel):
    """Marches far beyond the data's bounds, or as far as it finds right itself."""

    is_auto = False

    def view(self, maps: Any, camera: Cameras, near: torch.Tensor, far: torch.Tensor) -> TargetView:
        bounds = replace(DepthRange.of_data(near, far).opened(), is_auto=torch.tensor([self.is_auto]))
        return replace(super().view(maps, camera, near, far), bounds=bounds)


@pytest.mark.parametrize("is_auto", [False, True])
def test_the_scene_ends_at_the_datas_far_unless_vggt_says_where(is_auto: bool, scene: PosedScene) -> None:
    model, view = OpenModel(scene), scene.train_views[0]
    model.is_auto = is_auto
    rendered = render_views(model, scene, [view], 3, device=CPU)
    far = scene.near_far([view])[1]
    assert torch.equal(rendered.far, FARTHER * far)
    assert torch.equal(rendered.scene_far, rendered.far if is_auto else far)


def test_transparent_and_border_depth_is_unknown() -> None:
    depth = torch.tensor([[[5.0, 5.0, 1.005, 9.99, 5.0, 8.0]]])  # near 1, far 10, the scene ends at 6
    renderings = Renderings(
        ("a",),
        Cameras(torch.eye(4)[None], torch.eye(3)[None], 1, 6),
        depth,
        torch.zeros(1, 1, 6, 3),
        torch.tensor([[[0.9, 0.4, 0.9, 0.9, 0.05, 0.9]]]),
        torch.tensor([1.0]),
        torch.tensor([10.0]),
        torch.tensor([6.0]),
    )
    maps = renderings.depth_maps()
    assert maps.depth.tolist() == [[[5.0, 0.0, 0.0, 0.0, 0.0, 0.0]]]
    assert maps.free_until.tolist() == [[[0.0, 0.0, 0.0, 0.0, 10.0, 0.0]]]
    assert renderings.depth_maps(keeps_background=True).depth.tolist() == [[[5.0, 0.0, 0.0, 0.0, 0.0, 8.0]]]


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


def test_kept_renderings_are_used_again_and_products_replaced(
    general: Path, data_root: Path, scene: PosedScene, tmp_path: Path, truth: mock.Mock
) -> None:
    usual = {"keep_renderings": True, "views": tuple(scene.frames)[:8], "what": ("mesh", "depth"), "voxels": 16}
    first = command.export(options(general, data_root, tmp_path, **usual, mesh_format="glb"))
    (tmp_path / "depth" / "stale.npy").touch()
    again = command.export(options(general, data_root, tmp_path, **usual, mesh_format="obj"))
    assert truth.call_count == 1
    assert again["mesh"] == first["mesh"]
    assert not (tmp_path / "depth" / "stale.npy").exists()
    for mesh_format in ("glb", "obj"):
        mesh = trimesh.load(tmp_path / f"mesh.{mesh_format}", force="mesh", process=False)
        assert len(mesh.faces) == first["mesh"]["faces"] > 0
        assert mesh.visual.vertex_colors[:, :3].std() > 1
        assert mesh.area == pytest.approx(first["mesh"]["area"], rel=1e-4)
    command.export(options(general, data_root, tmp_path, **usual | {"what": ("depth",), "voxels": None}, n_views=4))
    assert truth.call_count == 2


def test_renderings_kept_are_of_everything_that_they_depend_on(
    general: Path, data_root: Path, scene: PosedScene
) -> None:
    def key(**changes: Any) -> str:
        return command._cache_key(options(general, data_root, Path("out"), **changes), scene, (1, 2))

    changes = {"quality": "full", "near_far": "open", "n_views": 4, "imgScale_test": 0.25, "image_factor": 2}
    assert len({key(), *(key(**{name: value}) for name, value in changes.items())}) == 1 + len(changes)


def test_damaged_and_older_renderings_are_made_again(tmp_path: Path) -> None:
    path, renderings = tmp_path / "kept.npz", predicted_views(["a"], sphere_prediction(1, [(64, 64)]))
    save_renderings(path, renderings, "key")
    again = saved_renderings(path, "key")
    assert again is not None
    assert torch.equal(again.depth, renderings.depth)
    assert torch.equal(again.cameras.w2c, renderings.cameras.w2c)
    assert saved_renderings(path, "another key") is None
    with np.load(path) as file:
        older = {name: file[name] for name in file.files if name != "scene_far"}
    np.savez(path, **older)
    assert saved_renderings(path, "key") is None
    path.write_bytes(path.read_bytes()[:500])
    assert saved_renderings(path, "key") is None


def test_a_failure_leaves_nothing(
    general: Path, data_root: Path, scene: PosedScene, tmp_path: Path, truth: mock.Mock
) -> None:
    views = tuple(scene.frames)[:11]
    with mock.patch.object(command, "write_depth", side_effect=RuntimeError("disk")), pytest.raises(RuntimeError):
        command.export(options(general, data_root, tmp_path / "out", what=("depth",), views=views[:2]))
    assert list(tmp_path.iterdir()) == []
    # depth that comes back to the last bit from 10 of 10 views; from 3 of them it does in some pixels
    with pytest.raises(InputError, match="expected pixels whose depth 10 other views confirm"):
        command.export(options(general, data_root, tmp_path / "out", depth_tolerance=1e-9, agreeing=10, views=views))
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
        ({"origin": "vggt", "ckpt": "", "quality": "full"}, "--quality: belongs to --from model"),
        ({"origin": "vggt", "ckpt": "", "images": "x"}, "--datadir: belongs to a data set"),
        ({"origin": "vggt", "ckpt": "", "max_side": 64}, "--max_side: expected --images beside it"),
        ({"max_images": 9}, "--max_images: belongs to --from vggt"),
        ({"origin": "sfm"}, "--from: expected one of model, vggt"),
        ({"voxels": 64, "voxel_size": 1.0, "what": ("mesh",)}, "--voxels: expected no --voxel_size"),
        ({"mesh_format": "stl", "what": ("mesh",)}, "--mesh_format: expected ply, glb, obj"),
        ({"min_opacity": 1.5}, "--min_opacity: expected 0 to 1"),
        ({"spacing": math.inf}, "--spacing: expected 0 or more, got inf"),
        ({"depth_tolerance": math.inf}, "--depth_tolerance: expected a positive number, got inf"),
        ({"truncation": math.inf, "what": ("mesh",)}, "--truncation: expected 2 or more, got inf"),
        ({"voxels": 5000, "what": ("mesh",)}, "--voxels: expected 8 to 4096, got 5000"),
        ({"out": ""}, "--out: expected a folder"),
        ({"views": (14, 98, 99)}, r"--views: expected views of .* got \[98, 99\]"),
        ({"n_views": 17}, "expected 17 source views"),
        ({"agreeing": 40}, "--agreeing: expected 0 to 10"),
    ],
)
def test_wrong_options(
    changes: dict[str, Any], message: str, general: Path, data_root: Path, tmp_path: Path, truth: mock.Mock
) -> None:
    with pytest.raises(InputError, match=message):
        command.export(options(general, data_root, tmp_path / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_photographs_that_are_not_there() -> None:
    with pytest.raises(InputError, match="--images: expected a folder of photographs or a video, got 'nowhere'"):
        ExportOptions(origin="vggt", images="nowhere", out="out")


def test_wrong_options_of_photographs(tmp_path: Path) -> None:
    photographs: dict[str, Any] = {"origin": "vggt", "images": str(tmp_path), "out": str(tmp_path / "out")}
    with pytest.raises(InputError, match="--chunk_size: expected 2 or more, got 1"):
        ExportOptions(**photographs, long=True, chunk_size=1)
    with pytest.raises(InputError, match="--max_side: expected at least 64 pixels, got 0"):
        command.export(ExportOptions(**photographs, max_side=0))
    with pytest.raises(InputError, match="--max_images: expected at least 3, got 0"):
        command.export(ExportOptions(**photographs, max_images=0))


def test_skew_is_refused() -> None:
    intrinsics = torch.tensor([[50.0, 1.0, 16], [0, 50, 12], [0, 0, 1]])
    with pytest.raises(InputError, match="without skew"):
        of_files([Path("a.png")], [Cameras(torch.eye(4), intrinsics, 24, 32)])


def sphere_prediction(count: int, sizes: Sequence[tuple[int, int]]) -> Prediction:
    """A prediction that is right for files of the given sizes (height, width)."""
    maps = sphere_maps(count=count, size=32)
    views = []
    for index, (height, width) in enumerate(sizes):
        rows = round(32 * height / width)
        camera = maps.cameras[index].cropped(0, 0, rows, 32).resized(height, width)
        confidence = torch.where(maps.depth[index] > 0, 10.0, 1.0)
        image = maps.colors[index].permute(2, 0, 1).float() / 255
        views.append(
            PredictedView(f"{index}.jpg", camera, image[:, :rows], maps.depth[index, :rows], confidence[:rows])
        )
    return Prediction(tuple(views), warnings=("a warning",))


def test_vggts_own_cameras_and_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photographs of several formats, sizes and orientations, and one file that is none."""
    count = 12
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "notes.txt").touch()
    noise = np.random.default_rng(0)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for index in range(count):
        image = Image.fromarray(noise.integers(0, 255, (96, 96, 3), dtype=np.uint8))
        if index == 0:
            image.save(photos / "0.png")
        elif index == 1:
            image.resize((72, 96)).save(photos / "1.jpg", exif=turned)  # seen as 96 x 72
        else:
            image.save(photos / f"{index}.webp", lossless=True)

    def predict(paths: Sequence[Path], *_: Any, **given: Any) -> Prediction:
        assert given["chunk_size"] == 8
        return sphere_prediction(count, [image_size(path) for path in paths])

    with mock.patch.object(command, "predict", side_effect=predict):
        arguments = f"--from vggt --images {photos} --max_side 64 --long --chunk_size 8 --device cpu --voxels 24"
        command.main([*arguments.split(), "--what", *ALL, "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "warning: a warning" in shown
    assert "warning: ignored, because they are no photographs: 1 .txt file" in shown
    points = trimesh.load(tmp_path / "out" / "points.ply").vertices
    assert len(points) > 500
    assert np.abs(np.linalg.norm(points, axis=1) - 1).max() < 0.05
    model = pycolmap.Reconstruction(tmp_path / "out" / "cameras" / "sparse" / "0")
    assert model.num_points3D() == len(points)
    sizes = [(model.images[one].camera.height, model.images[one].camera.width) for one in sorted(model.images)]
    assert sorted(sizes) == [(48, 64)] + [(64, 64)] * (count - 1)
    names = [model.images[one].name for one in sorted(model.images)]
    assert [image_size(tmp_path / "out" / "cameras" / "images" / name) for name in names] == sizes
    for number, view in zip(sorted(model.images), sphere_prediction(count, sizes).views, strict=True):
        assert np.allclose(model.images[number].cam_from_world().matrix(), view.camera.w2c[:3].numpy(), atol=1e-5)
    assert len(read_scenes("colmap", str(tmp_path / "out" / "cameras"), split="all", scans=None)[0].frames) == count
    assert np.load(tmp_path / "out" / "depth" / f"{Path(names[0]).stem}.npy").shape == (32, 32)


def test_percentile_leaves_out_the_least_confident() -> None:
    renderings = predicted_views(["a", "b", "c"], sphere_prediction(3, [(64, 64)] * 3))
    renderings.confidence[0] *= 0.5
    known = renderings.confident_depth_maps(50.0).depth > 0
    assert known[0].sum() == 0
    assert known[1].sum() == (renderings.depth[1] > 0).sum()
    assert (renderings.confident_depth_maps(0.0).depth > 0).sum() == (renderings.depth > 0).sum()
