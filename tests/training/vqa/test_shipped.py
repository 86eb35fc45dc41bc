"""ckpts/vqa_rooms: it loads, it sees rooms that it was not trained on, and stage 2 starts from it."""

from pathlib import Path

import torch

from data.scene_qa.dataset import QADataset, collate
from data.scene_qa.sources import RoomSource
from models.vggt.frozen import FrozenVGGT
from tests.training.inprocess import outcome_of_vqa
from training.vqa.checkpoint import load_vqa
from training.vqa.inputs import scene_inputs
from training.vqa.metrics import exact_match, majority_by_group

CKPTS = Path(__file__).parents[3] / "ckpts"


def test_answers_about_unseen_rooms_depend_on_what_is_shown() -> None:
    loaded = load_vqa(CKPTS / "vqa_rooms.safetensors")
    network = loaded.network
    vggt = FrozenVGGT.load(loaded.vggt.source, network.config.visual.layers)
    assert vggt.identity.sha256 == loaded.vggt.sha256
    source = RoomSource(987, 0, 8, loaded.vggt.image_size)
    wanted = [record for record in source.records if record.task in ("view", "color", "count")]
    right: dict[str, float] = {}
    for ablation in ("none", "shuffled"):
        samples = QADataset([source], ablation=ablation)
        draws = [draw for draw in samples.evaluation_draws() if source.records[draw.item] in wanted]
        batch = collate([samples[draw] for draw in draws])
        inputs = scene_inputs(batch, network.config, vggt)
        with torch.no_grad():
            answers = network.answer(inputs, batch.questions, max_new_tokens=8)
        assert all(answers.stopped)
        found = [exact_match(text, truth) for text, truth in zip(answers.texts, batch.references, strict=True)]
        right[ablation] = sum(found) / len(found)
    majority = majority_by_group(wanted)
    floor = sum(majority[f"task/{record.task}"].em for record in wanted) / len(wanted)
    assert right["none"] > floor + 0.25
    assert right["shuffled"] < right["none"] - 0.25


def test_stage_2_starts_from_it_with_adapters_of_its_own(tmp_path: Path) -> None:
    merged, config = str(tmp_path / "merged"), "configs/vqa/tiny_actions.txt"
    first = ["--init_from", str(CKPTS / "vqa_rooms.safetensors"), "--language_dtype", "float32", "--merge", merged]
    less = "--rooms 1 --val_rooms 1 --max_steps 1 --val_every 1 --num_val 1 --samples_per_update 2 --accelerator cpu"
    second = ["--config", config, "--language_model", merged, "--token_cache", str(tmp_path / "tokens"), *less.split()]
    for arguments in (first, [*second, "--basedir", str(tmp_path)]):
        status, errors = outcome_of_vqa(arguments)
        assert status == 0, errors
    loaded = load_vqa(tmp_path / "vqa_actions" / "vqa_actions.safetensors")
    assert loaded.network.language.identity.name == merged
    assert any("lm_head" in name for name in loaded.network.language.adapter_state())
