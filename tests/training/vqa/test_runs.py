"""train_vqa.py on rendered rooms: exact resume, what changes, evaluation beside its baselines, mistakes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.scene_qa.types import QABatch, QARecord, QASample
from geometry import InputError
from models.vqa.network import is_base
from models.vqa.prompt import IGNORED
from tests.processes import launched
from tests.training.commands import command_line
from tests.training.inprocess import outcome_of_vqa
from tests.training.vqa.tiny import tiny_options
from training.checkpoint import read_checkpoint
from training.vqa.batch_size import samples_at_once
from training.vqa.build import build_data, build_task, load_vggt_of
from training.vqa.checkpoint import VQA_TRAINING, load_vqa
from training.vqa.inputs import features_of_shown, scene_inputs, spelled_captions
from training.vqa.options import VQAOptions
from training.vqa.runs import train_run
from training.vqa.task import VQATask


def weights_of(options: VQAOptions) -> dict[str, torch.Tensor]:
    return read_checkpoint(options.run_dir / "checkpoints" / "last.ckpt", VQA_TRAINING).weights


def validated(options: VQAOptions) -> dict[str, float]:
    """Metrics of the last validation."""
    events = EventAccumulator(str(options.run_dir / "tensorboard")).Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("val/")}


def built(options: VQAOptions) -> VQATask:
    vggt, record = load_vggt_of(options, options.config)
    data = build_data(options, vggt, options.config_for(vggt.channels))
    return build_task(options, vggt, record, data)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> VQAOptions:
    """Four steps with dropout and hidden views; no cache, whose tokens were of all views."""
    base = tmp_path_factory.mktemp("unbroken")
    options = tiny_options(base, max_steps=4, save_every=2, view_dropout=0.3, token_cache="")
    train_run(options)
    return options


def test_resume_after_a_crash_is_exact(unbroken: VQAOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments, schedule, position in the data, hidden views and dropout."""
    broken = replace(unbroken, basedir=str(tmp_path))
    step = VQATask.training_step

    def crash_in_the_fourth(self: VQATask, *arguments: object) -> torch.Tensor:
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VQATask, "training_step", crash_in_the_fourth)
        with pytest.raises(RuntimeError, match="power cut"):
            train_run(broken)
    half = broken.run_dir / "checkpoints" / "last.ckpt"
    assert read_checkpoint(half, VQA_TRAINING).contents["global_step"] == 2
    train_run(replace(broken, ckpt=str(half)))
    expected = weights_of(unbroken)
    assert [name for name, value in weights_of(broken).items() if not torch.equal(value, expected[name])] == []


def test_exactly_the_declared_parts_learn_and_are_kept(unbroken: VQAOptions) -> None:
    start, end = built(unbroken).network, weights_of(unbroken)
    assert not [name for name in end if is_base(name)]
    buffers = {name for name, _ in start.named_buffers()}
    same = {name for name, value in start.state_dict().items() if torch.equal(value, end[name])}
    assert same == buffers & end.keys()


def test_finished_weights_load_strictly(unbroken: VQAOptions) -> None:
    loaded = load_vqa(unbroken.run_dir / "a.safetensors")
    expected = weights_of(unbroken)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.network.state_dict().items())
    assert loaded.vggt.sha256 == load_vqa(unbroken.run_dir / "checkpoints" / "last.ckpt").vggt.sha256


def test_hidden_views_do_not_reach_vggt(unbroken: VQAOptions) -> None:
    task = built(unbroken)
    vggt, visual = task.vggt, task.network.config.visual
    images = torch.rand(2, 3, 3, 32, 32)
    batch = batch_of(images, [[True, True, True], [True, False, True]])
    features = features_of_shown(vggt, visual, batch)
    assert (features[1, 1] == 0).all()
    alone = features_of_shown(vggt, visual, batch_of(images[1:, [0, 2]], [[True, True]]))
    torch.testing.assert_close(features[1, [0, 2]], alone[0], atol=1e-4, rtol=1e-4)
    assert scene_inputs(batch, task.network.config, vggt).geometry.shape == (2, 3, 32)


def batch_of(images: torch.Tensor, shown: list[list[bool]]) -> QABatch:
    """A caption of all views for each row."""
    text = "; ".join(f"view {view + 1}: red ball" for view in range(images.shape[1]))
    paths = tuple(Path(str(view)) for view in range(images.shape[1]))
    record = QARecord(paths, "what do the views show?", (text,), task="caption", id="1")
    return QABatch.collate(
        [QASample(record, text, row, None, torch.tensor(mask)) for row, mask in zip(images, shown, strict=True)]
    )


def test_captions_are_spelled_where_all_their_views_are_shown(unbroken: VQAOptions) -> None:
    network = built(unbroken).network
    rows = spelled_captions(batch_of(torch.rand(2, 3, 3, 32, 32), [[True] * 3, [True, True, False]]), network)
    assert rows.shape[:2] == (2, 6)
    assert (rows[1] == IGNORED).all()
    assert network.language.codec.decode(rows[0, 2].tolist()) == "view 2 red ball"


def test_eval_only_reports_every_condition(unbroken: VQAOptions, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "metrics.json"
    options = replace(
        unbroken, eval_only=True, init_from=str(unbroken.run_dir / "a.safetensors"), out=str(out), language_model="",
        dataset_name=("rooms_qa", "rooms_actions"), ablations=("zeroed", "shuffled"),
    )  # fmt: skip
    status, errors = outcome_of_vqa(command_line(options))
    assert status == 0, errors
    metrics = json.loads(out.read_text())
    assert list(metrics["runs"]) == ["none", "zeroed", "shuffled", "text_only"]
    assert metrics["language_model"]["name"] == "tiny:0"
    assert metrics["actions"]["none"]["parse_rate"] == 0
    assert metrics["actions"]["mean action"]["parse_rate"] == 1
    assert metrics["majority"]["task/view"]["em"] > 0
    answers = json.loads((tmp_path / "metrics_answers.json").read_text())
    assert len(answers["none"]) == metrics["runs"]["none"]["groups"]["all"]["count"]
    assert "language model alone" in capsys.readouterr().out


def test_export_and_merge(unbroken: VQAOptions, tmp_path: Path) -> None:
    weights = str(unbroken.run_dir / "checkpoints" / "last.ckpt")
    out, folder = tmp_path / "x.safetensors", tmp_path / "merged"
    for more in (["--export", str(out), "--export_dtype", "float16"], ["--merge", str(folder)]):
        status, errors = outcome_of_vqa(["--init_from", weights, "--language_dtype", "float32", *more])
        assert status == 0, errors
    assert out.stat().st_size < (unbroken.run_dir / "a.safetensors").stat().st_size
    assert load_vqa(out).network.config == load_vqa(weights).network.config
    status, errors = outcome_of_vqa(["--init_from", weights, "--merge", str(folder)])
    assert (status, "--merge" in errors, "expected a new or an empty folder" in errors) == (2, True, True)
    more = {"init_from": weights, "language_model": str(folder), "token_cache": ""}
    with pytest.raises(InputError, match="trained on language model tiny:0"):
        built(replace(unbroken, **more))
    start = load_vqa(weights).network
    for source in (weights, str(unbroken.run_dir / "a.safetensors")):
        changes = {"init_from": source, "new_adapters": True, "lora_rank": 3, "lora_targets": ("o_proj", "up_proj")}
        second = built(replace(unbroken, **more | changes)).network
        assert torch.equal(second.perceiver.latents, start.perceiver.latents)
        assert second.language.adapter_state().keys() != start.language.adapter_state().keys()
        rows = start.prompts.inference(["which view?"])
        embeddings = start.embedded(rows, None)
        texts = [
            one.language.hidden(embeddings, rows.attention_mask, rows.position_ids).detach() for one in (start, second)
        ]
        torch.testing.assert_close(*texts, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(strategy: str, unbroken: VQAOptions, tmp_path: Path) -> None:
    """Each with half of the samples; what is cached is shared out, and no dropout differs between them.

    With fsdp only the first has the language model and reads what was trained before.
    """
    start = str(unbroken.run_dir / "a.safetensors")
    less = {
        "lora_dropout": 0.0,
        "perceiver_dropout": 0.0,
        "lrate": 1e-3,
        "projector_lrate": 1e-3,
        "num_val": 3,
        "val_every": 2,
    }
    whole = tiny_options(tmp_path / "one", init_from=start, **less)
    train_run(whole)
    options = replace(whole, basedir=str(tmp_path / "two"), devices=2, strategy=strategy)
    results = launched([sys.executable, "train_vqa.py", *command_line(options)])
    assert [result.returncode for result in results] == [0, 0], results
    expected = weights_of(whole)
    for name, value in weights_of(options).items():
        torch.testing.assert_close(value, expected[name], atol=3e-4, rtol=1e-3, msg=name)
    assert validated(options) == pytest.approx(validated(whole), abs=3e-4, rel=1e-3)  # of an odd number of records


def test_memory_chooses_the_batch() -> None:
    gib = 2**30
    assert [samples_at_once("auto", free * gib) for free in (24, 30, 79, 100)] == [1, 2, 4, 6]
    assert samples_at_once("auto", None) == 0
    assert samples_at_once("3", 100 * gib) == 3
    with pytest.raises(InputError, match="--batch: expected a number or auto, got 'some'"):
        samples_at_once("some", None)


def test_the_probe_reaches_the_network(unbroken: VQAOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    task = built(replace(unbroken, batch="auto"))
    monkeypatch.setattr("training.vqa.task.free_memory", lambda device: 30 * 2**30)
    seen = []
    monkeypatch.setattr(task.model, "forward", lambda *_, micro_batch: seen.append(micro_batch))
    task.losses(batch_of(torch.rand(1, 3, 3, 32, 32), [[True] * 3]))
    assert seen == [2]


def test_only_the_first_process_of_a_sharded_run_loads_the_language_model(
    unbroken: VQAOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = str(unbroken.run_dir / "a.safetensors")
    options = tiny_options(tmp_path, strategy="fsdp", devices=2, init_from=start, token_cache="")
    task = built(options)
    assert not task.network.language.is_hollow
    assert not task.strict_loading  # a resumed run looks for nothing that checkpoints leave out
    monkeypatch.setattr("training.vqa.build.global_rank", lambda: 1)
    language = built(options).network.language
    assert all(one.is_meta for one in language.parameters())
    assert not any(one.is_meta for one in language.buffers())
    assert language.identity == load_vqa(start).network.language.identity
    language.get_memory(torch.device("cpu"))
    assert not any(one.is_meta for one in language.parameters())
    assert language.inner.lm_head.weight is language.inner.get_input_embeddings().weight
    task = built(replace(options, strategy="ddp"))
    assert task.strict_loading
    assert not task.network.language.is_hollow


def test_strategies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny_options(tmp_path, strategy="ddp").lightning_strategy == "ddp"
    sharded = tiny_options(tmp_path, strategy="fsdp", devices=2).lightning_strategy
    assert isinstance(sharded, ModelParallelStrategy)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="expected the package"):
        _ = tiny_options(tmp_path, strategy="deepspeed").lightning_strategy


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--geometry", "cameras"], "GeometryConfig.style"),
        (["--prompt_format", "json"], "prompt_format"),
        (["--geometry_tokens", "2"], "--geometry_tokens 2: expected at least --max_views 3"),
        (["--batch", "x"], "--batch"),
        (["--dataset_name", "cats", "--datadir", "-", "--weights", "1"], "--dataset_name"),
        (["--language_model", "nowhere"], "--language_model nowhere"),
        (["--lora_targets", "z_proj"], "LoRA"),
        (["--freeze_text_layers", "9"], "frozen layers"),
        (["--eval_only"], "--eval_only"),
        (["--eval_only", "--export", "x.safetensors"], "--eval_only and --export"),
        (["--merge", "x"], "--merge: expected --init_from"),
        (["--batch", "²"], "--batch"),
        (["--lora_alpha", "nan"], "LoRAConfig.alpha"),
        (["--ablations", "none"], "--ablations: expected some of zeroed"),
        (["--perceiver_ckpt", "configs/vqa/tiny_rooms.txt"], "projector configs/vqa/tiny_rooms.txt: expected a whole"),
        (["--perceiver_ckpt", "x", "--init_from", "x"], "--perceiver_ckpt and --init_from"),
        (["--new_adapters"], "--new_adapters: expected --init_from"),
        (["--constrained"], "--constrained: expected --eval_only"),
        (["--samples_per_update", "3", "--devices", "2"], "--samples_per_update 3"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_nothing(more: list[str], named: str, tmp_path: Path) -> None:
    status, errors = outcome_of_vqa([*command_line(tiny_options(tmp_path)), *more])
    assert status == 2, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert named in errors
    assert not (tmp_path / "runs").exists()
