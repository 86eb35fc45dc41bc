"""Real scenes under free licenses, for people with internet: `python -m data.download stone_sign --out DIR`.

stone_sign (a video), chair, panel17 and banana (photographs) lie in repositories of their authors on GitHub. What is
pinned is a commit. git fetches that commit alone and of it only the files asked for, and every object it receives is
hashed and must have the name that the commit gives it (SHA-1, with detection of collision attacks): the files are
those of the commit, or there are none. stone_sign.mp4 is checked against its SHA-256 as well. Needs git 2.25 or newer.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from data.image_io import write_bytes
from geometry import InputError, one_line_errors, require

_BOOFCV = "https://github.com/lessthanoptimal/BoofCV-Data"
_BOOFCV_COMMIT = "cc6d8adf795be2e0c6cc12b42b9ed0c92cab0fcf"
_CC_BY = "CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/)"
_CC_BY_SA = "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)"
_KINDS = (".jpg", ".jpeg", ".mp4")
_TIMEOUT = 600
"""Seconds for one file or the list of them."""
_STALLED = ("-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30")
"""git gives up below 1000 bytes per second for 30 seconds."""
_OTHERWISE = "without internet, `make demo-photos DEMO_PHOTOS=DIR` takes a folder of photographs that you have"


@dataclass(frozen=True)
class Download:
    """Where a scene is, and under which terms."""

    repository: str
    commit: str
    path: str
    """Folder or file in the repository; of a folder, photographs only."""
    title: str
    author: str
    license: str
    license_files: tuple[str, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    """Of files by name, where it is known."""

    def attribution(self) -> str:
        """What has to be named wherever the images are passed on."""
        where = f"{self.repository} @ {self.commit}, {self.path}"
        return f"{self.title} (c) {self.author}, licensed {self.license}.\n{where}, unchanged.\n"


SCENES = {
    "stone_sign": Download(
        repository=_BOOFCV,
        commit=_BOOFCV_COMMIT,
        path="example/mvs/stone_sign.mp4",
        title='Video "stone_sign" from BoofCV-Data',
        author="2020 Peter Abeles",
        license=_CC_BY_SA,
        license_files=("example/mvs/readme.md",),
        sha256={"stone_sign.mp4": "20073ae19396d89e8dc3f3b09c00e382364c8204a377af761bda2b54fa3f7d69"},
    ),
    "chair": Download(
        repository=_BOOFCV,
        commit=_BOOFCV_COMMIT,
        path="example/sfm/chair",
        title='Photographs "chair" from BoofCV-Data',
        author="Peter Abeles",
        license=_CC_BY,
        license_files=("README.TXT", "LICENSE.TXT"),
    ),
    "panel17": Download(
        repository="https://github.com/ProjectNineveh/panel17RoomM",
        commit="add262c56f100d0d32df870db55a082401fa2d0e",
        path="images",
        title='Photographs "Nineveh North Palace, Room M Panel 17"',
        author="Daniel Pett",
        license=_CC_BY,
        license_files=("README.md", "LICENSE.md"),
    ),
    "banana": Download(
        repository="https://github.com/pierotofy/dataset_banana",
        commit="2778294e4a73aec8f37747e0d2edfc4cb38b23a6",
        path="images",
        title='Photographs "dataset_banana"',
        author="2019 Piero Toffanin",
        license="MIT (see LICENSE)",
        license_files=("LICENSE",),
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message} (see --help)")


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, download, say where the scene is and under which terms."""
    parser = _Parser(prog="python -m data.download", description=__doc__, allow_abbrev=False)
    parser.add_argument("scene", choices=sorted(SCENES), help="name of the scene")
    parser.add_argument("--out", type=Path, help="new folder; default: runs/photos/SCENE")
    arguments = parser.parse_args(argv)
    folder = arguments.out or Path("runs/photos") / arguments.scene
    source = download(arguments.scene, folder)
    sys.stdout.write(f"{(folder / 'ATTRIBUTION.txt').read_text()}{source}\n")


def download(name: str, folder: Path) -> Path:
    """Fetch a scene into a new `folder` and return what `render.photos` takes: the video, or the folder of images.

    The folder appears when all of it is there. What an interrupted download got is kept beside it and used by the
    next. A scene that is there is not fetched again.

    Raises:
        InputError: without internet or git, for a folder that holds something else, and for content that is not what
            was pinned, of which nothing is kept.
    """
    scene = SCENES[name]
    source = folder / Path(scene.path).name if Path(scene.path).suffix in _KINDS else folder / "images"
    attribution = folder / "ATTRIBUTION.txt"
    if attribution.is_file() and attribution.read_text() == scene.attribution() and source.exists():
        return source
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    require(not occupied, f"--out {folder}: expected a new name or an empty folder, got one that is in use")
    require(shutil.which("git") is not None, f"{name}: expected git, which downloads it, got none; {_OTHERWISE}")
    partial = folder.parent / f".{folder.name}.partial"
    staging = partial / "scene"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        (staging / source.relative_to(folder)).parent.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"--out {folder}: expected a folder that can be written, got {error.strerror}") from None
    files = _listed(name, scene, partial)
    target = staging if source.suffix else staging / "images"
    for file in tqdm(files, unit="file", desc=f"download {name}", leave=False):
        content = _git(name, scene, partial, "cat-file", "blob", f"{scene.commit}:{file}")
        _check(name, scene, file, content, partial)
        write_bytes((staging if file in scene.license_files else target) / Path(file).name, content)
    write_bytes(staging / attribution.name, scene.attribution().encode())
    folder.mkdir(exist_ok=True)
    for path in sorted(staging.iterdir(), key=lambda path: path.name == attribution.name):  # the sign of a whole scene
        os.replace(path, folder / path.name)
    shutil.rmtree(partial)
    return source


def _listed(name: str, scene: Download, partial: Path) -> list[str]:
    """Fetch the commit without its files, and list those that are wanted."""
    is_new = not (partial / "git").exists()
    try:
        _git(name, scene, partial, "init", "--quiet")
        _git(name, scene, partial, "config", "remote.origin.url", scene.repository)
        _git(name, scene, partial, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", scene.commit)
        paths = (scene.path, *scene.license_files)
        tree = _git(name, scene, partial, "ls-tree", "-rz", "--name-only", scene.commit, "--", *paths)
    except InputError:
        if is_new:
            shutil.rmtree(partial)
        raise
    files = tree.decode().split("\0")
    images = [file for file in files if Path(file).suffix.lower() in _KINDS]
    require(len(images) > 0, f"{name}: expected images in {scene.path} of {scene.repository}, got none")
    return images + [file for file in files if file in scene.license_files]


def _check(name: str, scene: Download, file: str, content: bytes, partial: Path) -> None:
    expected, got = scene.sha256.get(Path(file).name), hashlib.sha256(content).hexdigest()
    if expected not in (None, got):
        shutil.rmtree(partial)
        raise InputError(f"{name}: {file}: expected SHA-256 {expected}, got {got}; nothing of it is kept")


def _git(name: str, scene: Download, folder: Path, *arguments: str) -> bytes:
    """Output of a git command in a folder; it never asks for a password."""
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_DIR": str(folder / "git")}
    try:
        result = subprocess.run(
            ["git", *_STALLED, *arguments], env=environment, capture_output=True, timeout=_TIMEOUT, check=True
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer for {_TIMEOUT} s"
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[0] if lines else f"git ended with status {error.returncode}"
    else:
        return result.stdout
    raise InputError(f"{name}: cannot be downloaded from {scene.repository} ({reason}); {_OTHERWISE}") from None


if __name__ == "__main__":
    main()
