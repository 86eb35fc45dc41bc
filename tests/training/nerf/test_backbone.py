"""Which VGGT stands before the field: none at all, tokens only, or its depth too; what checkpoints say about it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.readers.registry import read_scenes
from geometry import InputError
from models.nerf.depth_range import DepthRange
from models.nerf.guided.scene_field import Surfaces
from models.nerf.scene_box import common_box
from tests.oracle_vggt import OracleVGGT
from tests.render.tiny import write_backbone
from tests.scenes import random_batch
from training.backbone import VGGTRecord
from training.nerf.build import build_finetune_task, build_general_task, build_scene_field_task, read_finetune_start
from training.nerf.checkpoint import NerfRecord, load_model, read_nerf_checkpoint
from training.nerf.finetune import FinetuneTask, SceneFieldTask, box_of
from training.nerf.options import FinetuneOptions, GeneralOptions
from training.nerf.task import NerfTask

SIZES = {"feature_channels": 8, "hidden": 8, "fused": 8, "vggt_image_size": 0}


def general(**options: Any) -> NerfTask:
    counts = {} if options.get("sampler") == "guided" else {"N_samples": 3, "N_importance": 2}
    return build_general_task(GeneralOptions(**SIZES, **counts, **options), {})


def saved(task: NerfTask, path: Path) -> Path:
    contents: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(contents)
    torch.save(contents, path)
    return path


@pytest.fixture
def with_heads(tmp_path: Path) -> str:
    return f"random:{write_backbone(tmp_path / 'heads.json', with_depth=True)}"


@pytest.fixture
def without_heads(tmp_path: Path) -> str:
    return f"random:{write_backbone(tmp_path / 'tokens.json')}"


def test_no_vggt_at_all(tmp_path: Path) -> None:
    path = saved(general(vggt_ckpt="none"), tmp_path / "stem.ckpt")
    model, record = load_model(path)
    assert model.vggt is None
    assert record.vggt == VGGTRecord("none", "none", "none", (), 0)
    batch = random_batch(1)
    assert model.encode(batch.source).prior is None
    with pytest.raises(InputError, match="was trained with VGGT none"):
        load_model(path, f"random:{write_backbone(tmp_path / 'other.json')}")


@pytest.mark.parametrize("needs", [{"depth_prior": True}, {"near_far": "auto"}])
def test_depth_needs_heads(needs: dict[str, Any], without_heads: str) -> None:
    with pytest.raises(InputError, match="--vggt_ckpt none: expected a VGGT, whose depth --depth_prior"):
        general(vggt_ckpt="none", **needs)
    with pytest.raises(InputError, match="expected camera and depth heads, which --depth_prior and --near_far auto"):
        general(vggt_ckpt=without_heads, **needs)
    with pytest.raises(InputError, match="--near_far: expected one of data, auto, open, got 'far'"):
        GeneralOptions(near_far="far")


def test_depth_and_bounds_come_back_from_a_checkpoint(tmp_path: Path, with_heads: str) -> None:
    task = general(vggt_ckpt=with_heads, depth_prior=True, near_far="auto")
    model, record = load_model(saved(task, tmp_path / "depth.ckpt"))
    assert record.vggt.heads == ("camera", "depth")
    assert record.renderer.config.depth_prior
    assert (record.renderer.near_far, model.network.near_far) == ("auto", "auto")
    batch = random_batch(1)
    ours, theirs = model.encode(batch.source), task.model.encode(batch.source)
    assert ours.has_depth
    torch.testing.assert_close(ours.prior.depth, theirs.prior.depth)
    again = read_nerf_checkpoint(tmp_path / "depth.ckpt").network(near_far="data")
    assert again.network.near_far == "data"


def test_records_of_older_checkpoints_are_read(without_heads: str) -> None:
    plain = general(vggt_ckpt=without_heads).record().to_plain()
    del plain["vggt"]["heads"], plain["renderer"]["near_far"], plain["renderer"]["config"]["depth_prior"]
    record = NerfRecord.from_plain(plain)
    assert (record.vggt.heads, record.renderer.near_far, record.renderer.config.depth_prior) == ((), "data", False)
    plain = general(vggt_ckpt="none", sampler="guided").record().to_plain()
    for name in ("token_layers", "token_channels", "fine_depth", "sample_volume"):
        del plain["renderer"]["config"][name]
    config = NerfRecord.from_plain(plain).renderer.config
    assert (config.reads_tokens, config.fine_depth) == (False, False)


def test_vggt_is_left_out_of_the_given_share_of_steps(with_heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = general(vggt_ckpt=with_heads, depth_prior=True, rays_per_step=8, backbone_dropout=0.5)
    task.log_dict = lambda *_: None
    said = []
    encode = task.model.encode

    def spy(*arguments: object, drops_backbone: bool, **options: object) -> object:
        maps = encode(*arguments, drops_backbone=drops_backbone, **options)
        said.append((drops_backbone, bool((maps.prior.confidence > 0).any())))
        return maps

    monkeypatch.setattr(task.model, "encode", spy)
    batch = random_batch(1)
    for seed in range(12):
        task.training_step(replace(batch, seeds=torch.tensor([seed])), 0)
    assert set(said) == {(False, True), (True, False)}
    with pytest.raises(InputError, match="--backbone_dropout needs the depth of a VGGT"):
        general(vggt_ckpt=with_heads, backbone_dropout=0.5)


def test_training_step_with_depth(with_heads: str) -> None:
    """One step of general training: finite, and the field's new inputs get a gradient."""
    task = general(vggt_ckpt=with_heads, depth_prior=True, near_far="auto", rays_per_step=8)
    task.log_dict = lambda scalars: None
    loss = task.training_step(random_batch(2), 0)
    loss.backward()
    gradient = task.model.network.aggregation.view_in.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient[:, 8:16].abs().max() > 0


def test_rays_of_a_step_end_where_the_view_says(with_heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = general(vggt_ckpt=with_heads, near_far="auto", rays_per_step=8)
    task.log_dict = lambda scalars: None
    network, met = task.model.network, []
    near, far = torch.tensor([1.25]), torch.tensor([2.5])
    monkeypatch.setattr(network, "bounds", lambda *_: DepthRange(near, far, torch.tensor([True])))
    march = network.march
    monkeypatch.setattr(network, "march", lambda maps, rays, jitter: (met.append(rays), march(maps, rays, jitter))[1])
    task.training_step(random_batch(1), 0)
    (rays,) = met
    torch.testing.assert_close(rays.t_near * rays.cos_optical, near.expand(1, 8))
    torch.testing.assert_close(rays.t_far * rays.cos_optical, far.expand(1, 8))


def test_finetuning_inherits_depth(small_dtu: Path, tmp_path: Path, with_heads: str) -> None:
    path = saved(general(vggt_ckpt=with_heads, depth_prior=True), tmp_path / "general.ckpt")
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    options = FinetuneOptions(init_from=str(path), near_far="auto", residual_channels=2, residual_resolution=8)
    task = build_finetune_task(options, scene, read_finetune_start(options))
    assert task.model.network.config.depth_prior
    assert task.model.vggt.has_depth
    assert task.model.network.near_far == "auto"


def test_box_of_the_residual_follows_the_bounds(small_dtu: Path, with_heads: str) -> None:
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    model = general(vggt_ckpt=with_heads, near_far="auto").model
    cameras = scene.cameras(scene.train_views)
    by_data = common_box(cameras, *scene.near_far(scene.train_views))
    config = model.network.config
    model.vggt = OracleVGGT([scene.views(list(scene.frames))], token_shape=(config.token_layers, config.token_channels))
    low, high = box_of(model, scene)
    assert ((high - low) < 1.2 * (by_data[1] - by_data[0])).all()
    points = cameras[:1].unproject(
        torch.tensor([[[20.0, 16.0]]]), scene.views(scene.train_views[:1]).depth[:, 16:17, 20]
    )
    assert ((points > low) & (points < high)).all()


def test_encoding_in_the_order_of_a_batch(with_heads: str) -> None:
    """Depth that is remembered for named scenes is the same as depth computed anew."""
    model = general(vggt_ckpt=with_heads, depth_prior=True).model
    batch = random_batch(2)
    named, anew = model.encode(batch.source, batch.names), model.encode(batch.source)
    torch.testing.assert_close(named.prior.depth, anew.prior.depth, rtol=1e-3, atol=1e-4)


def test_the_scene_field_learns_alone_and_then_the_rest(
    small_dtu: Path, tmp_path: Path, with_heads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    guided = {"sampler": "guided", "sweep_planes": 12}
    path = saved(general(vggt_ckpt=with_heads, depth_prior=True, **guided), tmp_path / "guided.ckpt")
    sizes = {"residual_channels": 2, "residual_resolution": 8, "rays_per_step": 32, "color_loss": 0.1}
    options = FinetuneOptions(init_from=str(path), scene_field=8, scene_field_steps=2, warmup_steps=1, **sizes)
    start, batch = read_finetune_start(options), random_batch(1)
    first = build_scene_field_task(options, scene, start)
    field = first.field
    assert (field.box_max - field.box_min).min() > 50  # millimeters
    monkeypatch.setattr(SceneFieldTask, "trainer", SimpleNamespace(is_global_zero=False, precision="32-true"))
    monkeypatch.setattr(SceneFieldTask, "global_step", 0)
    first.log_dict = first.log = lambda *_: None
    first.on_train_start()
    assert first.surfaces.ids.tolist() == list(scene.train_views)
    first.surfaces = Surfaces(batch.source.ids[0], torch.ones(batch.source.ids.numel(), 2, 3, 4))
    field.set_bounds(torch.full((3,), -2.0), torch.full((3,), 2.0))
    first.training_step(batch, 0).backward()
    assert {name for name, parameter in first.named_parameters() if parameter.requires_grad} == {
        "field.grids.0",
        "field.grids.1",
    }
    assert all(parameter.grad.abs().max() > 0 for parameter in field.parameters())
    assert all(parameter.grad is None for parameter in first.model.parameters())
    (group,) = first.build_optimizer().param_groups
    assert (group["lr"], group["eps"]) == (0.1, 1e-15)

    task = build_finetune_task(options, scene, start, field)
    network = task.model.network
    torch.testing.assert_close(network.scene_field.grids[1], field.grids[1], rtol=0, atol=0)
    monkeypatch.setattr(FinetuneTask, "trainer", SimpleNamespace(is_global_zero=False, precision="32-true"))
    monkeypatch.setattr(FinetuneTask, "global_step", 0)
    task.log_dict = task.log = lambda *_: None
    task.training_step(batch, 0).backward()
    assert all(parameter.grad is None for parameter in network.scene_field.parameters())
    assert max(parameter.grad.abs().max() for parameter in network.coarse.parameters()) > 0
    assert task.model.vggt.has_depth
    assert task.model.encode(batch.source).prior is None  # nobody asks VGGT any more
    groups = task.build_optimizer().param_groups
    assert [(group["lr"], group["eps"]) for group in groups] == [(5e-4, 1e-8), (5e-3, 1e-8)]
    again = load_model(saved(task, tmp_path / "finetuned.ckpt"))[0].network.scene_field
    torch.testing.assert_close(again.box_max, network.scene_field.box_max)


def test_what_a_scene_field_needs(tmp_path: Path, with_heads: str) -> None:
    path = saved(general(vggt_ckpt=with_heads, depth_prior=True), tmp_path / "hierarchical.ckpt")
    with pytest.raises(
        InputError,
        match=r"--scene_field 8: belongs to --sampler guided; .*hierarchical.ckpt has",
    ):
        read_finetune_start(FinetuneOptions(init_from=str(path), scene_field=8))
    for wrong, message in (
        ({"scene_field": 4}, "--scene_field: expected at least 8, got 4"),
        ({"scene_field_steps": 50}, "--scene_field_steps 50: expected more than --warmup_steps 100"),
        ({"max_steps": 200}, "--scene_field_steps 200 .* expected fewer than --max_steps 200"),
        ({"near_far": "auto"}, "expected --near_far data or open, got auto"),
    ):
        with pytest.raises(InputError, match=message):
            FinetuneOptions(init_from=str(path), **{"scene_field": 8, **wrong})


def test_another_backbone_where_only_depth_is_read(
    tmp_path: Path, with_heads: str, capsys: pytest.CaptureFixture
) -> None:
    other, guided = f"{with_heads}:5", {"sampler": "guided", "depth_prior": True}
    path = saved(general(vggt_ckpt=with_heads, **guided), tmp_path / "guided.ckpt")
    assert load_model(path)[0].vggt.identity.name == with_heads
    assert load_model(path, other)[0].vggt.identity.name == other
    task = general(vggt_ckpt=other, init_from=str(path), **guided)
    printed = capsys.readouterr().err
    assert "backbone changed: VGGT " in printed
    assert "its tokens are not read" in printed  # nor is depth, where a field of the scene takes its place
    record = NerfRecord.from_plain(task.record().to_plain())
    assert (record.vggt.name, [one.name for one in record.vggt_before]) == (other, [with_heads])
    again = general(vggt_ckpt=with_heads, init_from=str(saved(task, tmp_path / "second.ckpt")), **guided)
    assert [one.name for one in again.vggt_before] == [with_heads, other]
    start = read_finetune_start(FinetuneOptions(init_from=str(path), vggt_ckpt=other, vggt_image_size=28))
    assert (start.vggt_record.name, start.vggt_record.image_size, start.vggt.image_size) == (other, 28, 28)
    assert [one.name for one in start.vggt_before] == [with_heads]
    with pytest.raises(InputError, match=r"trained with VGGT .* sha256"):
        general(vggt_ckpt=other, ckpt=str(path), **guided)
    with pytest.raises(InputError, match=r"trained with VGGT .* sha256"):
        read_finetune_start(FinetuneOptions(ckpt=str(path), vggt_ckpt=other))


def test_no_backbone_where_depth_is_read(tmp_path: Path, with_heads: str, without_heads: str) -> None:
    path = saved(general(vggt_ckpt=with_heads, sampler="guided", depth_prior=True), tmp_path / "guided.ckpt")
    with pytest.raises(InputError, match="--vggt_ckpt none: expected a VGGT, whose depth"):
        load_model(path, "none")
    with pytest.raises(InputError, match="expected camera and depth heads"):
        load_model(path, without_heads)
    with pytest.raises(InputError, match=r"--depth_prior False: --init_from .* was trained with --depth_prior True"):
        general(vggt_ckpt="none", sampler="guided", init_from=str(path))


TOKENS = {"sampler": "guided", "vggt_layers": (1, 0)}


def test_tokens_of_the_guided_sampler_come_back_from_a_checkpoint(
    small_dtu: Path, tmp_path: Path, with_heads: str, without_heads: str
) -> None:
    task = general(vggt_ckpt=with_heads, depth_prior=True, fine_depth=True, **TOKENS)
    path = saved(task, tmp_path / "tokens.ckpt")
    model, record = load_model(path)
    assert (record.vggt.layers, record.vggt.heads) == ((1, 0), ("camera", "depth"))
    assert (record.renderer.config.token_layers, record.renderer.config.fine_depth) == (2, True)
    batch = random_batch(1)
    ours, theirs = model.encode(batch.source), task.model.encode(batch.source)
    torch.testing.assert_close(ours.coarse, theirs.coarse)
    without = model.network.encode(batch.source, None)
    assert (ours.coarse - without.coarse).abs().max() > 0
    with pytest.raises(InputError, match=r"trained with VGGT .* sha256"):
        load_model(path, f"{with_heads}:5")
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    options = FinetuneOptions(init_from=str(path), residual_channels=2, residual_resolution=8)
    assert build_finetune_task(options, scene, read_finetune_start(options)).model.network.reads_tokens
    with pytest.raises(InputError, match=r"trained with VGGT .* sha256"):
        read_finetune_start(FinetuneOptions(init_from=str(path), vggt_ckpt=f"{with_heads}:5"))
    with pytest.raises(InputError, match="as do tokens that count as much as depth is to be trusted"):
        general(vggt_ckpt=without_heads, **TOKENS)
    with pytest.raises(InputError, match="--vggt_layers 1 0: expected a VGGT, got --vggt_ckpt none"):
        GeneralOptions(vggt_ckpt="none", **TOKENS)
    with pytest.raises(InputError, match="--fine_depth: expected --depth_prior beside it"):
        general(vggt_ckpt=with_heads, fine_depth=True, **TOKENS)
    with pytest.raises(InputError, match="--fine_depth True: belongs to --sampler guided"):
        GeneralOptions(fine_depth=True, depth_prior=True)


def test_tokens_beside_a_field_of_the_scene(
    small_dtu: Path, tmp_path: Path, with_heads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The field takes the place of VGGT's depth in both levels of the sweep; tokens are read on."""
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    path = saved(general(vggt_ckpt=with_heads, depth_prior=True, fine_depth=True, **TOKENS), tmp_path / "tokens.ckpt")
    sizes = {"residual_channels": 2, "residual_resolution": 8, "rays_per_step": 32, "color_loss": 0.1}
    options = FinetuneOptions(init_from=str(path), scene_field=8, scene_field_steps=2, warmup_steps=1, **sizes)
    start, batch = read_finetune_start(options), random_batch(1)
    task = build_finetune_task(options, scene, start, build_scene_field_task(options, scene, start).field)
    monkeypatch.setattr(FinetuneTask, "trainer", SimpleNamespace(is_global_zero=False, precision="32-true"))
    monkeypatch.setattr(FinetuneTask, "global_step", 0)
    task.log_dict = task.log = lambda *_: None
    network, said = task.model.network, []
    monkeypatch.setattr(network, "_known", lambda *about: said.append(about))
    network.scene_field.set_bounds(torch.full((3,), -2.0), torch.full((3,), 2.0))
    task.training_step(batch, 0).backward()
    assert not said
    assert network.stem.context.out.weight.grad.abs().max() > 0
    assert network.fine.first[0].weight.grad[:, -3:].abs().max() > 0


def test_layers_of_the_hierarchical_sampler_can_be_chosen(without_heads: str) -> None:
    assert general(vggt_ckpt=without_heads).record().vggt.layers == (0, 1)
    one = general(vggt_ckpt=without_heads, vggt_layers=(1,))
    assert one.record().vggt.layers == (1,)
    assert one.model.network.config.token_layers == 1
    with pytest.raises(InputError, match=r"layers must be one or more of 0..1"):
        general(vggt_ckpt=without_heads, vggt_layers=(2,))


def test_dropout_leaves_tokens_out_too(with_heads: str) -> None:
    """Without `--depth_prior`: what is trusted of them is known from VGGT's depth all the same."""
    model = general(vggt_ckpt=with_heads, backbone_dropout=0.5, **TOKENS).model
    batch = random_batch(1)
    dropped = model.encode(batch.source, drops_backbone=True)
    assert torch.equal(dropped.coarse, model.network.encode(batch.source, None).coarse)
    assert not torch.equal(dropped.coarse, model.encode(batch.source).coarse)


def test_a_guided_model_can_be_told_more_later(tmp_path: Path, with_heads: str, capsys: pytest.CaptureFixture) -> None:
    old = general(vggt_ckpt=with_heads, sampler="guided", depth_prior=True)
    path, batch = saved(old, tmp_path / "old.ckpt"), random_batch(1)
    more = general(vggt_ckpt=with_heads, depth_prior=True, init_from=str(path), **TOKENS)
    for one, other in ((old, more), (more, old)):
        assert torch.equal(one.model.encode(batch.source).fine, other.model.encode(batch.source).fine)
    other = general(vggt_ckpt=f"{with_heads}:5", depth_prior=True, fine_depth=True, init_from=str(path), **TOKENS)
    assert "its tokens are read from now on" in capsys.readouterr().err
    assert other.model.network.fine.first[0].weight[:, -3:].abs().max() == 0
    told = saved(more, tmp_path / "told.ckpt")
    with pytest.raises(InputError, match=r"--vggt_layers: --init_from .* was trained with tokens of layers \[1, 0\]"):
        general(vggt_ckpt=with_heads, sampler="guided", depth_prior=True, init_from=str(told))
    with pytest.raises(InputError, match="layers"):
        general(vggt_ckpt=with_heads, depth_prior=True, init_from=str(told), sampler="guided", vggt_layers=(0, 1))


@pytest.mark.parametrize("name", ["fine_depth", "sample_volume"])
def test_what_a_guided_model_reads_is_not_taken_away(name: str, tmp_path: Path, with_heads: str) -> None:
    usual = {"vggt_ckpt": with_heads, "sampler": "guided", "depth_prior": True}
    path = str(saved(general(**usual, **{name: True}), tmp_path / "more.ckpt"))
    assert getattr(general(**usual, **{name: True}, init_from=path).model.network.config, name)
    with pytest.raises(InputError, match=rf"--{name}: expected it beside --init_from {path}"):
        general(**usual, init_from=path)


def test_a_backbone_for_a_guided_model_without_one(tmp_path: Path, with_heads: str) -> None:
    path = saved(general(vggt_ckpt="none", sampler="guided"), tmp_path / "guided.ckpt")
    assert load_model(path, "none")[0].vggt is None
    with pytest.raises(InputError, match="this model reads nothing of a VGGT, expected none"):
        load_model(path, with_heads)
    checkpoint = read_nerf_checkpoint(path)
    assert checkpoint.network(vggt_ckpt=with_heads, near_far="auto").vggt.has_depth


def test_finetuning_keeps_or_changes_feature_pixels(small_dtu: Path, tmp_path: Path) -> None:
    path = saved(general(vggt_ckpt="none", sampler="guided", feature_pixels=2048), tmp_path / "guided.ckpt")
    (scene,) = read_scenes("dtu", str(small_dtu), split="all", scans=("scan2",))
    for given, used in ((None, 2048), (4096, 4096)):
        options = FinetuneOptions(init_from=str(path), feature_pixels=given, residual_resolution=8)
        task = build_finetune_task(options, scene, read_finetune_start(options))
        assert task.record().renderer.config.feature_pixels == used
    hierarchical = saved(general(vggt_ckpt="none"), tmp_path / "hierarchical.ckpt")
    with pytest.raises(InputError, match="--feature_pixels 4096: belongs to --sampler guided"):
        read_finetune_start(FinetuneOptions(init_from=str(hierarchical), feature_pixels=4096))
