"""Questions from the command line: views, answers, actions, attention; a tiny network from its file."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.image_io import write_image
from data.scene_qa.records import action_text
from geometry import InputError
from render.answering import NetworkAnswerer, attention_picture, views_of_photos
from render.ask import AskOptions, converse, main
from tests.data.tiny_scenes import write_blendedmvs
from tests.render.answering import VGGT, BrightestView, write_weights

ACTION = {
    "action": "place_anchor",
    "scene": "s",
    "center": [1.0, 2.0, 3.0],
    "normal": [0.0, 0.0, 2.0],
    "extent": [1.0, 1.0, 1.0],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("photos")
    for name, level in (("a.png", 10), ("b.jpg", 200)):
        write_image(folder / name, np.full((20, 30, 3), level, np.uint8))
    return tuple(str(folder / name) for name in ("a.png", "b.jpg"))


def test_an_answer_and_where_it_comes_from(photos: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    answerer, picture = BrightestView(), tmp_path / "where.png"
    given = {"ckpt": "c", "images": photos, "situation": "At the door.", "attention": str(picture)}
    converse(AskOptions(**given, question="Which is bright?", max_new_tokens=9), answerer)
    printed = capsys.readouterr()
    assert printed.out == "view 2\n"
    assert answerer.asked == [("Which is bright?", "At the door.", 9)]
    assert "read of view 1 5 %, view 2 95 %" in printed.err
    pixels = np.asarray(Image.open(picture)).astype(int)
    assert pixels.shape[1] == 320
    dark, bright = pixels[:160, :160].reshape(-1, 3).mean(0), pixels[:160, 160:].reshape(-1, 3).mean(0)
    assert dark.max() < 30
    assert bright[0] - bright[2] > 20  # yellow of the color map over gray


def test_questions_are_read_until_an_empty_line(
    photos: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("one?\n two? \n\nthree?\n"))
    answerer = BrightestView()
    converse(AskOptions(ckpt="c", images=photos), answerer)
    assert [question for question, *_ in answerer.asked] == ["one?", "two?"]
    assert capsys.readouterr().out == "view 2\nview 2\n"


def test_actions_are_checked(photos: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    options = AskOptions(ckpt="c", images=photos, question="place it", json=True)
    converse(options, BrightestView(action_text(ACTION)))
    assert json.loads(capsys.readouterr().out) == ACTION | {"normal": [0.0, 0.0, 1.0]}
    with pytest.raises(InputError, match="expected an action as JSON"):
        converse(options, BrightestView("over there"))
    with pytest.raises(InputError, match="expected one that ends within --max_new_tokens"):
        converse(options, BrightestView(action_text(ACTION), is_complete=False))


def test_views_of_a_scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_blendedmvs(tmp_path / "hall")
    given = {"ckpt": "c", "scene": "hall", "dataset_name": "blendedmvs", "datadir": str(tmp_path), "question": "q?"}
    converse(AskOptions(**given), BrightestView())
    with pytest.raises(InputError, match=r"expected views that it has, got \[9\]"):
        converse(AskOptions(**given, view_ids=(1, 9)), BrightestView())
    with pytest.raises(InputError, match="expected at most 4 views"):
        converse(AskOptions(**given, view_ids=(0, 1, 2, 3, 4)), BrightestView())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--question q a.png", "--ckpt: expected a checkpoint"),
        ("--ckpt c", "expected either images or --scene, got neither"),
        ("--ckpt c a.png --scene s", "expected either images or --scene, got both"),
        ("--ckpt c a.png --datadir d", "--datadir: expected --scene beside it"),
        ("--ckpt c a.png --views 4", "--views 4: expected --scene beside it"),
        ("--ckpt c --scene s --dataset_name dtu", "--scene s: expected --datadir beside it"),
        ("--ckpt c a.png --attention where", "--attention: expected a file name"),
        ("--ckpt c a.png --constrained", "--constrained: expected --json beside it"),
        ("--ckpt c a.png --json --constrained --max_new_tokens 64", "--constrained: expected --max_new_tokens of at"),
        ("--ckpt c.safetensors a.png", "--ckpt c.safetensors: expected a checkpoint or weights"),
    ],
)
def test_one_line_says_what_is_wrong(words: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("vqa") / "tiny.safetensors")


def test_a_network_from_its_file(weights: Path, photos: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    answerer = NetworkAnswerer.load(str(weights), torch.device("cpu"))
    assert (answerer.image_size, answerer.max_views) == (32, 3)
    views = views_of_photos(photos, answerer.image_size)
    answer = answerer.ask(views, "what?", max_new_tokens=3)
    assert answer.attention.shape == (2, 4, 4)
    assert sum(answer.shares) == pytest.approx(1)
    assert attention_picture(views, answer).shape == (160 + 18 + (14 if answer.text else 0), 320, 3)
    common = ["--ckpt", str(weights), *photos, "--device", "cpu", "--question", "what?"]
    main([*common, "--max_new_tokens", "3"])
    assert capsys.readouterr().out.strip() == answer.text
    main([*common, "--json", "--constrained"])  # random weights
    assert json.loads(capsys.readouterr().out)["action"] == "place_anchor"
    with pytest.raises(InputError, match="images: expected 1 to 3, got 4"):
        answerer.ask(views_of_photos(photos * 2, 32), "what?")
    other = VGGT.with_name("general_nano.ckpt")
    with pytest.raises(InputError):
        NetworkAnswerer.load(str(weights), torch.device("cpu"), vggt_ckpt=str(other))
