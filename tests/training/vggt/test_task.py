"""One training step of VGGT: parts of a batch, what learns, gradients, numbers that are none."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data.multi_view.sources import UNIFORM, FrameSampling
from geometry import FrameBatch, InputError
from models.lora import LoRALinear, add_lora, merged_state
from models.vggt import VGGT, VGGTConfig
from tests.training.vggt.tiny import SIZES, frame_batch, tiny_options
from training.cli import parse_options
from training.errors import NonFiniteError
from training.run_task import clip_by_group
from training.vggt.build import build_vggt_task, require_size_for_tracks
from training.vggt.checkpoint import export_weights
from training.vggt.learning import frozen_modules, module_groups, restrict_aggregator
from training.vggt.options import VGGTOptions
from training.vggt.task import VGGTTask, group_losses, identity_of, parts_of

EVERYTHING = {"point_weight": 1.0, "track_weight": 0.05}


def tiny_model(seed: int = 0) -> VGGT:
    torch.manual_seed(seed)
    return VGGT.from_config(SIZES | {"track_head": None})


def task_of(tmp_path: Path, **changes: object) -> VGGTTask:
    return build_vggt_task(tiny_options(tmp_path, tmp_path, **changes)).train()


def gradients(task: VGGTTask, count: int, groups: int = 5) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients after working through a batch in parts, and the logged sums."""
    batch, sums = frame_batch(groups), {}
    task.zero_grad()
    for part in parts_of(batch, count):
        output, tracks = task._run(part)
        losses = group_losses(output, part, task.loss_weights, tracks)
        (losses["objective"] / groups).backward()
        sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
    return {name: one.grad for name, one in task.model.named_parameters() if one.grad is not None}, sums


@pytest.mark.parametrize(("groups", "count", "sizes"), [(5, 2, [2, 3]), (2, 4, [1, 1]), (3, 1, [3]), (1, 3, [1])])
def test_no_group_is_dropped_and_no_part_is_empty(groups: int, count: int, sizes: list[int]) -> None:
    """The reference drops the remainder of batch / parts, and has empty parts of small batches."""
    parts = parts_of(frame_batch(groups), count)
    assert [len(part.names) for part in parts] == sizes
    assert [name for part in parts for name in part.names] == [f"scene{index}" for index in range(groups)]


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    """Also with groups whose numbers of valid pixels differ; and what is logged is not divided by the parts."""
    task = task_of(tmp_path, **EVERYTHING, checkpointing=False)  # whose chunks depend on the number of groups
    whole, logged = gradients(task, 1)
    for count in (2, 5):
        parts, again = gradients(task, count)
        assert whole.keys() == parts.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(parts[name], expected, atol=2e-6, rtol=1e-4, msg=name)
        assert logged.keys() == again.keys() > {"objective", "T", "R", "FL", "conf_depth", "reg_point", "vis"}
        assert again["objective"] == pytest.approx(logged["objective"].item(), rel=1e-5)


def test_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    without, _ = gradients(task_of(tmp_path, checkpointing=False), 1, groups=1)
    task = task_of(tmp_path, checkpointing=True)
    assert task.model.aggregator.frame_blocks[0].recompute_in_training
    assert task.model.depth_head.recompute_in_training
    recomputed, _ = gradients(task, 1, groups=1)
    for name, expected in without.items():
        torch.testing.assert_close(recomputed[name], expected, atol=1e-6, rtol=1e-5, msg=name)


def test_every_learning_parameter_is_in_one_group_and_its_norm_is_bounded(tmp_path: Path) -> None:
    task = task_of(tmp_path, **EVERYTHING)
    assert set(task.groups) == {"aggregator", "camera_head", "depth_head", "point_head", "track_head"}
    grouped = [id(one) for group in task.groups.values() for one in group]
    assert sorted(grouped) == sorted(id(one) for one in task.model.parameters() if one.requires_grad)
    gradients(task, 1, groups=1)
    task.model.camera_head.pose_branch.fc2.bias.grad.fill_(100.0)
    before = {name: one.grad.clone() for name, one in task.model.named_parameters() if one.grad is not None}
    norms = clip_by_group(task.groups, 1.0)
    assert norms["camera_head"] > 299
    for part, group in task.groups.items():
        own = [one.grad for one in group if one.grad is not None]
        assert torch.cat([one.flatten() for one in own]).norm() <= 1.0001
        if norms[part] < 1:  # a small gradient is not touched by a large one elsewhere
            named = [name for name, _ in task.model.named_parameters() if name.startswith(part) and name in before]
            assert all(torch.equal(before[name], task.model.get_parameter(name).grad) for name in named)


def test_frozen_modules_do_not_learn_and_stay_in_evaluation_mode(tmp_path: Path) -> None:
    task = task_of(tmp_path, freeze=("*aggregator*", "camera_head.trunk.*"))
    assert not task.model.aggregator.training
    assert not task.model.camera_head.trunk[0].attn.training
    assert task.model.camera_head.pose_branch.training
    found, _ = gradients(task, 1, groups=1)
    assert not [name for name in found if name.startswith(("aggregator.", "camera_head.trunk."))]
    assert [name for name in found if name.startswith("depth_head")]


def test_a_pattern_without_a_match_names_the_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--freeze \*agregator\*.*aggregator, camera_head, .*depth_head"):
        task_of(tmp_path, freeze=("*agregator*",))


def test_contradictory_freezing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--freeze aggregator and --lora_rank"):
        task_of(tmp_path, freeze=("aggregator",), lora_rank=2)
    with pytest.raises(InputError, match="every parameter frozen"):
        task_of(tmp_path, freeze=("*",))
    with pytest.raises(InputError, match=r"--freeze and --bias_only"):
        task_of(tmp_path, freeze=("*aggregator*",), bias_only=True)
    task_of(tmp_path, freeze=("aggregator.frame_blocks",), bias_only=True)
    with pytest.raises(InputError, match=r"--lora_rank and --bias_only"):
        tiny_options(tmp_path, tmp_path, lora_rank=2, bias_only=True)


def test_low_rank_changes_start_at_nothing_and_merge_into_plain_weights() -> None:
    images = torch.rand(1, 2, 3, 32, 40)
    plain, adapted = tiny_model().aggregator.eval(), tiny_model().aggregator.eval()
    expected = plain(images).layers[1]
    assert add_lora(adapted, rank=2, alpha=3.0) == 2 * 2 * 4  # frame and global, two layers, qkv proj fc1 fc2
    torch.testing.assert_close(adapted(images).layers[1], expected, atol=0, rtol=0)
    for module in adapted.modules():
        if isinstance(module, LoRALinear):
            torch.nn.init.normal_(module.lora_b, std=5.0)
    changed = adapted(images).layers[1]
    assert (changed - expected).abs().max() > 0.01
    state = merged_state(adapted.state_dict(), alpha=3.0)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    torch.testing.assert_close(plain(images).layers[1], changed, atol=1e-4, rtol=1e-4)


def test_low_rank_changes_are_drawn_from_the_seed(tmp_path: Path) -> None:
    sizes = tiny_options(tmp_path, tmp_path).vggt_config
    drawn = []
    for seed in (0, 0, 1):
        task = task_of(tmp_path, vggt_config="", init_from=f"random:{sizes}", lora_rank=2, seed=seed)
        drawn.append(task.model.aggregator.frame_blocks[0].attn.qkv.lora_a)
        torch.rand(7)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_of_the_aggregator_only_low_rank_changes_or_biases_learn() -> None:
    for options, suffixes in (({"lora_rank": 2}, (".lora_a", ".lora_b")), ({"bias_only": True}, ("bias",))):
        model = tiny_model()
        restrict_aggregator(model, **options)
        learning = [name for name, one in model.named_parameters() if one.requires_grad]
        inside = [name for name in learning if name.startswith("aggregator")]
        assert inside
        assert all(name.endswith(suffixes) for name in inside)
        heads = [name for name, _ in model.named_parameters() if not name.startswith("aggregator")]
        assert set(learning) - set(inside) == set(heads)


def test_a_loss_that_is_not_finite_stops_with_its_part_of_the_batch_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(tmp_path)
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor)
    monkeypatch.setattr(type(task), "trainer", SimpleNamespace(strategy=strategy, precision_plugin=None))
    task.log_dict = lambda *_: None
    first, second = parts_of(frame_batch(2), 2)
    task.watch_loss(torch.tensor(1.0), identity_of(first))
    task.on_before_optimizer_step(task.build_optimizer())
    task.watch_loss(torch.tensor(1.0), identity_of(first))
    task.watch_loss(torch.tensor(torch.nan), identity_of(second))
    with pytest.raises(NonFiniteError, match=r"step 0: expected a finite loss, got nan for \['scene1'\].*seeds \[6\]"):
        task.on_before_optimizer_step(task.build_optimizer())


def without_depth(batch: FrameBatch, groups: slice) -> FrameBatch:
    depth = batch.views.depth.clone()
    depth[groups] = 0
    return replace(batch, views=replace(batch.views, depth=depth))


def gradients_of(task: VGGTTask, batch: FrameBatch, count: int) -> dict[str, Tensor | None]:
    task.zero_grad()
    for part in parts_of(batch, count):
        output, tracks = task._run(part)
        losses = group_losses(output, part, task.loss_weights, tracks)
        (losses["objective"] / len(batch.names)).backward()
    return {name: one.grad for name, one in task.model.named_parameters()}


def test_groups_without_depth_train_the_camera_head_alone(tmp_path: Path) -> None:
    """Every parameter has a gradient, which is what DDP waits for; those of the other heads are 0, none is NaN."""
    task = task_of(tmp_path, **EVERYTHING)
    found = gradients_of(task, without_depth(frame_batch(2), slice(None)), 1)
    assert [name for name, one in found.items() if one is None] == []
    assert [name for name, one in found.items() if not torch.isfinite(one).all()] == []
    reached = {name.partition(".")[0] for name, one in found.items() if (one != 0).any()}
    assert reached == {"aggregator", "camera_head"}


def test_a_mixed_batch_equals_its_groups(tmp_path: Path) -> None:
    """Also in parts of which one has no depth at all; the heads of depth hear of the other groups alone."""
    task = task_of(tmp_path, **EVERYTHING)
    batch = without_depth(frame_batch(4), slice(0, 2))
    whole, parts = gradients_of(task, batch, 1), gradients_of(task, batch, 2)
    known = gradients_of(task, batch[2:], 1)
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, atol=2e-6, rtol=1e-4, msg=name)
        if name.startswith(("depth_head", "point_head", "track_head")):
            torch.testing.assert_close(expected, known[name] / 2, atol=2e-6, rtol=1e-4, msg=name)


def test_a_network_with_a_match_stem_survives_groups_without_depth(tmp_path: Path) -> None:
    task = task_of(tmp_path, vggt_config="models/vggt/configs/nano.json", checkpointing=False)
    found = gradients_of(task, without_depth(frame_batch(1), slice(None)), 1)
    assert all(one is not None and torch.isfinite(one).all() for one in found.values())


def test_cameras_alone_need_no_other_head(tmp_path: Path) -> None:
    options = tiny_options(tmp_path, tmp_path, depth_weight=0.0)
    assert not options.needs_depth
    assert tiny_options(tmp_path, tmp_path).needs_depth
    task = build_vggt_task(options).train()
    found = gradients_of(task, without_depth(frame_batch(2), slice(None)), 1)
    assert {name.partition(".")[0] for name in found} == {"aggregator", "camera_head"}
    assert task.monitor == ("val/auc30", "max")


def test_the_number_of_tracks_is_an_option(tmp_path: Path) -> None:
    _, tracks = task_of(tmp_path, num_tracks=7, **EVERYTHING)._run(frame_batch(1))
    assert tracks.queries.shape == (1, 7, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"expand_ratio": (2.0,), "frame_sampling": ("uniform",)}, "--frame_sampling and --expand_ratio"),
        ({"expand_ratio": (0.5,)}, "--expand_ratio: expected 1 or more"),
        ({"expand_ratio": (2.0, 3.0)}, "--expand_ratio: expected one value, or one for each of 1"),
        ({"expand_ratio": (), "frame_sampling": ("far",)}, "--frame_sampling: expected uniform"),
        ({"annotation_dir": ("a", "b")}, "--annotation_dir: expected one folder"),
        ({"blur": True, "augment": False}, "--blur and --no-augment"),
        ({"turn_portraits": True, "augment_geometry": False}, "--turn_portraits and --no-augment_geometry"),
        ({"num_tracks": 5}, "--num_tracks 5: expected --track_weight above 0"),
        ({"eval_protocol": "random"}, "--eval_protocol: expected one of neighbours, co3d-random10"),
        ({"procedural_motions": ("pan=1",)}, "--procedural_motions: expected procedural in --dataset_name, got"),
        ({"procedural_sensor": 0.5}, "--procedural_sensor: expected procedural in --dataset_name, got"),
        ({"procedural_sensor": 1.5}, "--procedural_sensor: expected a share from 0 to 1, got 1.5"),
        ({"procedural_rooms": 0.2}, "--procedural_rooms 0.2: expected --procedural_motions beside it, got none"),
        ({"procedural_rolls": 0.2}, "--procedural_rolls 0.2: expected --procedural_motions beside it, got none"),
        ({"procedural_photos": 0.2}, "--procedural_photos 0.2: expected --procedural_motions beside it, got none"),
        (
            {"dataset_name": ("procedural",), "procedural_motions": ("spin=1",)},
            "--procedural_motions: expected kinds among",
        ),
        ({"eval_protocol": "co3d-random10", "eval_views": 3}, "--eval_views 3: --eval_protocol co3d-random10 takes 10"),
    ],
)
def test_options_that_contradict_or_do_nothing_are_refused(changes: dict, named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^{named}"):
        tiny_options(tmp_path, tmp_path, **changes)


def test_sampling_per_data_set_or_for_all(tmp_path: Path) -> None:
    one = tiny_options(tmp_path, tmp_path, expand_ratio=())
    two = replace(one, dataset_name=("dtu", "co3d"), datadir=("a", "b"))
    assert two.sampling == (FrameSampling(8.0), UNIFORM)
    assert replace(two, frame_sampling=("nearby:2", "uniform")).sampling == (FrameSampling(2.0), UNIFORM)
    assert replace(two, expand_ratio=(3.0,)).sampling == (FrameSampling(3.0),) * 2
    assert replace(two, expand_ratio=(3.0, 4.0)).sampling == (FrameSampling(3.0), FrameSampling(4.0))


@pytest.mark.parametrize("name", ["co3d", "co3d_vkitti"])
def test_the_guides_default_experiment(name: str) -> None:
    options = parse_options(VGGTOptions, "", ["--config", f"configs/vggt/{name}.txt"])
    assert options.dataset_name == (("co3d",) if name == "co3d" else ("co3d", "vkitti"))
    assert (options.max_steps, options.val_every, options.num_val) == (20 * 800, 5 * 800, 400)
    assert (options.view_range, options.max_img_per_gpu, options.aspect_range) == ((2, 24), 48, (0.33, 1.0))
    assert (options.lrate, options.weight_decay, options.accumulate, options.seed) == (5e-5, 0.05, 2, 42)
    assert options.trained_heads == ("camera", "depth")
    assert options.sampling == (UNIFORM, FrameSampling(8.0))[: len(options.dataset_name)]
    assert (options.blur, options.turn_portraits, options.num_tracks) == (False, False, 1024)


@pytest.mark.parametrize("name", ["vggt_nano", "vggt_nano_start", "vggt_nano_motions"])
def test_the_shipped_models_were_trained_with_blur(name: str) -> None:
    assert parse_options(VGGTOptions, "", ["--config", f"configs/{name}.txt"]).blur


def test_patterns_match_whole_names() -> None:
    model = tiny_model()
    assert frozen_modules(model, ["depth_head"]) == [model.depth_head]
    assert len(frozen_modules(model, ["aggregator.frame_blocks.?"])) == 2
    assert set(module_groups(model)) == {"aggregator", "camera_head", "point_head"}


def weights_without(tmp_path: Path) -> str:
    """An exported tiny network that has only camera and depth heads."""
    config = VGGTConfig.read(SIZES).with_heads(("camera", "depth"))
    torch.manual_seed(3)
    path = tmp_path / "given.safetensors"
    export_weights(VGGT(config).state_dict(), config, path, dtype="float32")
    return str(path)


def test_images_too_small_for_the_track_head_stop_at_the_start(tmp_path: Path) -> None:
    """Fresh track heads have VGGT-1B's seven levels: 64 cells of 2 pixels; the flattest images decide."""
    changes = {"vggt_config": "", "vggt_ckpt": weights_without(tmp_path), "track_weight": 1.0, "new_heads": ("track",)}
    task = task_of(tmp_path, **changes)
    options = replace(task.options, image_size=248, aspect=(0.5, 1.0))
    with pytest.raises(InputError, match=r"^--image_size 248 --aspect 0\.5 1: .* at least 128 pixels .* 248x120 "):
        require_size_for_tracks(options, task.model.config)
    require_size_for_tracks(replace(options, aspect=(0.6, 1.0)), task.model.config)
    with pytest.raises(InputError, match=r"^track head: expected images of at least 128 pixels .* got 248x120 "):
        task.model(torch.zeros(1, 2, 3, 120, 248), torch.zeros(1, 1, 2))


def test_new_heads_start_from_fresh_weights(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = weights_without(tmp_path)
    changes = {"vggt_config": "", "vggt_ckpt": source, "point_weight": 1.0, "new_heads": ("point",)}
    task = task_of(tmp_path, **changes)
    assert "new heads, fresh weights of seed 0: point" in capsys.readouterr().err
    record = task.record()
    assert record.start == f"{source} + fresh point:0"
    assert record.options["new_heads"] == ["point"]
    state, given = task.model.state_dict(), load_file(source)
    assert all(torch.equal(state[key], value) for key, value in given.items())
    fresh = "point_head.projects.0.weight"
    assert state[fresh].std() > 0
    assert state[fresh].shape == state["depth_head.projects.0.weight"].shape
    assert torch.equal(state[fresh], task_of(tmp_path, **changes).model.state_dict()[fresh])
    assert not torch.equal(state[fresh], task_of(tmp_path, **changes, seed=1).model.state_dict()[fresh])
    # the order of parameters is the one that a resumed run finds
    assert list(state) == list(VGGT(task.model.config).state_dict())
    found, _ = gradients(task, 1, groups=1)
    assert found[fresh].abs().max() > 0
    contents = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(contents)
    torch.save(contents, tmp_path / "run.ckpt")
    tracked = {"vggt_ckpt": "", "init_from": str(tmp_path / "run.ckpt"), "track_weight": 0.1, "new_heads": ("track",)}
    assert task_of(tmp_path, **changes | tracked).model.config.heads == ("camera", "depth", "point", "track")
    with pytest.raises(InputError, match=r"--new_heads point: .*run\.ckpt has weights of that already"):
        task_of(tmp_path, **changes | tracked | {"new_heads": ("point",)})


def test_new_heads_that_make_no_sense(tmp_path: Path) -> None:
    source = {"vggt_config": "", "vggt_ckpt": weights_without(tmp_path)}
    with pytest.raises(InputError, match=r"no point head, it has: camera, depth; --new_heads starts one"):
        task_of(tmp_path, **source, point_weight=1.0)
    for changes, message in (
        (source | {"new_heads": ("depth",)}, "--new_heads depth: .*has weights of that already"),
        (source | {"new_heads": ("point",)}, r"--new_heads point: expected heads with a weight above 0"),
        (source | {"new_heads": ("depth", "depth")}, "named twice"),
        ({"new_heads": ("depth",)}, "--new_heads adds to given weights"),
    ):
        with pytest.raises(InputError, match=message):
            task_of(tmp_path, **changes)
    assert parse_options(VGGTOptions, "", ["--new_heads"]).new_heads == ()  # empties the list of a config
