"""What the shipped models compute from procedural input that is made here, by name; the same input on every machine.

Run as a module it writes them to a file: a CPU's capability level is chosen before torch is imported, so that each
level needs a process of its own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from data.procedural.rigs import dtu_rig
from data.procedural.scene import make_scene
from data.procedural.torch_tracer import render_views
from data.scene_qa.types import QABatch, QARecord, QASample
from geometry import Views, one_line_errors
from models.nerf.vggt_nerf import render_image
from models.occupancy import load_forecaster
from models.vggt import load_vggt
from models.vggt.frozen import FROZEN_HEADS, FrozenVGGT
from models.vqa.weights import located
from render.loading import usable_device
from training.cli import parse_options
from training.nerf.checkpoint import load_model
from training.occupancy.inputs import forecast_inputs
from training.occupancy.learners import labels_of
from training.options import option
from training.vqa.checkpoint import load_vqa
from training.vqa.inputs import scene_inputs

CKPTS = Path(__file__).parents[2] / "ckpts"
_CHUNK = 8192
"""Rays rendered at a time."""
Outputs = dict[str, Tensor]
MODELS = ("general_guided", "vggt_nano", "occupancy_world", "vqa_rooms")
"""Files in ckpts/."""


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """Where to compute, and where to write."""

    file: str = option("", "file of tensors to write", is_positional=True)
    device: str = option("cpu", "auto, cpu, cuda, cuda:1, ...")
    height: int = option(128, "of the images, pixels; 5/4 as wide")


@dataclass(frozen=True)
class Found:
    """Of one model."""

    outputs: Outputs
    """On the CPU, float32; integers are decisions."""
    seconds: float
    """Of a second pass, the first one warms up."""


def forwards(device: torch.device, height: int, names: Sequence[str] = MODELS) -> dict[str, Found]:
    """By the model's name; `height` of the images in pixels, a multiple of 32."""
    views = _posed_views(height)
    found = {}
    with torch.inference_mode():
        for name in names:
            run = _MODELS[name](device, views)
            run()
            start = time.perf_counter()
            outputs = {key: value.cpu() for key, value in run().items()}  # waits for the device
            found[name] = Found(outputs, time.perf_counter() - start)
    return found


def _posed_views(height: int) -> Views:
    """Four neighboring views of a procedural scan of no training seed; axis view."""
    cameras = dtu_rig(height, height * 5 // 4)[[24, 25, 32, 23]].to(torch.float32)
    rendered = render_views(make_scene((77, 0)), cameras)
    bounds = torch.full((2, 4), 1.0) * torch.tensor([[425.0], [905.0]])
    return Views(rendered.images, cameras, bounds[0], bounds[1], torch.arange(4))


def _radiance_field(device: torch.device, views: Views) -> Callable[[], Outputs]:
    model = load_model(CKPTS / "general_guided.ckpt", str(CKPTS / "vggt_nano.safetensors"))[0].to(device).eval()
    batch = Views.stack([views]).to(device)
    source, target = batch[:, 1:], batch[:, 0]

    def run() -> Outputs:
        view = model.view(model.encode(source), target.cameras, target.near, target.far)
        picture = render_image(view, _CHUNK)
        # of the distance between the planes, so that the bound does not depend on the unit
        depth = picture.depth / (target.far - target.near)
        return {"color": picture.rgb, "depth": depth}

    return run


def _vggt(device: torch.device, views: Views) -> Callable[[], Outputs]:
    model = load_vggt(str(CKPTS / "vggt_nano.safetensors")).model.to(device).eval()
    images = views.images[None].to(device)

    def run() -> Outputs:
        output = model(images)
        return {"depth": output.depth, "pose": output.pose_enc}

    return run


def _occupancy(device: torch.device, views: Views) -> Callable[[], Outputs]:
    network, plan, _ = load_forecaster(CKPTS / "occupancy_world.safetensors")
    worlds = ProceduralWorlds(WorldSpec(space=plan.space, history=plan.history, future=plan.future), 2, seed=9)
    batch = OccupancyBatch.stack([worlds[index] for index in range(2)]).to(device)
    network = network.to(device).eval()

    def run() -> Outputs:
        logits = network(forecast_inputs(batch, has_plan=True)).logits
        labels, occupied = labels_of(logits, plan.free_class, 0.5)
        return {"probability": occupied, "label": labels}

    return run


def _questions(device: torch.device, views: Views) -> Callable[[], Outputs]:
    source = CKPTS / "vqa_rooms.safetensors"
    loaded = load_vqa(source, dtype=torch.float32)
    size, config = loaded.vggt.image_size or views.cameras.height, loaded.network.config
    heads = FROZEN_HEADS if config.visual.has_points else ()
    vggt = FrozenVGGT.load(located(loaded.vggt.source, source), config.visual.layers, heads).to(device)
    network = loaded.network.to(device).eval()
    images = torch.nn.functional.interpolate(views.images[:3], (size, size), mode="area")
    record = QARecord((), "what do the views show?", ())
    sample = QASample(record, "", images, None, torch.ones(len(images), dtype=torch.bool))
    batch = QABatch.collate([sample]).to(device)

    def run() -> Outputs:
        inputs = scene_inputs(batch, config, vggt)
        answer = network.answer(inputs, batch.questions, batch.situations, max_new_tokens=24)
        words = torch.tensor([ord(letter) for letter in answer.texts[0]])
        return {
            "embeddings": network.visual_embeddings(inputs),
            "attention": network.attention(inputs),
            "answer": words,
        }

    return run


_MODELS: dict[str, Callable[[torch.device, Views], Callable[[], Outputs]]] = dict(
    zip(MODELS, (_radiance_field, _vggt, _occupancy, _questions), strict=True)
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Compute and write."""
    options = parse_options(ForwardOptions, __doc__ or "", argv)
    torch.set_num_threads(1)  # sums in another order are another matter
    found = forwards(usable_device(options.device), options.height)
    torch.save({name: (one.outputs, one.seconds) for name, one in found.items()}, options.file)


if __name__ == "__main__":
    main()
