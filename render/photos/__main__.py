"""Photographs or a video -> cameras, an evaluated radiance field, a video, points, and a page about all of it.

python -m render.photos photos --out runs/my_photos

The source is a folder of photographs of one place where nothing moves, or a video. Cameras are found by structure from
motion (pycolmap) or by VGGT; the shipped general model is evaluated on photographs that are held out, fine-tuned for
--minutes, evaluated again and filmed. See docs/own_photos.md.
"""

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.image_io import write_bytes
from data.problems import counted
from geometry import InputError, one_line_errors, require, sigterm_like_ctrl_c
from render.photos.finetuning import require_usable
from render.photos.options import PhotosOptions
from render.photos.pages import page_of
from render.photos.pipeline import Pipeline
from render.photos.report import report
from render.photos.stages import remove, run_stages, say
from render.photos.summary import closing_lines, summarize
from render.stages import StageLog
from training.cli import parse_options
from training.files import write_json
from training.folder_claim import FolderClaim

_LOG = "stages.json"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run all stages, say what was found and where it lies."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse_options(PhotosOptions, __doc__, words)
    require_usable(options)
    with claimed_folder(options, words):
        say("\n" + closing_lines(make(options)))


def make(options: PhotosOptions) -> dict[str, Any]:
    """Everything in `--out`, as far as it is not there yet; the contents of summary.json."""
    out = Path(options.out)
    log = StageLog(out / _LOG)
    pipeline = Pipeline(options, log)
    remove((pipeline.report, pipeline.summary))  # of results that may change now
    entries = run_stages(pipeline.stages(), log)
    summary = summarize(pipeline, entries)
    write_bytes(pipeline.report, report(page_of(pipeline, entries, summary)).encode())
    write_json(pipeline.summary, summary)
    return summary


@contextmanager
def claimed_folder(options: PhotosOptions, words: Sequence[str]) -> Iterator[None]:
    """Make `--out`, and take it away again when the run leaves nothing there that a next one could go on from.

    Bad photographs stop a run before there is a scene: nothing is left then. After Ctrl-C or SIGTERM everything stays
    that is finished. A folder that was there to be resumed stays in any case.

    Raises:
        InputError: for a folder that holds something else, a run that is not to be resumed, or one that is at work.
    """
    out = Path(options.out)
    claim = FolderClaim(out)
    content = [path for path in out.iterdir() if path != claim.path] if out.is_dir() else []
    is_run = (out / _LOG).is_file()
    require(
        not content or options.resume,
        f"--out {out}: expected a new or an empty folder, got one with {counted(len(content), 'entry', 'entries')}"
        + ("; --resume goes on with the run in it" if is_run else ""),
    )
    require(not content or is_run, f"--out {out}: expected the folder of a run to --resume, got one without {_LOG}")
    existed = out.is_dir()
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_free = claim.take()
    except OSError as error:
        raise InputError(f"--out {out}: expected a folder that can be written, got {error.strerror}") from None
    require(is_free, f"--out {out}: another process works in it now")
    needed = "photographs"
    try:
        with claim, sigterm_like_ctrl_c():
            yield
    except InputError:
        needed = "scene"
        raise
    except KeyboardInterrupt:
        if is_run or _has_finished(out, needed):
            say(f"\nstopped; to go on: {shlex.join(resumed_command(words))}")
        raise
    finally:
        if not is_run and not _has_finished(out, needed):
            _leave_as_found(out, existed)


def resumed_command(words: Sequence[str]) -> list[str]:
    """The command that goes on with an interrupted one."""
    return ["python", "-m", "render.photos", *(word for word in words if word != "--resume"), "--resume"]


def _has_finished(out: Path, stage: str) -> bool:
    path = out / _LOG
    return path.is_file() and "seconds" in StageLog(path).entries.get(stage, {})


def _leave_as_found(out: Path, existed: bool) -> None:
    if existed:
        remove(list(out.iterdir()))
    else:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    main()
