"""What a log of stages keeps over the end of a command."""

from pathlib import Path

import pytest

from geometry import InputError
from render.stages import StageLog


def test_a_finished_stage_is_known_by_its_settings(tmp_path: Path) -> None:
    path = tmp_path / "stages.json"
    log = StageLog(path)
    log.begin("solve", {"size": (4, 3), "seed": 0})
    again = StageLog(path)
    assert again.finished("solve", {"size": [4, 3], "seed": 0}) is None
    assert again.begun("solve", {"size": [4, 3], "seed": 0}) is not None
    log.finish("solve", 1.234, points=9)
    again = StageLog(path)
    assert again.finished("solve", {"size": (4, 3), "seed": 0}) == {
        "settings": {"size": [4, 3], "seed": 0},
        "seconds": 1.2,
        "points": 9,
    }
    assert again.finished("solve", {"size": (4, 3), "seed": 1}) is None
    assert again.changed("solve", {"size": (4, 3), "seed": 1}) == {"seed": (0, 1)}
    assert again.changed("film", {"seed": 1}) == {}
    again.forget(["solve", "film"])
    assert StageLog(path).entries == {}


def test_a_stage_that_begins_anew_is_not_finished(tmp_path: Path) -> None:
    log = StageLog(tmp_path / "stages.json")
    log.begin("solve", {"seed": 0})
    log.finish("solve", 1.0)
    log.begin("solve", {"seed": 0})
    assert log.finished("solve", {"seed": 0}) is None


@pytest.mark.parametrize("content", ["{", "[1]", '{"solve": 3}'])
def test_a_file_that_is_no_log_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(content)
    with pytest.raises(InputError, match=r"stages\.json"):
        StageLog(tmp_path / "stages.json")
