"""Records in files: every form is read, every mistake is named with file, line and key, and counted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.image_io import write_image
from data.problems import LeftOut
from data.scene_qa.build import main as build
from data.scene_qa.check import main as check
from data.scene_qa.geometry import depth_histogram
from data.scene_qa.json_lines import read_entries
from data.scene_qa.records import read_records
from geometry import InputError
from tests.data.tiny_scenes import write_blendedmvs


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    for name in ("scene0001_00/a.png", "scene0001_00/b.png", "scene0002_00/a.png"):
        write_image(tmp_path / name, np.full((8, 12, 3), 100, np.uint8))
    return tmp_path


def row(**changes: object) -> dict[str, object]:
    plain = {
        "images": ["scene0001_00/a.png", "scene0001_00/b.png"],
        "question": "What is  it?",
        "answer": "a box",
        "scene_id": "scene0001_00",
        "question_id": "q1",
    }
    return plain | changes


def token(**changes: object) -> dict[str, object]:
    eye = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    return {"R": [eye, eye], "t": [[0, 0, 0], [1, 0, 0]], "K": [eye, eye], "depth_hist": [[0.0625] * 16] * 2} | changes


@pytest.mark.parametrize("form", ["array", "data", "lines"])
def test_all_forms_give_the_same_records(scene: Path, form: str):
    rows = [row(), row(question_id="q2", question=None, instruction="Where?", answer=["left", "to the left"])]
    texts = {
        "array": json.dumps(rows),
        "data": json.dumps({"version": [1], "samples": rows}, indent=1),
        "lines": "\ufeff" + "\n".join(map(json.dumps, rows)) + "\n",
    }
    (scene / "records.json").write_text(texts[form])
    first, second = read_records([scene / "records.json"])
    assert (first.question, first.answers, first.images[1].name) == ("What is it?", ("a box",), "b.png")
    assert (second.question, second.answers, second.id) == ("Where?", ("left", "to the left"), "q2")


def test_actions_keep_their_text(scene: Path):
    action = {"b": [1.0, 2], "a": "größe"}
    (scene / "records.json").write_text(json.dumps([row(answer=None, action_json=action)]))
    (record,) = read_records([scene / "records.json"])
    assert record.action == action
    assert record.answers == ('{"b": [1.0, 2], "a": "größe"}',)


def test_entries_know_their_lines(tmp_path: Path):
    path = tmp_path / "entries.json"
    path.write_text('{"info": {"a": [1]},\n "data": [\n\n {"x": 1},\n [2,\n 3], "four"]\n, "rest": 1}')
    assert [(entry.line, entry.value) for entry in read_entries(path, ("data",))] == [
        (4, {"x": 1}),
        (5, [2, 3]),
        (6, "four"),
    ]
    path.write_text("[1,\n 2,\n oops]")
    with pytest.raises(InputError, match=r"entries.json, line 3: expected a JSON array"):
        read_entries(path, ("data",))
    path.write_text('{"x": "a\u2028b\x85"}\r\n\n{"x": 2}', newline="")
    assert [(entry.line, entry.value["x"]) for entry in read_entries(path, ())] == [(1, "a\u2028b\x85"), (3, 2)]
    path.write_text("[" * 100000)
    with pytest.raises(InputError, match="maximum recursion depth"):
        read_entries(path, ("data",))
    path.write_text('{"x": 1}\n{"x": }')
    with pytest.raises(InputError, match=r"entries.json, line 2"):
        read_entries(path, ("data",))


@pytest.mark.parametrize(
    ("changes", "kind", "key"),
    [
        ({"images": ["scene0001_00/none.png"]}, "records with missing images", "images: expected a file"),
        ({"images": []}, "records without images", "images: expected a list"),
        ({"images": ["scene0002_00/a.png"]}, "records with an image of another scene", "got one of scene0002_00"),
        ({"question": "  "}, "records without question", "question: expected text"),
        ({"answer": ""}, "records without answer", "answer: expected text"),
        ({"answer": ["a", None]}, "records without answer", "answer: expected text"),
        ({"geom_token": token(t=[[0, 0, 0]])}, "records with wrong geometry", r"t: expected 2 rows .* got \(1, 3\)"),
        ({"geom_token": token(K=[[float("nan")] * 9] * 2)}, "records with wrong geometry", "K: expected finite"),
        ({"geom_token": token(R=None)}, "records with wrong geometry", "R: expected 2 rows of 9 numbers, got null"),
        ({"geom_token": [1]}, "records with wrong geometry", "expected an object with R"),
        ({"images": ["x" * 5000]}, "records with missing images", "images: expected a file"),
        ({"geom_token": token(t=[[1e39, 0, 0]] * 2)}, "records with wrong geometry", "t: expected finite"),
        ({"geom_token": token(R=[[0] * 9] * 2)}, "records with wrong geometry", "R: expected rotations, .* view 1"),
        ({"geom_token": token(K=[[1] * 9, [0] * 9])}, "records with wrong geometry", "K: expected focal .* view 2"),
        ({"geom_token": token(depth_range=[[2, 1]] * 2)}, "records with wrong geometry", "depth_range: expected two"),
        ({"geom_token": token(image_size=[[0, 1]] * 2)}, "records with wrong geometry", "image_size: expected a"),
    ],
)
def test_mistakes_are_named(scene: Path, changes: dict[str, object], kind: str, key: str):
    path = scene / "records.jsonl"
    path.write_text(json.dumps(row()) + "\n\n" + json.dumps(row(question_id="q2") | changes) + "\n")
    with pytest.raises(LeftOut, match=rf"records.jsonl, line 3, \w+: .*{key}|line 3, {key}") as raised:
        read_records([path])
    assert raised.value.kind == kind
    problems: list[InputError] = []
    assert [record.id for record in read_records([path], problems.append)] == ["q1"]
    assert len(problems) == 1


def test_ids_are_unique_over_files(scene: Path):
    for name in ("a", "b"):
        (scene / f"{name}.json").write_text(json.dumps([row()]))
    with pytest.raises(LeftOut, match=r"b.json, line 1, question_id: .* got 'q1' as in .*a.json, line 1"):
        read_records([scene / "?.json"])
    with pytest.raises(InputError, match=r"none\.json: expected a file of records"):
        read_records([scene / "none.json"])


def test_geometry_is_read_with_the_size_of_its_images(scene: Path):
    (scene / "records.json").write_text(json.dumps([row(geom_token=token())]))
    (record,) = read_records([scene / "records.json"])
    assert record.geometry is not None
    assert torch.equal(record.geometry.image_size, torch.tensor([[12.0, 8.0]] * 2))
    assert torch.equal(record.geometry.translations[1], torch.tensor([1.0, 0, 0]))
    (scene / "geometry.json").write_text(json.dumps(token(depth_range=[[1, 2], [3, 4]])))
    (scene / "records.json").write_text(json.dumps([row(geom_token="geometry.json")]))
    assert read_records([scene / "records.json"])[0].geometry.depth_range.tolist() == [[1, 2], [3, 4]]


def test_histograms():
    depth = np.array([[0.0, 1.0, 1.0], [2.0, 17.0, np.inf]])
    shares, limits = depth_histogram(depth)
    assert limits == (1.0, 17.0)
    assert shares[:2].tolist() == [0.5, 0.25]
    assert shares[-1] == 0.25
    assert depth_histogram(np.zeros((2, 2)))[0].sum() == 0
    assert depth_histogram(np.full((2, 2), 3.0))[0][0] == 1


def test_the_command_counts(scene: Path, capsys: pytest.CaptureFixture[str]):
    rows = [row(), row(), row(question_id="q2", scene_id=""), row(question_id="q3", images=["scene0002_00/a.png"])]
    (scene / "records.json").write_text(json.dumps(rows))
    with pytest.raises(SystemExit) as stopped:
        check([str(scene / "records.json")])
    out = capsys.readouterr().out
    assert stopped.value.code == 1
    (scene / "empty.json").write_text("")
    with pytest.raises(SystemExit):
        check([str(scene / "empty.json")])
    assert "files without records: 1" in capsys.readouterr().out
    for line in (
        "2 usable records of 1 scene",
        "records with the id of another: 1",
        "records with an image of another scene: 1",
        "records without scene_id: 1",
        "most frequent answer: 'a box', 100.0 %",
    ):
        assert line in out


def test_questions_get_views_of_a_posed_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_blendedmvs(tmp_path / "scenes" / "hall")
    rows = [row(images=["-"], scene_id=scene, question_id=scene) for scene in ("hall", "attic")]
    (tmp_path / "questions.json").write_text(json.dumps(rows))
    out = tmp_path / "out" / "records.jsonl"
    where = ["--dataset_name", "blendedmvs", "--datadir", str(tmp_path / "scenes"), "--views", "2", "--out", str(out)]
    build([str(tmp_path / "questions.json"), *where])
    assert "1 question about scenes without images" in capsys.readouterr().err
    (record,) = read_records([out])
    assert [path.name for path in record.images] == ["00000000.jpg", "00000003.jpg"]
    assert record.geometry is not None
    assert record.geometry.translations.tolist() == [[0, 0, 0], pytest.approx([42, 0, 0])]
    assert record.geometry.depth_range.tolist() == [[700, 700]] * 2
