"""The demonstration end to end at toy size, and what it keeps and prints."""

import json
import os
import re
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from geometry import InputError, Terminated, sigterm_like_ctrl_c
from render import demo
from render.stages import StageLog
from tests import processes

SIZES = ["--scenes", "3", "--views", "20", "--width", "40", "--height", "32", "--frames", "2"]
_FEW_SAMPLES = ("--N_samples", "4", "--N_importance", "2", "--rays_per_step", "16")
SMALLER = {
    "data.procedural": ("--workers", "1"),
    "train_general.py": _FEW_SAMPLES,
    "train_finetune.py": _FEW_SAMPLES,
    "render.forecast_demo": ("--windows", "1", "--side", "32"),
}
"""What the demonstration leaves at its own size, by command."""


def test_stages_are_the_projects_commands(tmp_path: Path) -> None:
    commands = [stage.arguments for stage in demo.stages(demo.DemoOptions(out=str(tmp_path)))]
    starts = [arguments[1] if arguments[0] == "-m" else arguments[0] for arguments in commands]
    assert starts == [
        *("data.procedural", "train_general.py", "render.evaluate"),
        *("train_finetune.py", "render.evaluate", "render.video"),
        *("render.reconstruction_demo", "render.questions_demo", "render.forecast_demo"),
    ]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(InputError, match="--tasks: expected some of reconstruction, questions, forecast, got"):
        demo.DemoOptions(tasks=("forecast", "weather"))


def test_a_folder_of_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Trained and measured stages of before would be shown as those of the new data."""
    log = StageLog(tmp_path / "stages.json")
    for stage in demo.stages(demo.DemoOptions(out=str(tmp_path), frames=3))[:2]:
        log.begin(stage.name, demo._settings(stage))
        log.finish(stage.name, 1.0)
    demo._require_same_ground(demo.stages(demo.DemoOptions(out=str(tmp_path), frames=2)), log)
    with pytest.raises(SystemExit):
        demo.main(["--out", str(tmp_path), "--width", "80"])
    assert f"error: --out: {tmp_path} holds a demonstration whose stage data was python -m" in capsys.readouterr().err


def test_sigterm_ends_the_stage_too(tmp_path: Path) -> None:
    """The stage sends it to the demonstration, whose process is its parent, and would go on for a minute."""
    note = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    send = f"import os, signal, time; {note}; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    with pytest.raises(Terminated), sigterm_like_ctrl_c():
        demo._run(demo._stage("data", "-c", send), StageLog(tmp_path / "stages.json"), sys.executable)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_whole_demonstration(tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(command: list[str]) -> CompletedProcess:
        smaller = [word for name, words in SMALLER.items() if name in command for word in words]
        return processes.run([*command, *smaller], check=False)

    monkeypatch.setattr(demo.subprocess, "run", ended)
    out = tmp_path / "demo"
    arguments = [
        "--out",
        str(out),
        *SIZES,
        "--general_steps",
        "2",
        "--finetune_steps",
        "2",
        "--tasks",
        "questions",
        "forecast",
    ]
    monkeypatch.setattr(demo, "_NEEDS", {"questions": ("json", "a_package_that_nobody_has")})
    demo.main(arguments)
    summary = json.loads((out / "summary.json").read_text())
    assert {"mean_colour", "nearest_source", "general", "finetuned", "seconds", "video"} <= summary.keys()
    for row in ("mean_colour", "nearest_source", "general", "finetuned"):
        assert 0 < summary[row]["psnr"] < 60
    assert {"psnr", "ssim", "depth_abs"} <= summary["general"].keys()
    assert Path(summary["video"]).stat().st_size > 0
    assert summary["scans"]["unseen"] == ["scan1", "scan2"]
    printed = capfd.readouterr().out
    assert "fine-tuned (scan1, held-out views)" in printed
    before = (out / "general" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    demo.main(arguments)
    assert (out / "general" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before
    assert capfd.readouterr().out.count("finished before") == 7
    page = (out / "index.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []  # nothing of another file or the network
    assert "@import" not in page
    assert "url(" not in page
    assert page.count("data:video/mp4;base64,") == 2
    assert "because a_package_that_nobody_has is not installed" in page
    assert f"<td class=number>{summary['finetuned']['psnr']:.2f}</td>" in page.replace('"', "")
    for title in ("Photographs, depth and cameras", "New views and video", "Questions and answers", "Forecast"):
        assert page.count(f"{title}</h2>") == 1
    assert "Reconstruction" not in page
    ids = set(re.findall(r'id="(\w+)"', page))
    assert set(re.findall(r'href="#(\w+)"', page)) == ids == {"data", "video", "questions", "forecast"}
