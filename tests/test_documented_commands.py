"""Every command that pages, configs, docstrings and notebooks show runs to its end, at toy size."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from tests.documented.extract import ROOT, Command, all_commands, commands_of_page, usage_in
from tests.documented.table import NOT_RUN, OTHER_OPTIONS, TOY
from tests.documented.workspace import (
    NotCovered,
    Workspace,
    option_names,
    options_class,
    reason_not_to_run,
    runs,
    settings,
    shrunk,
    target,
)

COMMANDS = all_commands()
RUN = [command for command in COMMANDS if runs(command)]
MAKE = [command for command in COMMANDS if command.words[0] == "make"]
OTHERS = [command for command in COMMANDS if not runs(command) and command not in MAKE]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


def _name(command: Command) -> str:
    return f"{command.place}: {command}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("documented"), COMMANDS)


@pytest.mark.parametrize("command", RUN, ids=_name)
def test_a_documented_command_runs(command: Command, workspace: Workspace) -> None:
    workspace.run(command)


@pytest.mark.parametrize("command", OTHERS, ids=_name)
def test_what_does_not_run_is_right_as_far_as_it_can_be_checked(command: Command, workspace: Workspace) -> None:
    if command.words[0] not in ("python", "python3", "torchrun", "srun"):
        assert command.is_mention or reason_not_to_run(command)
        return
    module, arguments = target(command)
    if module == "pytest":
        return
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
    if arguments:
        workspace.parse(command)


@pytest.mark.parametrize("command", MAKE, ids=_name)
def test_make_knows_its_targets_and_they_run_what_exists(command: Command) -> None:
    rules = dict(re.findall(r"^([\w-]+):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name in command.words[1:]:
        modules = re.findall(r"\$\(BIN\)/python -m (\S+)", rules[name])
        assert modules
        for module in modules:
            assert module in ("pytest", "pdoc") or (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_the_table_has_no_row_in_vain() -> None:
    assert [pattern for pattern, _ in NOT_RUN if not any(re.match(pattern, str(one)) for one in COMMANDS)] == []
    of_python = [*RUN, *(command for command in OTHERS if command.words[0] == "python")]
    assert TOY.keys() - {target(command)[0] for command in of_python} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_options_named_in_pages_exist(page: Path) -> None:
    """In prose and tables too. The first column of migration.md has others' options."""
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        return
    if page.name == "migration.md":
        text = re.sub(r"^\| [^|]* \|", "", text, flags=re.MULTILINE)
    known = OTHER_OPTIONS.union(
        *(option_names(script) for script in [*TOY, "render.demo", "benchmarks.occupancy", "benchmarks.vqa"])
    )
    named = set(re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)(?![\w{*-])", text))
    assert sorted(named - known) == [], f"add options of other programs to OTHER_OPTIONS (page {page.name})"


UNITS = re.compile(
    r"\b(meters?|m|mm|pixels?|degrees?|radians|seconds?|minutes?|hours?|GB|MB|bytes|characters|dB|no unit|units?|"
    r"logarithm|share|probability|ratio|factor|scales?|scaled|times|norm|rate|weights?|deviations?|percentile|powers?|"
    r"numbers?|seeds?|randomness|index|layers?|channels|width|rank|dropout|heads?|tokens|embeddings|blocks|codes|"
    r"epochs?|steps?|processes|nodes|threads?|port|repeats|samples?|batch|rays?|planes|voxels?|cells?|points|edges|"
    r"views?|frames?|images?|photographs?|scans?|scenes?|rooms?|worlds|cameras|records|questions|groups?|checkpoints?|SIGKILLs|cases)\b"
)


@pytest.mark.parametrize("module", sorted(TOY))
def test_a_number_says_what_it_counts(module: str) -> None:
    """--help names the unit of each option that is a number."""
    options = options_class(module)
    every = fields(cast(Any, options)) if options else ()
    numbers = [field for field in every if {int, float} & {field.type, *get_args(field.type)}]
    assert [field.name for field in numbers if not UNITS.search(field.metadata["help"])] == []


def test_where_commands_are_found() -> None:
    page = "Try `make demo`, or `ls`.\n```\n"
    page += "python a.py --x 1 \\\n    --y 2  # why\n| a table |\nA=1 torchrun b.py && c\n```\n"
    page += "```python\npython = 1\n```\nSee `python -m c.d` and `python -m c.d\n--help`.\n"
    found = commands_of_page(page, "page")
    assert [(str(one), one.is_mention) for one in found] == [
        ("python a.py --x 1 --y 2", False),
        ("torchrun b.py", False),
        ("c", False),
        ("make demo", False),
        ("python -m c.d", True),
        ("python -m c.d --help", False),
    ]
    found = usage_in("What: `python -m a --b 1`. Data: python -m e --out runs \\\n    --n 3\nThen python on.", "doc")
    assert [str(one) for one in found] == ["python -m a --b 1", "python -m e --out runs --n 3"]
    with pytest.raises(ValueError, match="not among PROGRAMS"):
        commands_of_page("```\npyhton train.py --config x\n```\n", "page")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("python -m render.other --out x", "Add a row for render.other to TOY"),
        ("python -m render.evaluate --ckpt $CKPT", "what stands for \\$CKPT"),
        ("python -m render.evaluate --ckpt X --out results", "what stands for X"),
        ("python -m render.evaluate --ckpt nowhere/last.ckpt --out results", "no documented command writes"),
        ("python train_general.py --config configs/nerf/dtu_general.txt --datadir elsewhere", "reads elsewhere"),
        ("singularity run image", "add a row with the reason to NOT_RUN"),
    ],
)
def test_what_the_table_lacks_is_said(words: str, message: str, workspace: Workspace) -> None:
    with pytest.raises(NotCovered, match=message):
        workspace.run(Command(tuple(words.split()), "page"))


def test_a_command_that_fails_fails_the_test(workspace: Workspace) -> None:
    words = "python train_vggt.py --config configs/vggt/co3d.txt --datadir /data/co3d /data/vkitti --lora_rank 4"
    with pytest.raises(AssertionError, match="ends with status 2"):
        workspace.run(Command(tuple(words.split()), "page"))


def test_toy_sizes_by_hand() -> None:
    words = ["python", "train_general.py", "--config", "configs/nerf/dtu_general.txt", "--datadir", "/path/to/dtu"]
    command = Command(tuple(words), "page")
    toy = settings("train_general", shrunk(command, *target(command)))
    assert toy["datadir"] == ["toys/dtu"]  # WORDS
    assert toy["vggt_ckpt"] == ["toys/vggt.safetensors"]  # WORDS, of the config
    assert toy["N_samples"] == ["4"]  # SMALLER
    assert toy["rays_per_step"] == ["8"]  # TOY
    assert toy["depth_loss"] == ["0.1"]  # as it is
    launched = Command(("torchrun", "--nproc_per_node=2", *words[1:]), "page")
    assert target(launched) == target(command)
