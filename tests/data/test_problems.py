"""What data lacks is counted and listed, once."""

import pytest

from data.problems import LeftOut, Problems, UnreadableFiles, announce, shortened
from geometry import InputError


def test_problems_are_listed_once(capsys: pytest.CaptureFixture) -> None:
    problems, others = Problems(), Problems()
    problems.announce("dtu in d")
    assert capsys.readouterr().err == ""
    for name in "abba":
        problems.add(InputError(name))
    others.add(InputError("b"))
    others.add(InputError("c"))
    problems.extend(others)
    assert problems.lines == ("a", "b", "c")
    problems.announce("dtu in d")
    line = capsys.readouterr().err
    assert line.startswith("dtu in d: 3 problems (")
    assert line.endswith("left out; python -m data.check lists all): a; b; c\n")


def test_problems_of_a_kind_are_counted_with_one_example(capsys: pytest.CaptureFixture) -> None:
    problems = Problems()
    for problem in (LeftOut("frames", "a"), InputError("alone"), LeftOut("maps", "m"), LeftOut("frames", "b")):
        problems.add(problem)
    problems.announce("co3d in c")
    assert capsys.readouterr().err.endswith("lists all): 2 frames, 1 map; a; m; alone\n")


def test_long_lists_are_shortened_to_a_count() -> None:
    assert shortened(list("abcde")) == "a; b; c; d; e"
    assert shortened(list("abcdefgh")) == "a; b; c; d; e; and 3 more"


def test_only_the_first_process_announces(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    announce("hidden")
    monkeypatch.setenv("RANK", "0")
    announce("shown")
    assert capsys.readouterr().err == "shown\n"


def test_unreadable_files_are_named_once_up_to_a_limit(capsys: pytest.CaptureFixture) -> None:
    files = UnreadableFiles()
    for name in "aabcdeffg":
        files.replaced(InputError(name))
    lines = capsys.readouterr().err.splitlines()
    assert [line[0] for line in lines] == ["a", "b", "c", "d", "e"]
    assert "python -m data.check lists all" in lines[-1]
    assert files.count == 9
    files.summarize()
    assert capsys.readouterr().err == "samples replaced because of files that cannot be read: 9\n"
