"""What a run leaves of its folder, however it ends."""

import os
import signal
from pathlib import Path

import pytest

from geometry import InputError, Terminated
from render.photos.__main__ import claimed_folder, resumed_command
from render.photos.options import PhotosOptions
from render.stages import StageLog
from training.folder_claim import FolderClaim

ROOT = Path(__file__).parents[3]
WORDS = ["my photos", "--out", "out"]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PhotosOptions:
    monkeypatch.chdir(ROOT)
    return PhotosOptions(source=str(tmp_path), out=str(tmp_path / "runs" / "out"))


def resuming(options: PhotosOptions) -> PhotosOptions:
    return PhotosOptions(source=options.source, out=options.out, resume=True)


def run(
    options: PhotosOptions, end: Exception | KeyboardInterrupt | signal.Signals | None = None, *finished: str
) -> None:
    """A run that finishes these stages, and ends with an exception or gets a signal."""
    with claimed_folder(options, WORDS):
        log = StageLog(Path(options.out) / "stages.json")
        for name in finished:
            log.begin(name, {})
            log.finish(name, 1.0)
        if isinstance(end, signal.Signals):
            signal.raise_signal(end)
        elif end is not None:
            raise end


def test_bad_photographs_leave_nothing(options: PhotosOptions) -> None:
    with pytest.raises(InputError, match="blurred"):
        run(options, InputError("blurred"), "photographs")
    assert not Path(options.out).exists()


def test_a_folder_that_was_there_is_left_empty(options: PhotosOptions) -> None:
    Path(options.out).mkdir(parents=True)
    with pytest.raises(InputError, match="blurred"):
        run(options, InputError("blurred"), "photographs")
    assert list(Path(options.out).iterdir()) == []


def test_a_scene_stays_whatever_comes_behind_it(options: PhotosOptions) -> None:
    with pytest.raises(InputError, match="not finite"):
        run(options, InputError("not finite"), "photographs", "scene")
    assert (Path(options.out) / "stages.json").is_file()


def test_ctrl_c_says_how_to_go_on(options: PhotosOptions, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, KeyboardInterrupt(), "photographs")
    assert "to go on: python -m render.photos 'my photos' --out out --resume\n" in capsys.readouterr().out
    assert (Path(options.out) / "stages.json").is_file()
    assert resumed_command(["a", "--resume", "--out", "b"])[3:] == ["a", "--out", "b", "--resume"]


def test_sigterm_does_what_ctrl_c_does(options: PhotosOptions, capsys: pytest.CaptureFixture) -> None:
    heard: list[int] = []
    usual = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(Terminated):
            run(options, signal.SIGTERM, "photographs")
        signal.raise_signal(signal.SIGTERM)  # after the run, as before it
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert heard == [signal.SIGTERM]
    assert "to go on: python -m render.photos 'my photos' --out out --resume\n" in capsys.readouterr().out
    assert (Path(options.out) / "stages.json").is_file()


def test_ctrl_c_before_anything_is_finished_leaves_nothing(
    options: PhotosOptions, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(options, KeyboardInterrupt())
    assert not Path(options.out).exists()
    assert "to go on" not in capsys.readouterr().out


def test_a_folder_in_which_another_process_works_is_left_alone(options: PhotosOptions) -> None:
    """Both begin before either has written anything; the one that fails would take the other's work away."""
    out = Path(options.out)
    out.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        claim = FolderClaim(out)
        claim.take()
        (out.parent / "taken").touch()
        signal.pause()
    try:
        while not (out.parent / "taken").is_file():
            pass
        with pytest.raises(InputError, match=r"--out .*out: another process works in it now$"):
            run(options, InputError("blurred"), "photographs")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    run(options, None, "photographs")  # what a process that was killed has left is nothing


def test_what_is_there_is_not_overwritten_and_not_taken_away(options: PhotosOptions) -> None:
    out = Path(options.out)
    out.mkdir(parents=True)
    (out / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"--out .*: expected a new or an empty folder, got one with 1 entry$"):
        run(options)
    with pytest.raises(InputError, match=r"got one without stages\.json"):
        run(resuming(options))
    (out / "stages.json").write_text("{}")
    with pytest.raises(InputError, match="--resume goes on with the run in it"):
        run(options)
    with pytest.raises(InputError, match="blurred"):
        run(resuming(options), InputError("blurred"), "photographs")
    assert (out / "thesis.tex").is_file()
