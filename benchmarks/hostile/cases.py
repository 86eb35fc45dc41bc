"""One case: damage drawn from a seed, a reader under limits of time and memory, and what came of it."""

import contextlib
import random
import resource
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.hostile.formats import FORMATS, Garbage
from benchmarks.hostile.mutations import damaged
from data.image_io import write_bytes
from geometry import InputError

CORRECT, REFUSED, FAILED = "correct", "refused", "failed"
SECONDS = 10
"""Of the processor, for one case."""
MEMORY = 2**30
"""Bytes of addresses that a case may take beside what the process has."""
_LONGEST = 1500
"""Characters of a readable message, paths of files included."""


class Outcome(NamedTuple):
    """Of one case."""

    verdict: str
    """`correct`, `refused` (with a one-line error, or part of the data reported and left out) or `failed`."""
    why: str
    """The message; of a failure what was wrong."""


class TimeOut(BaseException):
    """A case took more than `SECONDS`. Not an Exception, so that no reader takes it for a damaged file."""


class Bench:
    """Samples in a folder of its own, written once; every case damages one file of one, which is put back after it."""

    def __init__(self, folder: Path, names: tuple[str, ...] = tuple(FORMATS)) -> None:
        self._files: dict[str, dict[Path, tuple[str, bytes]]] = {}
        """By format: file of its sample -> kind of damage, content."""
        self._roots = {name: folder / f"format{number:02d}" for number, name in enumerate(names)}
        for name, root in self._roots.items():
            root.mkdir(parents=True)
            FORMATS[name].write(root)
            found = {}
            for pattern, kind in FORMATS[name].damaged.items():
                found |= {path: (kind, path.read_bytes()) for path in sorted(root.glob(pattern)) if path not in found}
            self._files[name] = found

    def whole(self, name: str) -> list[Outcome]:
        """Of the undamaged files: all must be read without a complaint."""
        paths = list(self._files[name])
        return [self.outcome(name, path) for path in (paths[:1] if FORMATS[name].is_one else paths)]

    def case(self, name: str, seed: int, index: int) -> Outcome:
        """The case of that number; the same for the same numbers, whatever ran before."""
        draw = random.Random(f"{seed}/{name}/{index}")
        files = self._files[name]
        kind = draw.choice(sorted({kind for kind, _ in files.values()}))
        path = draw.choice([path for path, (one, _) in files.items() if one == kind])
        return self.with_content(name, path, damaged(files[path][1], kind, draw))

    def with_content(self, name: str, path: Path, content: bytes) -> Outcome:
        """Of a file with this content instead of its own."""
        write_bytes(path, content)
        try:
            return self.outcome(name, path)
        finally:
            write_bytes(path, self._files[name][path][1])

    def path(self, name: str, pattern: str) -> Path:
        """The first file of a sample that is like that."""
        return next(path for path in self._files[name] if path.match(pattern))

    def outcome(self, name: str, path: Path) -> Outcome:
        """Of the sample as it lies there, of which that file is damaged."""
        try:
            with limits(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problems = FORMATS[name].read(self._roots[name], path)
        except InputError as error:
            problems = [error]
            if any(isinstance(one, MemoryError) for one in _causes(error)):
                return Outcome(
                    FAILED, f"{path.name}: {_place(error)}: more than {MEMORY} bytes of memory: {error!s:.200}"
                )
        except Garbage as error:
            return Outcome(FAILED, f"{path.name}: garbage taken for whole: {error}")
        except TimeOut:
            return Outcome(FAILED, f"{path.name}: more than {SECONDS} s")
        except (Exception, SystemExit) as error:
            return Outcome(FAILED, f"{path.name}: {_place(error)}: {type(error).__name__}: {error!s:.200}")
        wrong = [str(one) for one in problems if len(str(one)) > _LONGEST or not str(one).isprintable()]
        if wrong:
            return Outcome(FAILED, f"{path.name}: a message that is no readable line: {wrong[0]!r:.300}")
        return Outcome(REFUSED if problems else CORRECT, str(problems[0]) if problems else "")


@contextlib.contextmanager
def limits(seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[None]:
    """The block raises `TimeOut` or MemoryError beyond them. In the main thread alone; memory on Linux alone."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeOut

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = Path("/proc/self/statm")
    before = signal.signal(signal.SIGPROF, stop)
    if taken.is_file():
        pages = int(taken.read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__context__


def _place(error: BaseException) -> str:
    """The last line of this project's that an error went through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "site-packages" not in file.parts and "benchmarks" not in file.parts and file.parent.name != "python3":
            place = f"{file.parent.name}/{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
