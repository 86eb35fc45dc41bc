"""The commands in pages, comments of configs, docstrings of modules and notebooks."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    *("python", "python3", "torchrun", "srun", "sbatch", "make", "pip", "uv", "git", "ruff", "basedpyright", "pytest"),
    *(
        "cp",
        "mv",
        "ln",
        "mkdir",
        "cd",
        "ls",
        "export",
        "source",
        ".",
        "tensorboard",
        "jupyter",
        "docker",
        "wget",
        "curl",
    ),
    *(
        "wget",
        "nvidia-smi",
        "huggingface-cli",
        "hf",
        "unzip",
        "tar",
        "bash",
        "sh",
        "pre-commit",
        "accelerate",
        "mpirun",
    ),
}
"""First words by which a line of a block is known as a command; other lines are output."""
_SHELL = {"", "bash", "sh", "shell", "console"}
_FENCE = re.compile(r"^ *```(\w*) *\n(.*?)^ *``` *$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_BARE = re.compile(r"(?:^|[\s:(])((?:python3? (?:-m |\w+\.py)|torchrun )[^\n]*)")
_PROSE = {"CHANGELOG.md"}
"""What was true of an older version stays as it was."""


@dataclass(frozen=True)
class Command:
    """Words as a shell would split them, and where they stand."""

    words: tuple[str, ...]
    place: str
    is_mention: bool = False
    """A program named in a sentence, without options: it need not run as it stands."""

    def __str__(self) -> str:
        return shlex.join(self.words)


def all_commands() -> list[Command]:
    """Each once, in the order of the pages, README first."""
    first: dict[tuple[str, ...], Command] = {}
    for command in (*_of_pages(), *_of_configs(), *_of_docstrings(), *_of_notebooks()):
        known = first.setdefault(command.words, command)
        if known.is_mention and not command.is_mention:
            first[command.words] = command
    return list(first.values())


def commands_of_page(text: str, place: str) -> list[Command]:
    """Of blocks between fences without a language or with a shell's, and of spans between backticks elsewhere.

    Raises:
        ValueError: for a line of a block that has options and does not begin with one of `PROGRAMS`.
    """
    found = []
    for language, block in _FENCE.findall(text):
        if language in _SHELL:
            found += _of_block(block, place)
    return found + _of_spans(_FENCE.sub("", text), place)


def usage_in(text: str, place: str) -> list[Command]:
    """Of prose such as a docstring: spans between backticks, and `python ...` to the end of the line."""
    joined = _joined(text)
    spans = _of_spans(joined, place)
    rest = _SPAN.sub("", joined)
    return spans + [one for match in _BARE.findall(rest) for one in _split(match.rstrip(" ."), place, is_prose=True)]


def _of_block(block: str, place: str) -> Iterator[Command]:
    for line in _joined(block).splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if _program(words) in PROGRAMS:
            yield from _split(line, place)
        elif re.search(r" --[a-z]", line):
            raise ValueError(f"{place}: {line.strip()!r} looks like a command, but {words[0]} is not among PROGRAMS")


def _of_spans(text: str, place: str) -> list[Command]:
    spans = (" ".join(span.split()) for span in _SPAN.findall(text))
    return [
        one
        for span in spans
        if span.split() and _program(span.split()) in PROGRAMS - {"."} and len(span.split()) > 1
        for one in _split(span, place, is_prose=True)
    ]


def _split(line: str, place: str, *, is_prose: bool = False) -> list[Command]:
    """Commands between `&&` and `;`, without comments and without variables set in front."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";"):
            parts.append([])
        else:
            parts[-1].append(word)
    found = []
    for words in parts:
        words = words[len(words) - len(_without_variables(words)) :]
        if words:
            is_bare = len(words) == (3 if words[1:2] == ["-m"] else 2)
            found.append(Command(tuple(words), place, is_mention=is_prose and is_bare and words[0] != "make"))
    return found


def _program(words: list[str]) -> str:
    return next(iter(_without_variables(words)), "")


def _without_variables(words: list[str]) -> list[str]:
    start = next((index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
    return words[start:]


def _joined(text: str) -> str:
    """Without line ends that a backslash continues."""
    return re.sub(r"\\\n\s*", " ", text)


def _of_pages() -> Iterator[Command]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "benchmarks").rglob("*.md"))]
    pages += [path for path in sorted(ROOT.glob("*.md")) if path.name not in _PROSE and path not in pages]
    for path in pages:
        yield from commands_of_page(path.read_text(), str(path.relative_to(ROOT)))


def _of_configs() -> Iterator[Command]:
    for path in sorted((ROOT / "configs").rglob("*.txt")):
        comments = [line.lstrip("#").strip() for line in path.read_text().splitlines() if line.startswith("#")]
        yield from usage_in("\n".join(comments), str(path.relative_to(ROOT)))


def _of_docstrings() -> Iterator[Command]:
    folders = ("geometry", "data", "models", "training", "render", "benchmarks")
    for path in [*sorted(ROOT.glob("*.py")), *(one for name in folders for one in sorted((ROOT / name).rglob("*.py")))]:
        text = ast.get_docstring(ast.parse(path.read_text()))
        yield from usage_in(text or "", str(path.relative_to(ROOT)))


def _of_notebooks() -> Iterator[Command]:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        place = str(path.relative_to(ROOT))
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                yield from commands_of_page(text, place)
            else:
                lines = [line.lstrip("!% ") for line in _joined(text).splitlines() if line.lstrip().startswith("!")]
                yield from (one for line in lines for one in _split(line, place))
