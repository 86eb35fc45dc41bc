"""Official files: ScanQA, SQA3D, ARKitScenes; views of ScanNet scans."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.image_io import write_image, write_uint16
from data.problems import LeftOut, Problems
from data.scene_qa.arkit import read_arkit
from data.scene_qa.official import SplitFiles, read_scanqa, read_sqa3d, sqa3d_files
from data.scene_qa.readers import QA_READERS, ReadSpec
from data.scene_qa.views import PosedViews
from geometry import InputError

POSE = np.array([[0, 0, 1, 2.0], [-1, 0, 0, 3.0], [0, -1, 0, 1.5], [0, 0, 0, 1]])


@pytest.fixture
def scannet(tmp_path: Path) -> Path:
    """Three photographs; tracking was lost in the second."""
    folder = tmp_path / "scans" / "scene0001_00"
    for part in ("pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    for view in range(3):
        write_image(folder / "color" / f"{view:06d}.jpg", np.full((12, 16, 3), 90, np.uint8))
        write_uint16(folder / "depth" / f"{view:06d}.png", np.full((6, 8), 2500, np.uint16))
        pose = POSE if view != 1 else np.full((4, 4), -np.inf)
        np.savetxt(folder / "pose" / f"{view:06d}.txt", pose)
    matrix = np.diag([10.0, 10.0, 1.0, 1.0])
    matrix[:2, 2] = 5
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", matrix)
    return tmp_path


def test_views_of_a_scan(scannet: Path):
    problems: list[InputError] = []
    views = PosedViews("scannet", str(scannet / "scans"), 4, problems.append)
    found = views("scene0001_00")
    assert found is not None
    assert [path.name for path in found.images] == ["000000.jpg", "000002.jpg"]
    assert [problem.kind for problem in problems if isinstance(problem, LeftOut)] == ["photographs without pose"]
    geometry = found.geometry
    np.testing.assert_allclose(geometry.rotations[0], POSE[:3, :3], atol=1e-6)
    np.testing.assert_allclose(geometry.translations[1], POSE[:3, 3], atol=1e-6)
    np.testing.assert_allclose(geometry.intrinsics[0, :2, 2], [5.5, 5.5])  # centers of pixels at +0.5
    assert geometry.depth_range.tolist() == [[2.5, 2.5]] * 2
    assert views("scene0009_00") is None
    np.savetxt(scannet / "scans/scene0001_00/pose/000002.txt", 2 * POSE)
    (scannet / "scans/scene0001_00/pose/000001.txt").write_text("1 0\n0\n")
    problems.clear()
    again = PosedViews("scannet", str(scannet / "scans"), 4, problems.append)("scene0001_00")
    assert again is not None
    assert [path.name for path in again.images] == ["000000.jpg"]
    messages = list(map(str, problems))
    assert "000001.txt: expected a matrix, got other text" in messages[0]
    assert "000002.txt: expected a rotation matrix" in messages[1]


def scanqa_row(**changes: object) -> dict[str, object]:
    plain = {"scene_id": "scene0001_00", "question_id": "a-1", "question": "What?", "answers": ["box", "a box"]}
    return plain | {"object_ids": [1], "object_names": ["box"]} | changes


def test_scanqa(scannet: Path):
    rows = [scanqa_row(), scanqa_row(question_id="a-2", scene_id="scene0002_00"), scanqa_row(question_id="a-3")]
    for part in ("train", "val"):
        (scannet / f"ScanQA_v1.0_{part}.json").write_text(json.dumps(rows))
    problems: list[InputError] = []
    found = QA_READERS["scanqa"](ReadSpec(str(scannet), str(scannet / "scans"), 2), problems.append)
    assert found.val is not None
    assert [record.id for record in found.train] == [record.id for record in found.val] == ["a-1", "a-3"]
    assert found.train[0].answers == ("box", "a box")
    assert found.train[0].geometry is not None
    kinds = [problem.kind for problem in problems if isinstance(problem, LeftOut)]
    assert kinds.count("questions about scenes without images") == 2
    (scannet / "x.json").write_text(json.dumps([scanqa_row(question_id=name, answers=[]) for name in "ab"]))
    counted = Problems()
    assert read_scanqa(SplitFiles(scannet / "x.json"), None, counted.add) == []
    assert sorted(line[-9:] for line in counted.lines) == ["(entry 1)", "(entry 2)"]  # of one line
    with pytest.raises(LeftOut, match=r"line 1, answers: expected a list of texts, got \[\]"):
        read_scanqa(SplitFiles(scannet / "x.json"), None)


def test_sqa3d_joins_questions_and_answers(tmp_path: Path):
    questions = [
        {"scene_id": "scene0001_00", "situation": "At the door.", "question": "Left?", "question_id": 5},
        {"scene_id": "scene0001_00", "situation": "", "question": "Right?", "question_id": 6},
    ]
    answers = [
        {"scene_id": "scene0001_00", "question_id": name, "answers": [{"answer": "yes", "answer_confidence": "yes"}]}
        for name in (5, 7)
    ]
    (tmp_path / "v1_questions_val_scannetv2.json").write_text(json.dumps({"info": {}, "questions": questions}))
    (tmp_path / "v1_sqa_annotations_val_scannetv2.json").write_text(json.dumps({"annotations": answers}))
    problems: list[InputError] = []
    (record,) = read_sqa3d(sqa3d_files(tmp_path, "val"), None, problems.append)
    assert (record.id, record.situation, record.answers, record.task) == ("5", "At the door.", ("yes",), "sqa3d")
    assert [problem.kind for problem in problems if isinstance(problem, LeftOut)] == [
        "records without answer",
        "answers without question",
    ]
    with pytest.raises(InputError, match=r"expected one file like \*questions\*train\*.json, got none"):
        sqa3d_files(tmp_path, "train")


def box(label: str, center: list[float], extent: list[float], turn: float) -> dict[str, object]:
    cos, sin = np.cos(turn), np.sin(turn)
    axes = [cos, sin, 0, -sin, cos, 0, 0, 0, 1]
    return {
        "label": label,
        "segments": {"obbAligned": {"centroid": center, "axesLengths": extent, "normalizedAxes": axes}},
    }


def test_arkit_anchors(tmp_path: Path):
    folder = tmp_path / "Training" / "41"
    frames = folder / "41_frames"
    (frames / "lowres_wide_intrinsics").mkdir(parents=True)
    for number in range(6):
        stem = f"41_{number / 10 + 7:.3f}"
        write_image(frames / "lowres_wide" / f"{stem}.png", np.zeros((6, 8, 3), np.uint8))
        (frames / "lowres_wide_intrinsics" / f"{stem}.pincam").write_text("8 6 5.0 5.0 3.5 2.5")
    angle = np.array([0.1, 0.2, 0.3])
    lines = [f"{number / 10 + 7.02} {' '.join(map(str, angle))} 1 2 3" for number in range(6)]
    (frames / "lowres_wide.traj").write_text("\n".join(lines))
    boxes = [
        box("tv_monitor", [0.0, 2.0, 1.0], [1.0, 0.1, 0.6], 0.3),
        box("chair", [1.0, 0.0, 0.5], [0.5, 0.5, 1.0], 0.0),
        box("chair", [-1.0, 0.0, 0.5], [0.5, 0.5, 1.0], 0.0),
    ]
    (folder / "41_3dod_annotation.json").write_text(json.dumps({"data": boxes}))
    problems: list[InputError] = []
    (record,) = read_arkit(tmp_path, 3, problems.append)
    assert (record.question, record.situation) == ("Place an anchor on the tv monitor.", "Scene 41.")
    assert [path.stem for path in record.images] == ["41_7.000", "41_7.200", "41_7.400"]
    assert record.action is not None
    normal = np.array(record.action["normal"])
    np.testing.assert_allclose(normal, [np.sin(0.3), -np.cos(0.3), 0], atol=1e-3)  # thin side, toward the chairs
    assert record.action["extent"] == [1.0, 0.1, 0.6]
    assert ["2 objects share their label" in str(problem) for problem in problems] == [True]
    rotation = cv2.Rodrigues(angle)[0]
    assert record.geometry is not None
    np.testing.assert_allclose(record.geometry.rotations[0], rotation.T, atol=1e-6)
    np.testing.assert_allclose(record.geometry.translations[0], -rotation.T @ [1, 2, 3], atol=1e-5)
    (frames / "lowres_wide.traj").write_text(lines[0])
    assert read_arkit(tmp_path, 3, problems.append)[0].geometry is None
    assert "no pose within 0.1 s of 41_7.200.png" in str(problems[1])
