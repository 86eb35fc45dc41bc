"""configs/vqa/scanqa_sqa3d.txt and roomplan.txt on folders in the layouts that the data sets are shipped in.

Sizes of the networks, steps and samples are those of a toy; everything else is as in the files.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.image_io import write_image, write_uint16
from data.scene_qa.dataset import ABLATIONS
from tests.training.inprocess import outcome_of_vqa
from training.cli import parse_options
from training.vqa.actions import parse_action
from training.vqa.build import build_data
from training.vqa.checkpoint import load_vqa
from training.vqa.evaluation import answers_to, recorded_vggt
from training.vqa.options import VQAOptions

TOY = (
    "--vggt_ckpt ckpts/vggt_nano.safetensors --vggt_layers 0 3 --image_size 32 --language_model tiny --latents 4 "
    "--perceiver_width 16 --perceiver_layers 1 --perceiver_heads 2 --perceiver_ffn 16 --samples_per_update 3 "
    "--max_steps 1 --val_every 1 --num_val 2 --num_workers 0 --accelerator cpu"
)


def write_scannet(folder: Path, scan: str, photographs: int) -> None:
    """As SensReader exports a scan, with the intrinsics of its color camera."""
    scan_dir = folder / scan
    for part in ("pose", "intrinsic"):
        (scan_dir / part).mkdir(parents=True)
    for view in range(photographs):
        write_image(scan_dir / "color" / f"{view}.jpg", np.full((12, 16, 3), 20 * view, np.uint8))
        write_uint16(scan_dir / "depth" / f"{view}.png", np.full((6, 8), 1000 + 500 * view, np.uint16))
        np.savetxt(scan_dir / "pose" / f"{view}.txt", np.eye(4))
    np.savetxt(scan_dir / "intrinsic" / "intrinsic_color.txt", np.diag([10.0, 10.0, 1.0, 1.0]))


def write_questions(scanqa: Path, sqa3d: Path, part: str, scene: str) -> None:
    """One question of each data set."""
    row = {"answers": ["brown", "dark brown"], "object_ids": [3], "object_names": ["table"], "scene_id": scene}
    row |= {"question": "What color is the table?", "question_id": f"{part}-scene-1"}
    (scanqa / f"ScanQA_v1.0_{part}.json").write_text(json.dumps([row]))
    where = {"position": {"x": 0, "y": 0, "z": 0}, "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1}}
    question = {"scene_id": scene, "situation": "I am facing a desk.", "alternative_situation": ["", ""]}
    question |= {"question": "What is on my left?", "question_id": 220602000000 + len(part)}
    answer = {"answer": "door", "answer_confidence": "yes", "answer_id": 1}
    annotation = {"scene_id": scene, "question_type": "other", "answer_type": "other", "answers": [answer], **where}
    annotation["question_id"] = question["question_id"]
    info = {"info": {"version": "1.0"}, "license": {}, "data_type": "scannet", "data_subtype": part}
    names = {"questions": question, "sqa_annotations": annotation}
    for name, entry in names.items():
        key = name.removeprefix("sqa_")
        file = sqa3d / f"v1_balanced_{name}_{part}_scannetv2.json"
        file.write_text(json.dumps({**info, "task_type": "Open-Ended", key: [entry]}))


def test_scanqa_and_sqa3d(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans, scanqa, sqa3d = (tmp_path / name for name in ("scannet", "scanqa", "sqa3d"))
    scanqa.mkdir()
    sqa3d.mkdir()
    for part, scan, photographs in (("train", "scene0000_00", 9), ("val", "scene0011_00", 2)):
        write_scannet(scans, scan, photographs)
        write_questions(scanqa, sqa3d, part, scan)
    given = ["--config", "configs/vqa/scanqa_sqa3d.txt", *TOY.split(), "--basedir", str(tmp_path / "runs")]
    given += ["--datadir", str(scanqa), str(sqa3d), "--scannet_dir", str(scans)]
    assert outcome_of_vqa(given)[0] == 0
    weights, out = tmp_path / "runs/vqa_scanqa_sqa3d/vqa_scanqa_sqa3d.safetensors", tmp_path / "metrics.json"
    more = ["--init_from", str(weights), "--eval_only", "--out", str(out), "--ablations", "first_view"]
    status, errors = outcome_of_vqa([*given, *more, "--max_new_tokens", "2"])
    assert status == 0, errors
    groups = json.loads(out.read_text())["runs"]["none"]["groups"]
    assert {name: group["count"] for name, group in groups.items() if name.startswith("task/")} == {
        "task/scanqa": 1,
        "task/sqa3d": 1,
    }
    assert "majority answer" in capsys.readouterr().out


def write_arkit(folder: Path, scan: str) -> None:
    """Of the 3DOD part, with a trajectory and depth."""
    frames = folder / scan / f"{scan}_frames"
    (frames / "lowres_wide_intrinsics").mkdir(parents=True)
    stamps = [f"{scan}_{6 + view / 10:.3f}" for view in range(3)]
    for view, stamp in enumerate(stamps):
        write_image(frames / "lowres_wide" / f"{stamp}.png", np.full((12, 16, 3), 60 * view, np.uint8))
        write_uint16(frames / "lowres_depth" / f"{stamp}.png", np.full((12, 16), 1500, np.uint16))
        (frames / "lowres_wide_intrinsics" / f"{stamp}.pincam").write_text("16 12 10 10 8 6\n")
    lines = [f"{6 + view / 10} 0.1 0 0 0 {view} 0" for view in range(3)]
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    box = {"centroid": [1.0, 0.5, 0.4], "axesLengths": [0.6, 1.2, 0.8], "normalizedAxes": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    entry = {"uid": "x", "label": "sofa", "modelId": "", "segments": {"obb": box, "obbAligned": box}, "rawLabel": ""}
    (folder / scan / f"{scan}_3dod_annotation.json").write_text(json.dumps({"skipped": False, "data": [entry]}))


def test_roomplan(tmp_path: Path) -> None:
    """Answers that are held to the form are actions, whatever the network knows."""
    for part, scan in (("Training", "47331606"), ("Validation", "42445173")):
        write_arkit(tmp_path / "3dod" / part, scan)
    given = ["--config", "configs/vqa/roomplan.txt", *TOY.split(), "--basedir", str(tmp_path / "runs")]
    given += ["--datadir", str(tmp_path / "3dod")]
    status, errors = outcome_of_vqa(given)
    assert status == 0, errors
    loaded = load_vqa(tmp_path / "runs/vqa_roomplan/vqa_roomplan.safetensors")
    options = parse_options(VQAOptions, "", [*given, "--precision", "32-true", "--eval_only", "--constrained"])
    vggt = recorded_vggt(options, loaded)
    data = build_data(options, vggt, loaded.network.config)
    answers, stopped = answers_to(options, loaded.network, vggt, data, torch.device("cpu"), ABLATIONS[0], False)
    assert len(answers) == 1
    assert parse_action(answers[0][1]).scene
    assert stopped == 1
