import numpy as np
import pytest
import torch

from data.image_io import write_image, write_pfm
from data.readers.dtu import read_dtu, read_dtu_depth
from data.readers.mvs_camera import read_mvs_camera
from geometry import InputError
from tests.data import tiny_scenes as tiny

CAMERA = """extrinsic
0.0 -1.0 0.0 -308.5
1.0 0.0 0.0 -434.25
0.0 0.0 1.0 301.125
0.0 0.0 0.0 1.0

intrinsic
361.5 0 82.9
0 360.25 66.4
0 0 1

425.0 2.5
"""


def test_camera_file_to_exact_numbers(tmp_path):
    (tmp_path / "cam.txt").write_text(CAMERA)
    camera = read_mvs_camera(tmp_path / "cam.txt")
    assert camera.w2c.tolist() == [[0, -1, 0, -308.5], [1, 0, 0, -434.25], [0, 0, 1, 301.125], [0, 0, 0, 1]]
    assert camera.intrinsics.tolist() == [[361.5, 0, 82.9], [0, 360.25, 66.4], [0, 0, 1]]
    assert camera.depth_range == (425, 905)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("425 2.5", (425, 905)),
        ("4.25 8.5", (4.25, 8.5)),
        ("1 0.5 10", (1, 6)),
        ("1 0.5 10 7", (1, 7)),
    ],
)
def test_depth_line(tmp_path, line, expected):
    (tmp_path / "cam.txt").write_text(CAMERA.replace("425.0 2.5", line))
    assert read_mvs_camera(tmp_path / "cam.txt").depth_range == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("425.0 2.5", "", "expected `extrinsic` and 16 numbers, `intrinsic` and 9, then 2 to 4, got 27 words"),
        ("361.5", "x", "expected numbers, got could not convert string to float: 'x'"),
        ("425.0 2.5", "9 0", "expected 0 < near < far, got near 9 and far 9 from the last line"),
    ],
)
def test_bad_camera_file(tmp_path, old, new, message):
    path = tmp_path / "cam.txt"
    path.write_text(CAMERA.replace(old, new))
    with pytest.raises(InputError) as error:
        read_mvs_camera(path)
    assert str(error.value) == f"{path}: {message}"


def test_reader(tmp_path):
    tiny.write_dtu(tmp_path, lights=(0, 3))
    scenes = read_dtu(tmp_path, split="train")
    assert [scene.name for scene in scenes] == ["scan24/light0", "scan24/light3"]
    assert [scene.name for scene in read_dtu(tmp_path, split="test")] == ["scan24/light3"]
    assert [scene.is_evaluated for scene in scenes] == [False, True]
    scene = scenes[0]
    assert (scene.train_views, scene.held_out_views) == ((1, 2, 3, 4, 5), (0,))
    assert scene.neighbors[0][:2] == (1, 2)
    assert len(scene.neighbors[0]) == 5
    views = scene.views([2, 4])
    assert views.images.shape == (2, 3, tiny.HEIGHT, tiny.WIDTH)
    assert torch.equal((views.images[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(tiny.picture(2)))
    # quarter K times 4 is K for integer centers, then + 0.5
    assert views.cameras.intrinsics[0].tolist() == [[100, 0, 40], [0, 100, 32], [0, 0, 1]]
    assert views.cameras.centers.tolist() == [[28, 0, 0], [56, 0, 0]]
    assert (views.near.tolist(), views.far.tolist()) == ([425, 425], [905, 905])
    assert views.depth.unique().tolist() == [700]
    assert views.mask.all()


def test_a_root_may_lack_nearly_everything(tmp_path):
    tiny.write_dtu(tmp_path)
    (tmp_path / "Rectified" / "scan24_train").rename(tmp_path / "Rectified" / "scan24")
    (tmp_path / "Rectified" / "scan24" / "rect_003_3_r5000.png").unlink()
    (tmp_path / "Depths").rename(tmp_path / "unused_depths")
    (tmp_path / "masks").rename(tmp_path / "unused_masks")
    problems = []
    (scene,) = read_dtu(tmp_path, split="train", report=problems.append)
    assert [str(problem) for problem in problems] == [
        f"{tmp_path / 'Rectified' / 'scan24' / 'rect_003_3_r5000.png'}: expected an image, got none"
    ]
    assert sorted(scene.frames) == [0, 1, 3, 4, 5]
    views = scene.views([0, 1])
    assert views.depth is None
    assert views.mask is None


def test_mvsnerf_view_split(tmp_path):
    tiny.write_dtu(tmp_path, views=26)
    (scene,) = read_dtu(tmp_path, split="train")
    assert scene.train_views == (25, 21, 22, 14, 15, 16)
    assert scene.held_out_views == (24, 23)


def test_own_lists(tmp_path):
    tiny.write_dtu(tmp_path, scans=("a", "b", "c"), views=4)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("# two\nc\na\n")
    (tmp_path / "lists" / "dtu_val_all.txt").write_text("b\n")
    assert [scene.scan for scene in read_dtu(tmp_path, split="train")] == ["a", "c"]
    assert [scene.scan for scene in read_dtu(tmp_path, split="test")] == ["b"]


def test_cameras_of_the_originals_are_halved_and_cropped(tmp_path):
    # 640x512 images are the middle of the halved 1600x1200 originals
    write_image(tmp_path / "Rectified" / "scan1_train" / "rect_001_3_r5000.png", np.zeros((512, 640, 3), np.uint8))
    (tmp_path / "Cameras").mkdir()
    intrinsics = np.array([[2892.0, 0, 820.0], [0, 2884.0, 618.0], [0, 0, 1]])
    (tmp_path / "Cameras" / "00000000_cam.txt").write_text(tiny.camera_text(np.eye(4), intrinsics, "425 2.5"))
    (scene,) = read_dtu(tmp_path, split="all")
    expected = [[1446, 0, 410 - 80 + 0.5], [0, 1442, 309 - 44 + 0.5], [0, 0, 1]]
    assert scene.frames[0].intrinsics.tolist() == expected


def test_original_depth_is_halved_and_cropped(tmp_path):
    write_image(tmp_path / "Rectified" / "scan1_train" / "rect_001_3_r5000.png", np.zeros((512, 640, 3), np.uint8))
    (tmp_path / "Cameras" / "train").mkdir(parents=True)
    (tmp_path / "Cameras" / "train" / "00000000_cam.txt").write_text(CAMERA)
    rows, columns = np.meshgrid(np.arange(1200), np.arange(1600), indexing="ij")
    write_pfm(tmp_path / "Depths" / "scan1" / "depth_map_0000.pfm", (rows * 1600 + columns).astype(np.float32))
    (scene,) = read_dtu(tmp_path, split="all")
    depth = read_dtu_depth(scene.frames[0])
    assert depth.shape == (512, 640)
    assert depth[0, 0] == 88 * 1600 + 160
    assert depth[-1, -1] == (88 + 2 * 511) * 1600 + 160 + 2 * 639


def test_wrong_depth_size(tmp_path):
    tiny.write_dtu(tmp_path)
    path = tmp_path / "Depths" / "scan24" / "depth_map_0001.pfm"
    write_pfm(path, np.ones((16, 20), np.float32))
    (scene,) = read_dtu(tmp_path, split="all")
    with pytest.raises(InputError) as error:
        scene.views([1])
    assert str(error.value) == f"{path}: expected a depth map of 80x64 or 200x150 (width x height), got 20x16"


def test_bad_cameras(tmp_path):
    tiny.write_dtu(tmp_path)
    path = tmp_path / "Cameras" / "train" / "00000001_cam.txt"
    good = path.read_text()

    def message() -> str:
        with pytest.raises(InputError) as error:
            read_dtu(tmp_path, split="train")
        return str(error.value)

    path.unlink()
    assert message() == f"{path}: expected a camera file, got none"
    path.write_text(good.replace("-14.0", "nan"))
    assert message() == f"{path}: expected finite camera matrices, got NaN or infinity"
    path.write_text(tiny.camera_text(tiny.w2c(1), tiny.intrinsics(), "425 2.5"))
    assert message() == (
        f"{path}: expected a principal point near the center of the 80x64 image, got (158.0, 126.0): "
        "intrinsics are for another image size?"
    )
    path.write_text(tiny.camera_text(2 * tiny.w2c(1), tiny.intrinsics(0.25), "425 2.5"))
    assert message().startswith(f"{path}: expected a rotation matrix, got ")


def test_unknown_scan_and_empty_root(tmp_path):
    with pytest.raises(InputError, match="expected Rectified/"):
        read_dtu(tmp_path, split="train")
    tiny.write_dtu(tmp_path)
    with pytest.raises(InputError) as error:
        read_dtu(tmp_path, split="train", scans=("scan9",))
    assert str(error.value) == f"{tmp_path}: expected scans that are there (scan24), got scan9"
    with pytest.raises(InputError) as error:
        read_dtu(tmp_path, split="train", scans=())
    assert str(error.value) == f"{tmp_path}: expected at least one scan name, got an empty list"


@pytest.mark.parametrize("is_nested", [False, True])
def test_idr_layout(tmp_path, is_nested):
    tiny.write_idr(tmp_path / "scan7")
    (scene,) = read_dtu(tmp_path if is_nested else tmp_path / "scan7", split="val")
    assert scene.name == scene.scan == "scan7"
    views = scene.views([1, 3])
    torch.testing.assert_close(views.cameras.intrinsics[0], torch.tensor([[100.0, 0, 40], [0, 100, 32], [0, 0, 1]]))
    torch.testing.assert_close(views.cameras.centers, torch.tensor([[14.0, 0, 0], [42, 0, 0]]), atol=1e-4, rtol=0)
    torch.testing.assert_close(views.near, torch.tensor([550.0, 550]))
    torch.testing.assert_close(views.far, torch.tensor([850.0, 850]))
    assert views.mask.all()


def test_idr_without_spheres_needs_millimeters(tmp_path):
    folder = tiny.write_idr(tmp_path / "scan7", has_spheres=False)
    with pytest.raises(InputError, match="expected scale_mat_i in the camera file, or DTU's millimeters"):
        read_dtu(folder, split="all")  # parallel axes look at no point
    angle = np.linspace(-0.3, 0.3, 6)
    matrices = {}
    for view, (cosine, sine) in enumerate(zip(np.cos(angle), np.sin(angle), strict=True)):
        turned = np.array([[cosine, 0, sine, 0], [0, 1, 0, 0], [-sine, 0, cosine, 650], [0, 0, 0, 1]])
        matrices[f"world_mat_{view}"] = np.vstack([tiny.intrinsics() @ turned[:3], [0, 0, 0, 1]])
    np.savez(folder / "cameras.npz", **matrices)
    (scene,) = read_dtu(folder, split="all")
    assert (scene.frames[0].near, scene.frames[0].far) == (425, 905)
    del matrices["world_mat_4"]
    np.savez(folder / "cameras.npz", **matrices)
    with pytest.raises(InputError, match=r"cameras.npz for 000004.png: expected an entry world_mat_4, got none$"):
        read_dtu(folder, split="all")
