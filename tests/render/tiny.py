"""A tiny scene on disk, tiny checkpoints, and a model that knows the truth."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from data.procedural.generate import generate
from data.procedural.writers import GeneratorSettings
from data.scene import Frame, PosedScene
from geometry import Cameras, RayBundle, RaySamples, Views
from models.nerf.compositing import RenderOutput
from models.nerf.depth_range import DepthRange
from models.nerf.renderer import Jitter, TargetRays, TargetView
from models.nerf.vggt_nerf import VGGTNeRF
from models.vggt.cache import FeatureCache
from training.nerf.build import build_general_task
from training.nerf.options import GeneralOptions

WIDTH, HEIGHT = 40, 32
SCAN = "scan7"
_BACKBONE = {
    "aggregator": {
        "img_size": 28,
        "patch_size": 14,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "num_register_tokens": 1,
        "patch_embed": "conv",
    },
    "camera_head": None,
    "depth_head": None,
    "point_head": None,
    "track_head": None,
}
_CAMERA_HEAD = {"trunk_depth": 1, "num_heads": 2}
_DEPTH_HEAD = {"intermediate_layer_idx": [0, 0, 1, 1], "features": 8, "out_channels": [8, 8, 8, 8]}


def write_data(folder: Path, scenes: int = 1, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """DTU-layout scenes scan7, scan8, ... with the 20 views of the fine-tuning split and exact depth."""
    settings = GeneratorSettings(
        layout="dtu", width=width, height=height, views=20, seed=0, lights=1, first_scan=int(SCAN[4:])
    )
    generate(folder, settings, scenes, workers=1)
    return folder


def write_smaller_field(shipped: Path, path: Path, image_size: int = 56) -> None:
    """A shipped radiance field that looks at small images and, if it is guided, through few planes; else the same."""
    checkpoint = torch.load(shipped, map_location="cpu", weights_only=True)
    record = checkpoint["vggt_nerf"]
    record["vggt"]["image_size"] = image_size
    if "renderer" in record and record["renderer"]["sampler"] == "guided":
        record["renderer"]["config"]["sweep_planes"] = 12
    torch.save(checkpoint, path)


def write_backbone(path: Path, *, with_depth: bool = False) -> Path:
    """The architecture of a VGGT of a few thousand weights; `with_depth`: with camera and depth heads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    heads = {"camera_head": _CAMERA_HEAD, "depth_head": _DEPTH_HEAD} if with_depth else {}
    path.write_text(json.dumps(_BACKBONE | heads))
    return path


def write_checkpoint(path: Path, *, with_depth: bool = False, **record: Any) -> Path:
    """An untrained general checkpoint; entries of `record` replace those of its record.

    `with_depth`: its VGGT has camera and depth heads.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    backbone = write_backbone(path.with_suffix(".json"), with_depth=with_depth)
    options = GeneralOptions(
        vggt_ckpt=f"random:{backbone}",
        vggt_image_size=0,
        N_samples=4,
        N_importance=2,
        feature_channels=8,
        hidden=8,
        fused=8,
    )
    task = build_general_task(options, {"scan3": [0, 1]})
    contents: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(contents)
    contents["vggt_nerf"] |= record
    torch.save(contents, path)
    return path


@dataclasses.dataclass(frozen=True)
class TruthView(TargetView):
    """A photograph and its depth, pixel by pixel."""

    camera: Cameras
    bounds: DepthRange
    photograph: Views
    depth_error: float

    def render(self, rays: RayBundle, jitter: Jitter | None = None) -> RenderOutput:
        x, y = self.camera.project(rays.at(rays.t_far[..., None])[:, :, 0]).pixels.floor().long().unbind(-1)
        rgb = self.photograph.images[0, :, y, x].movedim(0, -1)
        depth = self.photograph.depth[0, y, x] + self.depth_error
        samples = RaySamples.from_positions((depth / rays.cos_optical)[..., None], rays.t_near, rays.t_far)
        return RenderOutput(rgb, depth, torch.ones_like(depth), torch.ones_like(samples.t), samples)

    def depth_loss(self, output: RenderOutput, truth: TargetRays) -> torch.Tensor:
        raise AssertionError("nobody trains here")


class TruthModel(VGGTNeRF):
    """Renders the photographs and depth maps themselves, with a constant added to the depth."""

    def __init__(self, scene: PosedScene, depth_error: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.cache = FeatureCache(0)
        self.network: Any = SimpleNamespace(near_far="data")
        self.views = scene.views(list(scene.frames))
        self.depth_error = depth_error
        self.encoded: list[tuple[tuple[int, ...], Any]] = []

    def encode(self, source: Any, names: Any = None) -> None:
        self.encoded.append((tuple(source.ids[0].tolist()), names))

    def view(self, maps: Any, camera: Cameras, near: torch.Tensor, far: torch.Tensor) -> TargetView:
        which = int((self.views.cameras.w2c - camera.w2c).abs().sum((-1, -2)).argmin())
        return TruthView(camera, DepthRange.of_data(near, far), self.views[which : which + 1], self.depth_error)


def scene_on_a_line(views: list[int], train: tuple[int, ...], held_out: tuple[int, ...]) -> PosedScene:
    """View v stands at (v, 0, 0). No files."""
    frames = {}
    for view in views:
        w2c = torch.eye(4)
        w2c[0, 3] = -float(view)
        frames[view] = Frame(view, Path("none"), w2c, torch.eye(3), HEIGHT, WIDTH, 1.0, 2.0)
    return PosedScene("line", "line", frames, {}, train, held_out)


def moved(cameras: Cameras, motion: torch.Tensor) -> Cameras:
    """The same cameras in a world that `motion` (4x4) has moved."""
    return dataclasses.replace(cameras, w2c=cameras.w2c @ torch.linalg.inv(motion))
