"""Write ray-traced scenes with exact depth in the layout of a real data set, for training and for tests."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data.procedural.generate import available_cores, generate
from data.procedural.indoor import FAMILIES
from data.procedural.layout_parts import DEFAULT_SHAPE, DEFAULT_SHAPES
from data.procedural.writers import LAYOUTS, GeneratorSettings
from geometry import InputError, one_line_errors


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise InputError(f"{message} (see --help)")


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and generate."""
    options = vars(_parser().parse_args(arguments))
    out, num_scenes, workers = options.pop("out"), options.pop("scenes"), options.pop("workers")
    for name, count in (("--scenes", num_scenes), ("--workers", workers)):
        if count < 1:
            raise InputError(f"{name}: expected 1 or more, got {count}")
    shape = DEFAULT_SHAPES.get(options["layout"], DEFAULT_SHAPE)
    for name, default in zip(("width", "height", "views"), shape, strict=True):
        options[name] = default if options[name] is None else options[name]
    generate(out, GeneratorSettings(**options), num_scenes, workers=workers)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m data.procedural",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--layout", required=True, help=f"one of {', '.join(LAYOUTS)}")
    parser.add_argument("--out", required=True, type=Path, help="new folder, or one to resume or extend")
    parser.add_argument("--scenes", required=True, type=int, help="number of scenes")
    parser.add_argument("--width", type=int, help="pixels; not given: 640, rooms_qa: 96")
    parser.add_argument("--height", type=int, help="pixels; not given: 512, rooms_qa: 96")
    parser.add_argument(
        "--views",
        type=int,
        help="per scene; dtu: 20 to 49, the fine-tuning split's 20 views come first; co3d: from 24 on; "
        "rooms_qa: 2 to 4; not given: 49, rooms_qa: 3",
    )
    parser.add_argument("--seed", type=int, default=0, help="scene i depends on the seed and on i only")
    parser.add_argument("--lights", type=int, default=1, help="dtu: lightings 0..lights-1; a single one is number 3")
    parser.add_argument("--first_scan", type=int, default=1, help="number of the first scene in its folder's name")
    parser.add_argument("--tracer", default="exact", help="exact, or fast: single precision, hard shadows")
    parser.add_argument("--rooms", default="", help=f"blendedmvs: rooms instead of tables, {', '.join(FAMILIES)}")
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes")
    return parser


if __name__ == "__main__":
    main()
