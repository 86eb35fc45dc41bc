"""How well other views confirm depth maps: `python -m data.wai.depth_confidence /path/to/wai`.

Writes `<method>/v0/depth_confidence/<frame>.exr` for every frame, values in [0, 1]: modality
`depth_confidence/<method>`. Exit status 1 if a scene failed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data.problems import Problems, shortened
from data.wai.covisibility import is_sparse, load_depth_views
from data.wai.overlap import ConfidenceRule, depth_confidence, frusta_touch, may_overlap
from data.wai.scene import WaiScene
from data.wai.stages import Parser, add_stage_options, find_scenes, finish, run_stage
from geometry import InputError, one_line_errors, require

STAGE = "depth_confidence"
LONG_SIDE = 360
"""Pixels of the maps that are compared, as the reference."""


@dataclass(frozen=True)
class Settings:
    """How confidence is computed."""

    depth: str = "depth"
    method: str = "depth"
    long_side: int = LONG_SIDE
    is_upstream: bool = False


def add_confidence(settings: Settings, name: str, folder: Path) -> str:
    """Compute and write the confidence of all frames of one scene.

    Raises:
        InputError: as `load_depth_views`.
    """
    scene = WaiScene.read(folder)
    require(not is_sparse(settings.depth), f"--depth: expected dense depth maps, got {settings.depth}")
    problems = Problems()
    views = load_depth_views(scene, settings.depth, settings.long_side, report=problems.add)
    rule = ConfidenceRule(is_upstream=settings.is_upstream, includes_self=settings.is_upstream)
    touching = (frusta_touch if settings.is_upstream else may_overlap)(views)
    paths = {}
    for index, frame in enumerate(tqdm(scene.meta.frames, desc=name, unit="frame", leave=False)):
        values = depth_confidence(views, index, rule, touching=touching)
        relative = f"{settings.method}/v0/depth_confidence/{frame.name}.exr"
        paths[frame.name] = scene.store(relative, values, "scalar")
    key = f"{settings.method}_depth_confidence"
    scene.with_frame_files(f"depth_confidence/{settings.method}", key, "scalar", paths).write()
    return shortened(problems.lines) if problems.lines else ""


def has_confidence(method: str, folder: Path) -> bool:
    """Whether every frame of the meta file names a map that is there."""
    try:
        scene = WaiScene.read(folder)
        key = f"{method}_depth_confidence"
        return all((folder / str(frame.values.get(key, "none"))).is_file() for frame in scene.meta.frames)
    except InputError:
        return False


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; exit status 0 when every scene is done, 1 when one failed, 2 when nothing could begin."""
    parser = Parser(prog="python -m data.wai.depth_confidence", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("root", type=Path, metavar="ROOT", help="a WAI scene, or a folder of them")
    parser.add_argument("--depth", default="depth", help="modality of the depth maps")
    parser.add_argument("--method", default="depth", help="name of the result: where the depth maps are from")
    parser.add_argument("--long_side", type=int, default=LONG_SIDE, help="pixels of the maps that are compared")
    parser.add_argument("--upstream_compatible", action="store_true", help="the reference's numbers, with its defects")
    add_stage_options(parser)
    options = parser.parse_args(arguments)
    require(options.long_side >= 8, f"--long_side: expected 8 pixels or more, got {options.long_side}")
    is_name = options.method.replace("_", "").isalnum()
    require(is_name, f"--method: expected a name of letters, digits and _, got {options.method!r}")
    settings = Settings(options.depth, options.method, options.long_side, options.upstream_compatible)
    outcomes = run_stage(
        STAGE,
        find_scenes(options.root, options.scenes),
        partial(add_confidence, settings),
        settings=asdict(settings),
        workers=options.workers,
        overwrite=options.overwrite,
        is_there=partial(has_confidence, settings.method),
    )
    finish(STAGE, outcomes)


if __name__ == "__main__":
    main()
