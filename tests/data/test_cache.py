"""Files that are made once: by one of several, again when they are broken, and nowhere where there is no folder."""

import logging
import threading
import time
from pathlib import Path

import pytest

from data.cache import CACHE_VARIABLE, cache_folder, cached


class Number:
    """Makes a number and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def get(self, wanted: str = "7") -> int:
        return cached("a/number.txt", lambda content: int(content) if content.decode() == wanted else None, self._make)

    def _make(self) -> tuple[int, bytes]:
        time.sleep(0.05)
        self.made += 1
        return 7, b"7"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_made_once_and_again_when_broken_or_another(folder: Path) -> None:
    number = Number()
    assert [number.get(), number.get()] == [7, 7]
    assert number.made == 1
    assert (folder / "a" / "number.txt").read_bytes() == b"7"
    for content in (b"", b"\xff\xfe", b"8"):
        (folder / "a" / "number.txt").write_bytes(content)
        assert [number.get(), number.get()] == [7, 7]
    assert number.made == 4
    number.get("9")  # what is there does not fit
    assert number.made == 5


def test_of_several_one_makes_it(folder: Path) -> None:
    number = Number()
    threads = [threading.Thread(target=number.get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.made == 1
    assert sorted(path.name for path in (folder / "a").iterdir() if path.suffix != ".lock") == ["number.txt"]


def test_without_a_folder_it_is_made_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    number = Number()
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    assert [number.get(), number.get(), number.made] == [7, 7, 2]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        assert number.get() == 7
    assert [line.partition(":")[0] for line in caplog.messages] == ["nothing is kept for the next start"]


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vggt_nerf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "vggt_nerf"
    monkeypatch.setenv(CACHE_VARIABLE, "off")
    assert cache_folder() is None
