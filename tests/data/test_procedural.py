"""The procedural generator: closed forms, two-view consistency through the real reader, equal bytes, refusals."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.procedural import Scene, dtu_rig, make_scene, orbit_rig, render_view, rigs
from data.procedural.__main__ import main
from data.procedural.generate import claim_folder
from data.procedural.layout_parts import GeneratorSettings
from data.procedural.scene import Item, Light
from data.procedural.shapes import Box, Ellipsoid, Frustum, Shape, Torus
from data.procedural.textures import NoiseTexture, available_photos, photo_pyramid
from data.readers.blendedmvs import read_blendedmvs
from data.readers.dtu import read_dtu
from geometry import Cameras, InputError, Views, sample_at_pixels

DTU = ["--layout", "dtu", "--width", "40", "--height", "32", "--views", "20"]


def _scene(*shapes: Shape, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Scene:
    texture = NoiseTexture(palette=np.full((3, 3), 0.5), cell=3.0, veins=0.0, offset=np.zeros(3))
    items = tuple(Item(shape, texture, np.eye(3), np.array(center), 0.0, 1.0, casts_shadow=True) for shape in shapes)
    return Scene(items=items, lights=(Light(np.array([0.0, 0.0, 1.0]), np.ones(3), ambient=0.4),))


def _camera(distance: float, *, size: int = 33) -> Cameras:
    """On the z axis, looking down at the origin; the principal point is the center of the middle pixel."""
    w2c = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    w2c[2, 3] = distance
    middle = size / 2
    intrinsics = torch.tensor([[200.0, 0, middle], [0, 200.0, middle], [0, 0, 1]], dtype=torch.float64)
    return Cameras(w2c, intrinsics, height=size, width=size)


def test_sphere_depth_is_distance_minus_radius():
    depth = render_view(_scene(Ellipsoid(np.full(3, 25.0))), _camera(500.0), light=0).depth
    assert depth[16, 16] == pytest.approx(475.0, abs=1e-4)
    # 8 pixels off: ray (0.04, 0, 1) t, |p| = 25
    root = np.sqrt(500.0**2 - (1 + 0.04**2) * (500.0**2 - 25.0**2))
    assert depth[16, 24] == pytest.approx((500.0 - root) / (1 + 0.04**2), abs=1e-4)
    assert depth[0, 0] == 0


def test_plane_depth_is_camera_z():
    depth = render_view(_scene(Box(np.array([500.0, 500.0, 7.0]))), _camera(500.0), light=0).depth
    np.testing.assert_allclose(depth, 493.0, rtol=1e-6)


SHAPES = (
    Ellipsoid(np.array([20.0, 30.0, 12.0])),
    Box(np.array([10.0, 24.0, 16.0])),
    Frustum(bottom=18.0, top=18.0, half_height=20.0),
    Frustum(bottom=25.0, top=0.0, half_height=20.0),
    Frustum(bottom=12.0, top=22.0, half_height=9.0),
    Torus(major=20.0, minor=7.0),
)


def _inside(shape: Shape, points: np.ndarray) -> np.ndarray:
    x, y, z = points
    if isinstance(shape, Ellipsoid):
        return ((points / shape.radii[:, None]) ** 2).sum(0) < 1
    if isinstance(shape, Box):
        return (np.abs(points) < shape.half[:, None]).all(0)
    if isinstance(shape, Frustum):
        fraction = (z + shape.half_height) / (2 * shape.half_height)
        return (np.hypot(x, y) < shape.bottom + fraction * (shape.top - shape.bottom)) & (abs(z) < shape.half_height)
    return np.hypot(np.hypot(x, y) - shape.major, z) < shape.minor


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_first_hit_agrees_with_dense_marching(shape: Shape):
    rng = np.random.default_rng(0)
    origin = rng.standard_normal((3, 400))
    origin *= 90 / np.linalg.norm(origin, axis=0)
    direction = rng.uniform(-28, 28, (3, 400)) - origin
    with np.errstate(all="ignore"):
        t = shape.intersect(origin, direction)
    steps = np.linspace(0, 2, 8001)
    marched = np.full(400, np.inf)
    for ray in range(400):
        inside = _inside(shape, origin[:, ray, None] + steps * direction[:, ray, None])
        if inside.any():
            marched[ray] = steps[inside.argmax()]
    is_clear = np.isfinite(marched)
    assert is_clear.sum() > 100
    assert (np.isfinite(t) >= is_clear).all()
    assert (np.isfinite(t) & ~is_clear).mean() < 0.02
    assert np.abs(t[is_clear] - marched[is_clear]).max() < 2 * (steps[1] - steps[0])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_normals_point_out_and_support_bounds_the_surface(shape: Shape):
    rng = np.random.default_rng(1)
    origin = rng.standard_normal((3, 500))
    origin *= 90 / np.linalg.norm(origin, axis=0)
    direction = rng.uniform(-15, 15, (3, 500)) - origin
    with np.errstate(all="ignore"):
        t = shape.intersect(origin, direction)
    hit = np.isfinite(t)
    points = origin[:, hit] + t[hit] * direction[:, hit]
    normals = shape.normal(points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-9)
    assert (_inside(shape, points - 1e-4 * normals) & ~_inside(shape, points + 1e-4 * normals)).mean() > 0.99
    assert np.linalg.norm(points, axis=0).max() <= shape.bounding_radius + 1e-9
    toward = np.array([0.6, 0.0, 0.8])
    assert (toward @ points).max() <= shape.support(toward) + 1e-9


def test_dtu_rig_is_the_real_one():
    """Released camera files of DTU, views 0 and 44, against the closed form."""
    cameras = rigs.dtu_world(dtu_rig(512, 640))
    expected = torch.tensor([-191.02, 3.288, 22.54], dtype=torch.float64)
    assert (cameras.w2c[0, :3, 3] - expected).norm() < 12
    assert cameras.w2c[0, 0, 0] == pytest.approx(0.97026, abs=0.02)
    torch.testing.assert_close(cameras.intrinsics[0, 0, 2].item(), 4 * 82.9007 + 0.5)
    angles = rigs.view_angles(dtu_rig(512, 640))
    nearest = np.sort(angles, axis=1)[:, 1]
    assert 10.5 < nearest.min() < nearest.max() < 13.5


def test_content_of_scenes_is_inside_dtu_depth_range():
    rig = dtu_rig(16, 20)
    for seed in range(6):
        scene = make_scene((3, seed))
        assert 6 <= len(scene.items) <= 22
        for view in (4, 16, 38, 48):
            depth = render_view(scene, rig[view]).depth
            assert depth[depth > 0].min() > rigs.DTU_NEAR
            assert depth.max() < rigs.DTU_FAR


def test_pictures_are_well_exposed():
    rig = dtu_rig(32, 40)
    pictures = np.stack([render_view(make_scene((0, seed)), rig[24]).rgb for seed in range(6)])
    assert 0.25 < pictures.mean() < 0.6
    assert (pictures > 0.995).mean() < 0.03
    assert pictures.dtype == np.float32


def test_lights_change_color_and_not_depth():
    scene, camera = make_scene(5), dtu_rig(32, 40)[24]
    first, second = render_view(scene, camera, light=0), render_view(scene, camera, light=4)
    np.testing.assert_array_equal(first.depth, second.depth)
    assert np.abs(first.rgb - second.rgb).mean() > 0.02


def test_photographs_come_from_the_installed_wheel():
    assert {"astronaut.png", "chelsea.png", "coffee.png"} <= set(available_photos())
    for name in available_photos():
        assert photo_pyramid(name)[0].mean() == pytest.approx(0.5, abs=0.12)


def _files(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("procedural") / "one_worker"
    main([*DTU, "--out", str(out), "--scenes", "2", "--workers", "1"])
    return out


def test_resuming_extending_and_more_workers_give_the_same_bytes(one_worker: Path, tmp_path: Path):
    arguments = [*DTU, "--out", str(tmp_path / "out"), "--scenes"]
    main([*arguments, "1", "--workers", "1"])
    picture = tmp_path / "out" / "Rectified" / "scan1_train" / "rect_024_3_r5000.png"
    written = picture.stat().st_mtime_ns
    main([*arguments, "2", "--workers", "2"])
    assert picture.stat().st_mtime_ns == written
    assert _files(one_worker) == _files(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tmp"))


def _reprojection_errors(views: Views, first: int, second: int) -> np.ndarray:
    """Pixels of `first` -> surface -> `second` -> surface as seen there -> `first`: distance to where they began.

    Occluded pixels and depth edges are left out. 1 / depth is linear on planes, so it is what gets interpolated.
    """
    cameras, depth = views.cameras, views.depth
    height, width = depth.shape[-2:]
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([xs, ys], -1).reshape(-1, 2).double()
    cameras = cameras.map(lambda tensor: tensor.double())
    start = depth[first].reshape(-1).double()
    seen = cameras[second].project(cameras[first].unproject(pixels, start))
    inverse = 1 / depth[second].double()
    sampled = 1 / sample_at_pixels(inverse[None, None], seen.pixels[None], height, width)[0, :, 0]
    ends = cameras[first].project(cameras[second].unproject(seen.pixels, sampled))
    is_same = seen.visible & (start > 0) & ((sampled / seen.depth - 1).abs() < 2e-3)
    assert is_same.float().mean() > 0.15
    return (ends.pixels - pixels).norm(dim=-1)[is_same].numpy()


def test_reader_sees_consistent_cameras_and_depth(tmp_path: Path):
    arguments = ["--layout", "dtu", "--width", "160", "--height", "128", "--views", "20", "--first_scan", "7"]
    main([*arguments, "--out", str(tmp_path / "out"), "--scenes", "1", "--workers", "1"])
    (scene,) = read_dtu(tmp_path / "out", split="all")
    assert scene.name == "scan7/light3"
    assert scene.held_out_views == rigs.DTU_HELD_OUT_VIEWS
    assert scene.train_views == rigs.DTU_TRAIN_VIEWS
    views = scene.views((24, 25, 23, 32))
    assert views.depth.shape == (4, 128, 160)
    assert views.near[0] == 425
    assert views.far[0] == 905
    errors = np.concatenate([_reprojection_errors(views, 0, other) for other in (1, 2, 3)])
    assert np.median(errors) < 0.01
    assert np.quantile(errors, 0.9) < 0.05
    rendered = render_view(make_scene((0, 0)), dtu_rig(128, 160)[24])
    np.testing.assert_array_equal(views.depth[0].numpy(), rendered.depth)
    assert np.abs(views.images[0].permute(1, 2, 0).numpy() - rendered.rgb).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("layout", ["dtu", "blendedmvs"])
def test_the_fast_tracer_writes_the_same_scenes(layout: str, tmp_path: Path):
    views = {"dtu": "20", "blendedmvs": "8"}[layout]
    size = ["--layout", layout, "--width", "64", "--height", "48", "--views", views, "--scenes", "1", "--workers", "1"]
    for tracer in ("exact", "fast"):
        main([*size, "--tracer", tracer, "--out", str(tmp_path / tracer)])
    read = {"dtu": read_dtu, "blendedmvs": read_blendedmvs}[layout]
    scenes = [read(tmp_path / name, split="all")[0] for name in ("exact", "fast")]
    exact, fast = (scene.views(scene.train_views[:2]) for scene in scenes)
    torch.testing.assert_close(exact.cameras, fast.cameras, atol=0, rtol=0)
    same = (exact.depth - fast.depth).abs() <= 1e-3 * exact.depth
    assert same.float().mean() > 0.99
    assert (exact.images - fast.images).abs().mean() < 0.05


def test_neighbors_are_the_nearest_by_angle(one_worker: Path):
    scene = read_dtu(one_worker, split="all")[0]
    centers = {view: torch.linalg.inv(frame.w2c)[:3, 3] for view, frame in scene.frames.items()}
    for view, others in scene.neighbors.items():
        distances = [(centers[view] - centers[other]).norm().item() for other in others[:10]]
        assert np.diff(distances).min() > -0.01
    assert set(scene.neighbors[24][:4]) == {14, 23, 25, 32}


def test_blendedmvs_reader_sees_consistent_cameras_and_depth(tmp_path: Path):
    arguments = ["--layout", "blendedmvs", "--width", "96", "--height", "72", "--views", "12"]
    main([*arguments, "--out", str(tmp_path / "out"), "--scenes", "1", "--workers", "1"])
    (scene,) = read_blendedmvs(tmp_path / "out", split="all")
    view = 0
    views = scene.views((view, *scene.neighbors[view][:2]))
    errors = np.concatenate([_reprojection_errors(views, 0, other) for other in (1, 2)])
    assert np.median(errors) < 0.05
    seen = views.depth[views.depth > 0]
    assert views.near[0] < seen.min()
    assert seen.max() < views.far[0] < 50


def test_orbit_goes_all_the_way_round():
    rig = orbit_rig(np.random.default_rng(0), 30, 72, 96)
    azimuths = torch.atan2(rig.centers[:, 1], rig.centers[:, 0])
    assert np.diff(np.sort(azimuths.numpy())).max() < 1.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "colmap"], "--layout: expected one of dtu, blendedmvs, co3d, vkitti, rooms_qa, got colmap"),
        (["--layout", "dtu", "--views", "5"], "--views: expected 20 to 49 for dtu, got 5"),
        (["--layout", "dtu", "--lights", "8"], "--lights: expected 1 to 7 for dtu, got 8"),
        (["--layout", "dtu", "--width", "8"], "--width: expected at least 32, got 8"),
        (["--layout", "dtu", "--workers", "0"], "--workers: expected 1 or more, got 0"),
        (["--layout", "dtu", "--scens", "3"], "unrecognized arguments: --scens 3"),
    ],
)
def test_bad_arguments_give_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as status:
        main(["--out", str(tmp_path / "out"), "--scenes", "1", *arguments])
    assert status.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_foreign_folder_and_other_settings_are_refused(one_worker: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main([*DTU, "--out", str(one_worker / "Cameras"), "--scenes", "1"])
    assert "expected an empty folder or one with procedural.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*DTU, "--out", str(one_worker), "--scenes", "1", "--seed", "9"])
    error = capsys.readouterr().err
    assert "'seed': 9" in error
    assert "'seed': 0" in error
    assert error.count("\n") == 1


def test_a_folder_of_before_there_were_two_tracers_was_made_by_the_exact_one(one_worker: Path, tmp_path: Path):
    settings = json.loads((one_worker / "procedural.json").read_text())
    settings.pop("tracer")
    (tmp_path / "procedural.json").write_text(json.dumps(settings))
    settings.pop("generator")
    claim_folder(tmp_path, GeneratorSettings(**settings))
    with pytest.raises(InputError, match="tracer"):
        claim_folder(tmp_path, GeneratorSettings(**settings, tracer="fast"))
