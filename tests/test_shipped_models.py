"""The weights in `ckpts/`: they load, they see depth nobody showed them, and they belong together."""

import hashlib
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch

from data.occupancy.procedural_world import ProceduralWorlds, WorldSpec
from data.occupancy.types import OccupancyBatch
from data.procedural import render_view
from data.procedural.indoor import room_subject
from data.procedural.rigs import dtu_rig
from data.procedural.scene import make_scene
from data.procedural.torch_tracer import render_views
from geometry import FrameBatch, Traits, Views
from models.mapanything import load_mapanything
from models.nerf.vggt_nerf import VGGTNeRF, render_image
from models.occupancy import load_forecaster
from models.vggt import load_vggt
from models.vggt.frozen import FrozenVGGT
from training.mapanything.evaluation import inputs_of_preset
from training.mapanything.metrics import set_metrics
from training.mapanything.truth import truth_of_batch
from training.nerf.checkpoint import load_model, read_nerf_checkpoint, with_new_parts
from training.occupancy.baselines import TRUE_MOTION, Baselines
from training.occupancy.evaluation import with_other_plan
from training.occupancy.inputs import forecast_inputs
from training.occupancy.learners import Predicted, labels_of
from training.occupancy.metrics import NON_GROUND
from training.occupancy.scoring import Scores
from training.vggt.metrics import group_scores
from training.vggt.task import output_of_group

CKPTS = Path(__file__).parents[1] / "ckpts"
NANO = CKPTS / "vggt_nano.safetensors"


@pytest.fixture(scope="module")
def groups() -> Views:
    """Three scenes of no training seed, each from four neighboring places of DTU's rig."""
    cameras = dtu_rig(128, 160)[[24, 25, 32, 23]].to(torch.float32)
    rendered = [render_views(make_scene((77, index)), cameras) for index in range(3)]
    return Views(
        images=torch.stack([one.images for one in rendered]),
        cameras=cameras[None].map(lambda tensor: tensor.expand(3, *tensor.shape[1:])),
        near=torch.full((3, 4), 425.0),
        far=torch.full((3, 4), 905.0),
        ids=torch.arange(4).expand(3, 4),
        depth=torch.stack([one.depth for one in rendered]),
    )


def test_vggt_nano_beats_a_constant_and_a_guess(groups: Views) -> None:
    model = load_vggt(str(NANO)).model.eval()
    with torch.no_grad():
        output = model(groups.images)
    scores = [group_scores(output_of_group(output, index), groups[index : index + 1]) for index in range(3)]
    mean = {name: sum(score[name] for score in scores) / 3 for name in scores[0]}
    assert mean["depth_absrel"] < 0.6 * mean["mean_depth_absrel"]
    assert mean["auc30"] > 0.3 > mean["identity_auc30"]


def test_the_guided_model_reads_no_tokens_and_is_the_start_of_one_that_does(groups: Views) -> None:
    """It was trained before there were any; told of them it shows, at first, the same picture bit for bit."""
    model, record = load_model(CKPTS / "general_guided.ckpt", str(NANO))
    config = record.renderer.config
    assert (config.token_layers, config.fine_depth) == (0, False)
    spec = replace(record.renderer, config=replace(config, token_layers=2, token_channels=192))
    told = VGGTNeRF(FrozenVGGT.load(NANO, (1, 3), ("camera", "depth"), image_size=160), spec.build())
    told.load_state_dict(with_new_parts(told, model.state_dict()))
    source, target = groups[:1, :3], groups[:1, 3]
    pictures = []
    with torch.no_grad():
        for one in (model.eval(), told.eval()):
            view = one.view(one.encode(source), target.cameras, target.near, target.far)
            pictures.append(render_image(view, 8192))
    assert torch.equal(pictures[0].rgb, pictures[1].rgb)
    assert torch.equal(pictures[0].depth, pictures[1].depth)
    assert (pictures[0].rgb - target.images[0].movedim(0, -1)).square().mean() < 0.03


@pytest.mark.parametrize("name", ["general_nano.ckpt", "general_guided.ckpt"])
def test_general_models_were_trained_on_the_vggt_beside_them(name: str) -> None:
    record = read_nerf_checkpoint(CKPTS / name).record
    assert record.vggt.sha256 == hashlib.sha256(NANO.read_bytes()).hexdigest()


def test_mapanything_rooms_uses_what_it_is_given() -> None:
    """Two photographs of each of six rooms of no training seed, in meters whatever their unit."""
    groups = []
    for index in range(6):
        subject = room_subject("free" if index < 3 else "coordinate", 4242, index, 10, (32, 40))
        cameras, scale = subject.rig[:2].scaled(subject.unit), torch.tensor(subject.unit).float()
        rendered = [render_view(subject.scene, camera) for camera in (subject.rig[0], subject.rig[1])]
        views = Views(
            images=torch.stack([torch.from_numpy(one.rgb).permute(2, 0, 1) for one in rendered]),
            cameras=cameras.to(torch.float32),
            near=torch.ones(2),
            far=torch.ones(2),
            ids=torch.arange(2),
            depth=torch.stack([torch.from_numpy(one.depth) * scale for one in rendered]),
        )
        groups.append(FrameBatch(views, (f"room/{index}",), torch.tensor(index), (Traits(1.0, is_synthetic=True),)))
    batch = FrameBatch.stack(groups)
    truth = truth_of_batch(batch)
    network = load_mapanything(str(CKPTS / "mapanything_rooms.safetensors")).model.eval()

    def usual(preset: str, metric: str, rooms: range) -> float:
        with torch.no_grad():
            prediction = network(inputs_of_preset(preset, batch, truth))
        scores = [set_metrics(prediction[at : at + 1], truth[at : at + 1])[metric] for at in rooms]
        return median(scores)

    free, colored = range(3), range(3, 6)
    assert usual("poses", "pose_rotation_deg", free) < 0.5 * usual("images", "pose_rotation_deg", free)
    assert usual("poses_depth", "pointmaps_abs_rel", free) < 0.7 * usual("images", "pointmaps_abs_rel", free)
    assert usual("images", "pointmaps_abs_rel", colored) < 0.16
    assert usual("images", "pose_rotation_deg", colored) < 15


def test_occupancy_world_knows_more_than_the_true_motion_and_follows_commands() -> None:
    """On worlds of no training seed: above the last grid moved by the true motion; lost with another's plan."""
    network, plan, _ = load_forecaster(CKPTS / "occupancy_world.safetensors")
    worlds = ProceduralWorlds(WorldSpec(space=plan.space, history=plan.history, future=plan.future), 8, seed=9)
    batch = OccupancyBatch.stack([worlds[index] for index in range(8)])

    def iou(found: Predicted) -> float:
        scores = Scores.of(plan, plan.future, ())
        scores.add(found, batch, plan.space, None)
        return scores.occupancy.iou(NON_GROUND) or 0.0

    def forecast(told: OccupancyBatch) -> Predicted:
        with torch.no_grad():
            return Predicted(*labels_of(network(forecast_inputs(told, has_plan=True)).logits, plan.free_class, 0.5))

    ours = iou(forecast(batch))
    warped = iou(Baselines(plan.space, plan.free_class, None, 0.5).predicted(TRUE_MOTION, batch))
    assert ours > warped > 0.5
    assert ours - iou(forecast(with_other_plan(batch))) > 0.3
