import dataclasses
import hashlib
import os
import subprocess

import pytest

from data import download as module
from data.download import SCENES, Download, download, main
from geometry import InputError

VIDEO = b"frames"


def git(folder, *arguments):
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], env=os.environ | identity, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository that serves single commits without their files, as GitHub does; its branch has gone on since."""
    folder = tmp_path_factory.mktemp("remote")
    git(folder, "init", "-q")
    git(folder, "config", "uploadpack.allowFilter", "true")
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "images").mkdir()
    for name, content in {"images/a.JPG": b"a", "images/b.jpg": b"b", "images/notes.yaml": b"c"}.items():
        (folder / name).write_bytes(content)
    (folder / "v.mp4").write_bytes(VIDEO)
    (folder / "LICENSE").write_text("terms")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "pinned")
    commit = git(folder, "rev-parse", "HEAD")
    (folder / "images" / "a.JPG").write_bytes(b"changed")
    git(folder, "commit", "-qam", "later")
    return folder, commit


@pytest.fixture
def scenes(repository, monkeypatch):
    folder, commit = repository
    photos = Download(f"file://{folder}", commit, "images", "Photographs", "A. Author", "MIT", ("LICENSE", "absent"))
    digest = {"v.mp4": hashlib.sha256(VIDEO).hexdigest()}
    scenes = {"photos": photos, "video": dataclasses.replace(photos, path="v.mp4", sha256=digest)}
    scenes["forged"] = dataclasses.replace(scenes["video"], sha256={"v.mp4": "0" * 64})
    scenes["gone"] = dataclasses.replace(photos, commit="1" * 40)
    scenes["offline"] = dataclasses.replace(photos, repository="http://127.0.0.1:9/none")
    monkeypatch.setattr(module, "SCENES", scenes)
    return scenes


def test_photographs_of_the_pinned_commit(tmp_path, scenes):
    out = tmp_path / "new" / "scene"
    assert download("photos", out) == out / "images"
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    attribution = files.pop("ATTRIBUTION.txt").decode()
    assert files == {"images/a.JPG": b"a", "images/b.jpg": b"b", "LICENSE": b"terms"}
    assert "Photographs (c) A. Author, licensed MIT." in attribution
    assert scenes["photos"].commit in attribution
    assert [path.name for path in out.parent.iterdir()] == ["scene"]


def test_a_scene_that_is_there_is_not_fetched_again(tmp_path, scenes, monkeypatch, capsys):
    main(["video", "--out", str(tmp_path / "scene")])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'scene' / 'v.mp4'}\n")
    monkeypatch.setattr(module, "_git", lambda *_: pytest.fail("fetched"))
    assert download("video", tmp_path / "scene").read_bytes() == VIDEO


def test_an_interrupted_download_goes_on(tmp_path, scenes, monkeypatch):
    fetched, plain = [], module._git

    def interrupted(name, scene, folder, *arguments):
        if arguments[0] == "cat-file":
            fetched.append(arguments[-1])
            if len(fetched) == 2:
                raise KeyboardInterrupt
        return plain(name, scene, folder, *arguments)

    monkeypatch.setattr(module, "_git", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download("photos", tmp_path / "scene")
    assert not (tmp_path / "scene").exists()
    kept = list((tmp_path / ".scene.partial" / "git" / "objects").rglob("*"))
    assert kept
    download("photos", tmp_path / "scene")
    assert sorted(path.name for path in (tmp_path / "scene" / "images").iterdir()) == ["a.JPG", "b.jpg"]


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ("offline", "cannot be downloaded from http://127.0.0.1:9/none"),
        ("gone", "cannot be downloaded from file://"),
        ("forged", f"v.mp4: expected SHA-256 {'0' * 64}, got {hashlib.sha256(VIDEO).hexdigest()}"),
    ],
)
def test_what_cannot_be_had_leaves_nothing(tmp_path, scenes, capsys, scene, said):
    with pytest.raises(SystemExit) as status:
        main([scene, "--out", str(tmp_path / "scene")])
    assert status.value.code == 2
    error = capsys.readouterr().err.rpartition("\r")[2]  # behind the progress bar
    assert error.startswith(f"error: {scene}: {said}")
    assert error.count("\n") == 1
    assert ("DEMO_PHOTOS=DIR" in error) == (scene != "forged")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_and_an_unknown_scene_are_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="expected a new name or an empty folder"):
        download("chair", tmp_path)
    with pytest.raises(SystemExit):
        main(["table"])
    assert "invalid choice: 'table'" in capsys.readouterr().err


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="expected git, which downloads it, got none"):
        download("banana", tmp_path / "scene")


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_pinned_and_attributed(name):
    scene = SCENES[name]
    assert len(scene.commit) == 40
    assert scene.repository.startswith("https://github.com/")
    assert scene.author in scene.attribution()
    assert scene.license in scene.attribution()
