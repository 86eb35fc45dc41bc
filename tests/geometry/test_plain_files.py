"""What is opened is a file that ends."""

import os
import zipfile
from pathlib import Path

import pytest

from geometry.plain_files import is_inflated, plain_file


def test_pipes_devices_folders_and_links_to_nothing_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "link").symlink_to(file)
    assert plain_file(tmp_path / "link").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, error in {"pipe": OSError, "zero": OSError, "loop": OSError, "nothing": FileNotFoundError}.items():
        with pytest.raises(error):
            plain_file(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        plain_file(tmp_path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_parts_larger_than_the_archive(kind: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as file:
        file.writestr("a", bytes(2**16))
    assert is_inflated(tmp_path / "a.zip") is (kind == zipfile.ZIP_DEFLATED)
