"""A reconstructed scene as points and cameras; the command with a network that predicts what it is given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import nn

from geometry import InputError
from geometry.quaternions import quaternion_inverse, quaternion_product, rotated
from models.mapanything import GeometricInputs, Reconstruction
from models.mapanything.inference import infer
from models.mapanything.output import reconstruction_from_factors
from render.export import __main__ as command
from render.export import mapanything
from render.export.mapanything import inferred_views
from render.export.options import ExportOptions
from tests.data.wai.scenes import DEPTH, FOCAL, STEP, write_wall
from tests.models.mapanything.test_inference import everything
from tests.models.mapanything.test_network import network
from tests.training.mapanything.tiny import IMAGES_ONLY


def test_depth_unprojects_to_the_scenes_points() -> None:
    """The cameras are those fitted to the predicted rays, so an untrained network's agree only where rays are given."""
    views = everything()
    scene = infer(network(), views, percentile=0.0, has_edges=True)
    maps = inferred_views(["a", "b", "c"], views, scene)
    assert maps.depth.shape == (3, 16, 24)
    assert torch.equal(maps.depth > 0, scene.mask)
    assert ((maps.confidence >= 0) & (maps.confidence < 1)).all()
    torch.testing.assert_close(maps.colors[1], views[1].image.permute(1, 2, 0))
    torch.testing.assert_close(maps.cameras.c2w, scene.reconstruction.c2w[0], atol=1e-5, rtol=1e-5)
    assert (maps.near <= maps.far).all()


class Echo(nn.Module):
    """Predicts what it is given, in the frame of view 0."""

    patch_size, image_size = 8, 16
    takes_geometry = predicts_scale = has_reference_view = True

    def set_checkpointing(self, enabled: bool) -> None:
        del enabled

    def forward(self, inputs: GeometricInputs, *, images_at_a_time: int | None = None) -> Reconstruction:
        del images_at_a_time
        assert inputs.shows_depth_scale.all()
        inverse = quaternion_inverse(inputs.quaternions[:, :1]).expand_as(inputs.quaternions)
        return reconstruction_from_factors(
            inputs.rays,
            inputs.depth_along_ray,
            quaternion_product(inverse, inputs.quaternions),
            rotated(inverse, inputs.translations - inputs.translations[:, :1]),
            scale=torch.ones(1),
        )


def test_the_command_exports_what_a_scene_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall in meters, seen by windows of another shape than the files."""
    write_wall(tmp_path / "wai" / "room", 3)
    monkeypatch.setattr(mapanything, "read_reconstructor", lambda source: {"echo": Echo()}[source])
    arguments = f"--from mapanything --mapanything_ckpt echo --dataset_name wai --datadir {tmp_path}/wai --device cpu"
    given = "--given intrinsics poses depth --what points cameras depth --confidence_percentile 0"
    command.main([*arguments.split(), *given.split(), "--colmap_text", "--out", str(tmp_path / "out")])
    points = trimesh.load(tmp_path / "out" / "points.ply").vertices
    np.testing.assert_allclose(points[:, 2], DEPTH, atol=1e-5)
    sparse = tmp_path / "out" / "cameras" / "sparse" / "0"
    cameras = [line.split()[1:] for line in (sparse / "cameras.txt").read_text().splitlines() if line[0] != "#"]
    for camera in cameras:
        assert camera[:3] == ["PINHOLE", "32", "24"]
        np.testing.assert_allclose([float(one) for one in camera[3:]], [FOCAL, FOCAL, 16, 12], atol=2e-3)
    images = [line.split() for line in (sparse / "images.txt").read_text().splitlines() if line.endswith(".png")]
    np.testing.assert_allclose([float(line[5]) for line in images], [0, -STEP, -2 * STEP], atol=1e-5)
    depth = np.load(tmp_path / "out" / "depth" / "000001.npy")
    assert depth.shape == (16, 16)
    np.testing.assert_allclose(depth, DEPTH, atol=1e-5)


def test_photographs_of_several_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras are of the files, whatever part of them the network saw; its weights are random."""
    noise = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number, size in enumerate([(72, 96), (96, 72), (96, 96)]):
        pixels = noise.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.setattr(mapanything, "read_reconstructor", lambda _: network(**IMAGES_ONLY))
    arguments = f"--from mapanything --mapanything_ckpt x --images {tmp_path}/photos --image_size 32 --device cpu"
    command.main([*arguments.split(), "--what", "cameras", "depth", "--colmap_points", "0", "--out", f"{tmp_path}/out"])
    found = json.loads((tmp_path / "out" / "cameras" / "transforms.json").read_text())["frames"]
    assert [(one["h"], one["w"]) for one in found] == [(72, 96), (96, 72), (96, 96)]
    np.testing.assert_allclose(found[0]["transform_matrix"], np.diag([1.0, -1, -1, 1]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapanything_ckpt": ""}, "--mapanything_ckpt: expected a checkpoint or weights"),
        ({"given": ("depth",)}, "--given depth: expected intrinsics beside it"),
        ({"given": ("rays",)}, "--given: expected some of intrinsics, poses, depth"),
        ({"vggt_ckpt": "x"}, "--vggt_ckpt: belongs to --from model or vggt"),
        ({"images": "photos", "given": ("poses",)}, "--given: belongs to a data set"),
        ({"origin": "vggt"}, "--mapanything_ckpt: belongs to --from mapanything"),
    ],
)
def test_options_of_other_origins_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportOptions(**({"origin": "mapanything", "mapanything_ckpt": "x", "out": "out"} | changes))
