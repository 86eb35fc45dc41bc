"""Which stages run, which are kept, and what an interruption leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from render.photos.stages import Stage, run_stages
from render.stages import StageLog


class Work:
    """Stages a <- b <- c and a <- d, each of which writes a file with its setting; b can go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[str] = []
        self.stopped_in = ""

    def run(self, **settings: int) -> dict[str, dict[str, Any]]:
        self.done = []
        needs = {"a": (), "b": ("a",), "c": ("b",), "d": ("a",)}
        stages = [
            Stage(
                *(name, {"value": settings.get(name, 0)}, self._work(name, settings.get(name, 0)), before),
                makes=(self.folder / name,),
                can_go_on=name == "b",
            )
            for name, before in needs.items()
        ]
        return run_stages(stages, StageLog(self.folder / "stages.json"))

    def _work(self, name: str, value: int) -> Any:
        def work() -> Mapping[str, Any]:
            file = self.folder / name
            self.done.append(name + (" on from " + file.read_text() if file.exists() else ""))
            file.write_text(f"{value}")
            if name == self.stopped_in:
                raise KeyboardInterrupt
            return {"line": f"made {name}", "value": value}

        return work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_everything_once(work: Work, capsys: pytest.CaptureFixture) -> None:
    entries = work.run(c=3)
    assert (work.done, list(entries), entries["c"]["value"]) == (["a", "b", "c", "d"], ["a", "b", "c", "d"], 3)
    assert "[c] made c (0 s)" in capsys.readouterr().out
    assert work.run(c=3) == entries
    assert work.done == []
    assert "[c] made c (kept)" in capsys.readouterr().out


def test_other_settings_redo_what_needs_them(work: Work, capsys: pytest.CaptureFixture) -> None:
    work.run()
    capsys.readouterr()
    work.run(b=1)
    assert work.done == ["b", "c"]
    assert "[b] done anew, with all that builds on it: value 1 instead of 0" in capsys.readouterr().out


def test_an_interrupted_stage_goes_on_where_it_can(work: Work) -> None:
    work.stopped_in = "b"
    with pytest.raises(KeyboardInterrupt):
        work.run(b=1)
    work.stopped_in = ""
    work.run(b=1)
    assert work.done == ["b on from 1", "c", "d"]


def test_an_interrupted_stage_with_other_settings_starts_anew(work: Work) -> None:
    work.stopped_in = "b"
    with pytest.raises(KeyboardInterrupt):
        work.run(b=1)
    work.stopped_in = ""
    work.run(b=2)
    assert work.done == ["b", "c", "d"]


def test_an_interrupted_stage_that_cannot_go_on_starts_anew(work: Work) -> None:
    work.stopped_in = "d"
    with pytest.raises(KeyboardInterrupt):
        work.run()
    work.stopped_in = ""
    work.run()
    assert work.done == ["d"]


def test_nothing_of_a_stage_is_kept_that_was_to_be_redone_when_the_run_ended(work: Work) -> None:
    """a anew with another setting, then Ctrl-C before b: what b had was made of the other a."""
    work.run()
    work.stopped_in = "a"
    with pytest.raises(KeyboardInterrupt):
        work.run(a=1)
    assert not any((work.folder / name).exists() for name in "bcd")
    work.stopped_in = ""
    work.run(a=1)
    assert work.done == ["a", "b", "c", "d"]
