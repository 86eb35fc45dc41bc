"""Ask a scene: `python -m render.ask --help`.

Views are photographs, or with --scene those of a scene of any data set, which bring their cameras. Without --question,
questions are read line by line until an empty one.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.image_io import write_image
from data.readers.registry import READERS, read_scenes
from data.scene_qa.views import METERS_PER_UNIT
from geometry import InputError, one_line_errors, require
from render.answering import (
    MAX_TOKENS,
    Answer,
    Answerer,
    NetworkAnswerer,
    ShownViews,
    attention_picture,
    described,
    require_complete,
    views_of_photos,
    views_of_scene,
)
from render.loading import usable_device
from training.cli import parse_options
from training.options import option
from training.vqa.actions import PLACE_ANCHOR, parse_action, require_room

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_VIEWS = 8


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """Options of `python -m render.ask`."""

    images: tuple[str, ...] = option((), "photographs; the first is view 1", nargs="*", is_positional=True)
    ckpt: str = option("", "checkpoint or weight file of train_vqa.py")
    question: str = option("", "what to ask; not given: questions are read from standard input, one a line")
    situation: str = option("", "where you stand, before the question")
    scene: str = option("", "instead of photographs: a scene of --dataset_name in --datadir")
    dataset_name: str = option("", f"data set of --scene: one of {', '.join(sorted(READERS))}")
    datadir: str = option("", "its folder")
    views: int = option(_VIEWS, "views of --scene, evenly spread")
    view_ids: tuple[int, ...] = option((), "views of --scene by number instead", type=int, nargs="+")
    json: bool = option(False, "the answer is an action: check it and print it as one line of JSON")
    constrained: bool = option(False, "with --json: the network can write nothing but an action")
    attention: str = option("", "write a picture of where the network looked; of several questions the last")
    language_model: str = option("", "where the language model lies, if not where it was in training")
    vggt_ckpt: str = option("", "where VGGT lies, if not where it was in training")
    max_new_tokens: int = option(MAX_TOKENS, "longest answer, tokens")
    device: str = option("auto", "where to compute: auto, cpu, cuda, ...")

    def __post_init__(self) -> None:
        """Refuse what is missing or contradicts itself.

        Raises:
            InputError: naming the option.
        """
        require(bool(self.ckpt), "--ckpt: expected a checkpoint or weight file of train_vqa.py, got none")
        require(
            bool(self.images) != bool(self.scene),
            f"expected either images or --scene, got {'both' if self.images else 'neither'}",
        )
        given = [name for name in ("dataset_name", "datadir", "view_ids") if getattr(self, name)]
        require(bool(self.scene) or not given, f"--{(given or [''])[0]}: expected --scene beside it, got none")
        require(bool(self.scene) or self.views == _VIEWS, f"--views {self.views}: expected --scene beside it, got none")
        for name in ("dataset_name", "datadir"):
            require(not self.scene or bool(getattr(self, name)), f"--scene {self.scene}: expected --{name} beside it")
        for name in ("views", "max_new_tokens"):
            require(getattr(self, name) >= 1, f"--{name}: expected 1 or more, got {getattr(self, name)}")
        require(not self.constrained or self.json, "--constrained: expected --json beside it, got none")
        if self.constrained:
            require_room(self.max_new_tokens)
        require(
            not self.attention or Path(self.attention).suffix.lower() in _SUFFIXES,
            f"--attention: expected a file name such as where.png, got {self.attention!r}",
        )


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, load, answer."""
    options = parse_options(AskOptions, __doc__, argv)
    device = usable_device(options.device)
    answerer = NetworkAnswerer.load(
        options.ckpt, device, language_model=options.language_model, vggt_ckpt=options.vggt_ckpt
    )
    converse(options, answerer)


def converse(options: AskOptions, answerer: Answerer) -> None:
    """Answer --question, or the lines of standard input.

    Raises:
        InputError: for views that cannot be read, and with --question for an answer that is no action with --json.
    """
    views = shown_views(options, answerer)
    for question in questions(options.question):
        answer = answerer.ask(
            views,
            question,
            options.situation,
            max_new_tokens=options.max_new_tokens,
            is_constrained=options.constrained,
        )
        try:
            sys.stdout.write(f"{printed(answer, is_action=options.json)}\n")
        except InputError as error:
            if options.question:
                raise
            sys.stdout.write(f"{error}\n")
        sys.stdout.flush()
        if options.attention:
            write_image(Path(options.attention), attention_picture(views, answer, question))
            sys.stderr.write(f"{described(answer)}; {options.attention}\n")


def shown_views(options: AskOptions, answerer: Answerer) -> ShownViews:
    """Photographs or views of a scene, at the network's size.

    Raises:
        InputError: for what cannot be read, or too many.
    """
    count = len(options.images or options.view_ids)
    require(
        count <= answerer.max_views,
        f"expected at most {answerer.max_views} views, which the network knows, got {count}",
    )
    if options.images:
        return views_of_photos(options.images, answerer.image_size)
    scenes = read_scenes(
        options.dataset_name, options.datadir, split="all", scans=(options.scene,), evaluated_only=True
    )
    return views_of_scene(
        scenes[0],
        answerer.image_size,
        min(options.views, answerer.max_views),
        view_ids=options.view_ids,
        meters_per_unit=METERS_PER_UNIT.get(options.dataset_name, 1.0),
    )


def questions(given: str) -> Iterator[str]:
    """The given one; else lines of standard input up to an empty one."""
    if given:
        yield given
        return
    is_terminal = sys.stdin.isatty()
    while True:
        if is_terminal:
            sys.stdout.write("question> ")
            sys.stdout.flush()
        line = sys.stdin.readline().strip()
        if not line:
            return
        yield line


def printed(answer: Answer, *, is_action: bool) -> str:
    """The answer's text; of an action one line of JSON, its normal of length 1.

    Raises:
        InputError: for text that is no action.
    """
    if not is_action:
        return answer.text
    require_complete(answer)
    return json.dumps({"action": PLACE_ANCHOR, **asdict(parse_action(answer.text))}, ensure_ascii=False)


if __name__ == "__main__":
    main()
