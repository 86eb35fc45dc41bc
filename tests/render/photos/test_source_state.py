"""Whether photographs are still the same."""

import os
from pathlib import Path

from render.photos.source_state import state_of


def test_it_changes_with_names_sizes_and_times(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    first = folder / "more" / "a.jpg"
    first.write_bytes(b"123")
    os.utime(first, ns=(5, 5))
    states = [state_of(folder), state_of(folder)]
    first.write_bytes(b"1234")
    os.utime(first, ns=(5, 5))
    states.append(state_of(folder))
    os.utime(first, ns=(6, 6))
    states.append(state_of(folder))
    (folder / "b.jpg").write_bytes(b"")
    states.append(state_of(folder))
    assert states[0] == states[1]
    assert len(set(states)) == 4
    assert state_of(first) != state_of(folder / "b.jpg")  # a video is a file


def test_what_a_run_writes_below_its_source_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    before = state_of(tmp_path, tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "stages.json").write_text("{}")
    assert state_of(tmp_path, tmp_path / "runs" / "mine") == before
    assert state_of(tmp_path, Path(os.path.relpath(tmp_path / "runs" / "mine"))) == before
    (tmp_path / "runs" / "b.jpg").write_bytes(b"2")
    assert state_of(tmp_path, tmp_path / "runs" / "mine") != before
