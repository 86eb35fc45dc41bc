"""A folder in which documented commands run as in a checkout, in this process, each once."""

import dataclasses
import importlib
import os
import re
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast, get_args
from unittest import mock

import configargparse
import torch
from torch.distributed import run as torchrun

from data.cache import CACHE_VARIABLE
from tests.documented.extract import ROOT, Command
from tests.documented.table import NOT_RUN, SHAPES, SMALLER, TOY, WORDS
from tests.documented.toys import SAME, TOYS, shipped_weights
from training.cli import parse_options

TABLE = "tests/documented/table.py"
_READ = (
    *("config", "datadir", "real_datadir", "annotation_dir", "peer_dir"),
    *("ckpt", "init_from", "vggt_ckpt", "vggt_config", "eval_ckpt", "path"),
    *("model_ckpt", "model_config", "weights", "language_model"),
)
"""Options that name what a command reads; `none`, `-` and random: need nothing but a file of sizes."""
_SHIPPED = ("configs", "models")


class NotCovered(AssertionError):
    """The table lacks a row."""


class Workspace:
    """Commands are run by `run`, after the commands that write what they read."""

    def __init__(self, folder: Path, commands: list[Command]) -> None:
        self.folder = folder
        self._commands = commands
        self._done: dict[tuple[str, ...], Exception | None] = {}
        self._environment = {CACHE_VARIABLE: str(folder / "cache")}
        for name in _SHIPPED:
            (folder / name).symlink_to(ROOT / name)
        shipped_weights(folder / "ckpts")
        for name in ("data", "toys"):
            (folder / name).mkdir()

    def run(self, command: Command) -> None:
        """Run it unless that was done; what failed fails again.

        Raises:
            NotCovered: when the table does not say how.
            AssertionError: when the command or one that it builds on fails.
        """
        if command.words not in self._done:
            self._done[command.words] = RuntimeError(f"{command}: builds on itself")
            try:
                self._run(command)
                self._done[command.words] = None
            except Exception as error:
                self._done[command.words] = error
        error = self._done[command.words]
        if error is not None:
            raise error

    def parse(self, command: Command) -> None:
        """Its options only, for a script of the repository that does not run here."""
        module, arguments = target(command)
        toy = shrunk(command, module, arguments)
        self._provide_all(command, module, toy)
        with self._inside(), mock.patch.object(sys, "argv", [module, *toy, "--help"]):
            if options_class(module) is not None:
                parse_options(cast(Any, options_class(module)), "", toy)
                return
            # argparse judges the words one after the other, the last one ends it before the work
            status = _status(importlib.import_module(_main_module(module)))
        if status != 0:
            raise AssertionError(f"{command.place}: `{command}` is refused")

    def _run(self, command: Command) -> None:
        module, arguments = target(command)
        toy = shrunk(command, module, arguments)
        self._provide_all(command, module, toy)
        arguments = self._in_free_folder(module, toy)
        with self._inside(), mock.patch.object(sys, "argv", [module, *arguments]):
            script = importlib.import_module(_main_module(module))
            with _in_this_process(script):
                status = _status(script)
        if status != 0:
            raise AssertionError(f"{command.place}: `{command}` ends with status {status}; run as {' '.join(toy)}")

    def _provide_all(self, command: Command, module: str, toy: list[str]) -> None:
        """What the command reads, as it stands and at toy size."""
        documented = [_replaced(word) for word in target(command)[1]]
        for path in dict.fromkeys((*_paths_read(module, toy), *_paths_read(module, documented))):
            self._provide(path, command)

    def _provide(self, path: str, reader: Command) -> None:
        """Make sure that something lies at `path`."""
        here = self.folder / path
        if here.exists():
            return
        name = SAME.get(os.path.normpath(path), path.removeprefix("toys/") if path.startswith("toys/") else "")
        if name in TOYS:
            original = self.folder / "toys" / name
            if not original.exists():
                TOYS[name](original)
            if original != here and not here.exists():
                here.symlink_to(original)
            return
        for writer in sorted(self._commands, key=lambda one: "benchmarks" in str(one)):
            if writer.words != reader.words and runs(writer) and _writes(writer, path):
                self.run(writer)
                if here.exists():
                    return
        raise NotCovered(
            f"{reader.place}: `{reader}` reads {path}, which is not in the repository and which no documented command "
            f"writes: correct the command, or add a row to WORDS in {TABLE} or to TOYS beside it"
        )

    def _in_free_folder(self, module: str, toy: list[str]) -> list[str]:
        """A second run of the same name goes elsewhere: a reader would not start it, or name it otherwise."""
        values = settings(module, toy)
        folder = self.folder / _run_folder(values)
        if module == "render.photos" and "resume" not in values:
            is_there = (self.folder / _first(values, "out", "")).exists()
            return [*toy, "--out", f"again{len(self._done)}"] if is_there else toy
        is_a_run = hasattr(options_class(module), "expname") and not {"ckpt", "export", "eval_only"} & values.keys()
        if not is_a_run or not folder.exists():
            return toy
        return [*toy, "--basedir", f"again{len(self._done)}"]

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The folder is the current one; a command changes neither that nor the number of threads."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with mock.patch.object(torch, "set_num_threads"), mock.patch.dict(os.environ, self._environment):
                yield
        finally:
            os.chdir(before)


def runs(command: Command) -> bool:
    """Whether it is a program of the repository and not among `NOT_RUN`."""
    return reason_not_to_run(command) is None and not command.is_mention and command.words[0] != "make"


def reason_not_to_run(command: Command) -> str | None:
    """Why it stands in `NOT_RUN`, if it does."""
    return next((reason for pattern, reason in NOT_RUN if re.match(pattern, " ".join(command.words))), None)


def target(command: Command) -> tuple[str, list[str]]:
    """Module of the repository and its arguments; of what a launcher starts, after the launcher's own parser.

    Raises:
        NotCovered: for any other program.
    """
    words = list(command.words)
    if words[0] == "srun":
        words = words[next((index for index, word in enumerate(words) if word in ("python", "torchrun")), 0) :]
    if words[0] == "torchrun":
        parsed = torchrun.parse_args(words[1:])
        words = ["python", *(["-m"] if parsed.module else []), parsed.training_script, *parsed.training_script_args]
    if words[0] in ("python", "python3") and words[1] == "-m":
        return words[2], words[3:]
    if words[0] in ("python", "python3") and words[1].endswith(".py"):
        return words[1].removesuffix(".py").replace("/", "."), words[2:]
    raise NotCovered(
        f"{command.place}: no test knows how to run `{command}`: add a row with the reason to NOT_RUN in {TABLE}"
    )


def shrunk(command: Command, module: str, arguments: list[str]) -> list[str]:
    """Its arguments at toy size.

    Raises:
        NotCovered: for a script without a row, or a word that no row replaces.
    """
    if module not in TOY:
        raise NotCovered(f"{command.place}: `{command}` at toy size? Add a row for {module} to TOY in {TABLE}")
    words: list[str] = []
    for word in arguments:
        if _replaced(word) == word or _replaced(word) not in words[-1:]:  # several scans may become the same
            words.append(_replaced(word))
    _require_replaced(command, words)
    if "--help" in words:
        return words
    given = settings(module, words)
    # a training that goes on from a shipped model has its shapes
    kept = SHAPES if module == "train_general" and _first(given, "init_from", "").startswith("ckpts/") else ()
    for name, values in given.items():
        replaced = [_replaced(value) for value in values]
        if name == "arms":  # of a comparison; tests/test_benchmarks.py runs each
            replaced = replaced[:1]
        if replaced != values:
            words += [f"--{name}", *replaced]
        if name in SMALLER and name not in kept:
            words += [f"--{name}", *SMALLER[name].split()]
    return [*words, *TOY[module].split(), *_small_where_it_counts(module, given)]


def _small_where_it_counts(module: str, given: dict[str, list[str]]) -> Iterator[str]:
    """Options that would be refused, or mean something else, beside others than these."""
    if "window_rays" in given:
        yield from ("--rays_per_step", "64")  # one of 8x8
    if _first(given, "layout", "") == "rooms_qa":
        yield from ("--height", "40", "--views", "3")
    if _first(given, "scene_field", "0") != "0" and _first(given, "surfaces", "model") == "model":
        yield from ("--surface_views", "2")
    if module == "benchmarks.features" and "sampler" not in given:
        yield from ("--N_samples", "4", "--N_importance", "2", "--arms", _first(given, "arms", "vggt_depth"))


def _require_replaced(command: Command, words: list[str]) -> None:
    for word in words:
        if word.startswith(("/", "../", "~", "$", "<")) or re.fullmatch(r"[A-Z]+|\.\.\.", word):
            raise NotCovered(
                f"{command.place}: what stands for {word} in `{command}`? Write a path that a reader can see through, "
                f"such as /path/to/dtu, or add a row to WORDS in {TABLE}"
            )


def settings(module: str, words: list[str]) -> dict[str, list[str]]:
    """Option -> values, of the command line or else of its config. Other options keep their defaults."""
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            given[word[2:]] = values = []
        else:
            values.append(word)
    config = _first(given, "config", "")
    if not config.endswith(".txt") or not (ROOT / config).is_file():
        return given
    with (ROOT / config).open() as stream:
        lines = configargparse.DefaultConfigFileParser().parse(stream)
    lists = {name: value if isinstance(value, list) else [value] for name, value in lines.items()}
    return {name: [str(one) for one in values] for name, values in lists.items()} | given


def _replaced(word: str) -> str:
    for pattern, replacement in WORDS:
        match = re.fullmatch(pattern, word)
        if match:
            return match.expand(replacement)
    return word


def _paths_read(module: str, words: list[str]) -> list[str]:
    values = settings(module, words)
    found = [one.removeprefix("random:").partition(":")[0] for name in _READ for one in values.get(name, ())]
    found += [_replaced(one).split(":")[1] for one in values.get("mix", ())]
    defaults = {
        name: getattr(options_class(module), name, "") for name in ("datadir", "real_datadir") if name not in values
    }
    found += [word for word in words if word.startswith("toys/")]  # one without an option's name as well
    found += [one for default in defaults.values() for one in ([default] if isinstance(default, str) else default)]
    # the weights of a mixture are numbers
    return [_replaced(one) for one in found if one not in ("", "-", "none") and not re.fullmatch(r"[\d.]+", one)]


def _writes(command: Command, path: str) -> bool:
    """Whether `path` is, or lies in, what the command says it writes."""
    try:
        module, arguments = target(command)
    except NotCovered:
        return False
    values = settings(module, [_replaced(word) for word in arguments])
    if module.startswith("train_") and not {"export", "eval_only"} & values.keys():
        own = _run_folder(values)
    else:
        own = _first(values, "export", _first(values, "out", ""))
    is_resumed = "ckpt" in values and module.startswith("train_")
    return bool(own) and not is_resumed and Path(path).is_relative_to(own)


def _run_folder(values: dict[str, list[str]]) -> str:
    """Of a training; a name such as guided_{scans} holds values of other options."""
    name = re.sub(
        r"\{(\w+)\}", lambda match: "-".join(values.get(match[1], [])), _first(values, "expname", "experiment")
    )
    return f"{_first(values, 'basedir', 'runs')}/{name}"


def _first(values: dict[str, list[str]], name: str, default: str) -> str:
    return next(iter(values.get(name, ())), default)


def options_class(module: str) -> object:
    """The script's dataclass of options, where it has one."""
    source = importlib.import_module(_main_module(module))
    found = re.search(r"parse_options\((\w+)", Path(str(source.__file__)).read_text())
    return getattr(source, found.group(1)) if found else None


def option_names(module: str) -> set[str]:
    """What a script of the repository understands, aliases and `no-` of switches included."""
    found = options_class(module)
    source = importlib.import_module(_main_module(module))
    text = Path(str(source.__file__)).read_text()
    text += (ROOT / "data/occupancy/grids.py").read_text() if "add_grid_options(" in text else ""
    own = set(re.findall(r'add_argument\(\s*"--(\w+)"', text))
    if found is None or own:
        return own
    fields = dataclasses.fields(cast(Any, found))
    names = {name for field in fields for name in (field.name, *field.metadata.get("aliases", ()))}
    return names | {"config"} | {f"no-{field.name}" for field in fields if bool in (field.type, *get_args(field.type))}


def _main_module(module: str) -> str:
    return f"{module}.__main__" if (ROOT / module.replace(".", "/") / "__main__.py").is_file() else module


@contextmanager
def _in_this_process(script: types.ModuleType) -> Iterator[None]:
    """Benchmarks that measure in a process for each number need not start Python for each of them here."""

    def memory(arguments: list[str], mode: str, frames: int) -> float:
        script.main([*arguments, "--modes", mode, "--frames", str(frames), "--measure"])
        return 0.0

    def scaling(setting: Any) -> Any:
        return vars(script)["_measured"](dataclasses.replace(setting, width=64, height=32))

    def grid(arguments: list[str], name: str, mode: str) -> dict[str, float]:
        return script.measure(name, mode, torch.device("cpu"), 1)

    replaced = {"measured_apart": memory, "grid_measured_apart": grid, "_in_own_process": scaling}
    with ExitStack() as stack:
        for name in replaced.keys() & vars(script).keys():
            stack.enter_context(mock.patch.object(script, name, replaced[name]))
        yield


def _status(module: types.ModuleType) -> int:
    try:
        module.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
