"""Option dataclass <-> command line and txt config (configargparse), both ways."""

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast, get_args

import configargparse

from geometry import InputError, require

Options = TypeVar("Options")


_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


class _HelpFormatter(argparse.HelpFormatter):
    """Adds each default as it is typed, and none where the help itself says what no value means."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = " ".join(map(str, action.default)) if isinstance(action.default, tuple) else action.default
        if action.default is argparse.SUPPRESS or default in (None, ""):
            return text
        return f"{text} (default: %(default)s)" if default is action.default else f"{text} (default: {default})"


class _Parser(configargparse.ArgumentParser):
    """Errors as `InputError`, so that they come out in one line like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def parse_options(cls: type[Options], description: str, argv: Sequence[str] | None = None) -> Options:
    """Options from `--config file.txt` (lines `key = value`) and the command line, which takes precedence.

    A list whose default is empty can be emptied: `--freeze` without a value, or `freeze = []` in the file. A field with
    `is_positional` is a word without `--` (several with `nargs`), of the command line only; left out, it has its
    default. In --help options stand in groups by the class that introduces them, the script's own first.

    Raises:
        InputError: for an unknown or misspelt key (in the file too), a value of the wrong type, a list left without a
            value that needs one, or a contradiction.
    """
    fields = dataclasses.fields(cast(Any, cls))
    words = [field for field in fields if field.metadata.get("is_positional")]
    parser = _Parser(
        usage=" ".join(["%(prog)s [--config FILE] [options]", *(f"[{field.name.upper()}]" for field in words)]),
        description=description,
        config_file_parser_class=configargparse.DefaultConfigFileParser,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", is_config_file=True, metavar="FILE", help="txt file of options")
    groups = _groups(parser, cls)
    for field in fields:
        if field in words:
            parser.add_argument(field.name, **{"nargs": "?", **_argument(field), "metavar": field.name.upper()})
            continue
        names = (field.name, *field.metadata.get("aliases", ()))
        groups[field.name].add_argument(*(f"--{name}" for name in names), **_argument(field))
    try:
        arguments = vars(parser.parse_args(list(sys.argv[1:] if argv is None else argv)))
    except UnicodeDecodeError as error:
        raise InputError(f"--config: expected a text file in UTF-8, got other bytes ({error.reason})") from None
    del arguments["config"]
    for field in fields:
        require(
            arguments[field.name] != [] or not field.default, f"--{field.name}: expected at least one value, got none"
        )
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    return cls(**values)


def _groups(parser: argparse.ArgumentParser, cls: type) -> dict[str, Any]:
    """Where each field's option stands in --help: under the first line of its class's docstring."""
    classes = [one for one in cls.__mro__ if dataclasses.is_dataclass(one)]
    if len(classes) == 1:
        return dict.fromkeys((field.name for field in dataclasses.fields(classes[0])), parser)
    groups = {}
    for one in classes:  # a base class comes later, and keeps an option whose default a script changes
        title = (one.__doc__ or one.__name__).splitlines()[0].rstrip(".")
        groups |= dict.fromkeys(vars(one).get("__annotations__", {}), parser.add_argument_group(title))
    return groups


def _argument(field: dataclasses.Field) -> dict[str, Any]:
    """Keywords of `add_argument` for a field."""
    argument = {"default": field.default, **field.metadata}
    argument["help"] = argument["help"].replace("%", "%%")  # argparse formats it
    for name in ("aliases", "is_positional"):
        argument.pop(name, None)
    if argument.get("nargs") == "+":
        argument["nargs"] = "*"  # whether none is enough depends on the default: see `parse_options`
    if bool in (field.type, *get_args(field.type)):
        return {**argument, "action": argparse.BooleanOptionalAction}
    # tuple[int, ...] and int | None are read as int
    value_type = get_args(field.type)[0] if get_args(field.type) else field.type
    return {"metavar": _METAVARS.get(value_type), **argument, "type": value_type}


def write_config(options: Any, path: Path, header: str) -> None:
    """Write resolved options as a txt config that `--config` reads back to the same options.

    Raises:
        InputError: for a value that such a file cannot hold, such as one of several lines.
    """
    lines = [f"# {header}"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None and value != () and (value != "" or field.default not in (None, "")):
            lines.append(_config_line(field.name, value))
    path.write_text("\n".join(lines) + "\n")


def _config_line(name: str, value: Any) -> str:
    """The plainest form that is read back as it is: quotes keep spaces and what would begin a comment."""
    if isinstance(value, tuple):
        coded = json.dumps(value).replace("#", "\\u0023").replace(";", "\\u003b")
        forms, wanted = [f"[{', '.join(map(str, value))}]", coded], [str(entry) for entry in value]
    else:
        forms, wanted = [f"{value}", f'"{value}"', f"'{value}'"], str(value)
    for line in (f"{name} = {form}" for form in forms):
        with contextlib.suppress(configargparse.ConfigFileParserException):
            found = configargparse.DefaultConfigFileParser().parse(io.StringIO(line)).get(name)
            if wanted == ([str(entry) for entry in found] if isinstance(found, list) else found):
                return line
    raise InputError(f"--{name}: expected a value that a config file can hold, got {value!r}")
