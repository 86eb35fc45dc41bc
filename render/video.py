"""Free-viewpoint video of a scene: color beside depth, along a camera path.

python -m render.video --ckpt C --dataset_name dtu --datadir D --scan scan24 --trajectory orbit --frames 60 --out V.mp4
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from data.scene import MIN_SIDE, PosedScene
from data.view_selection.neighbors import nearest_by_center
from geometry import InputError, Views, one_line_errors, require
from models.nerf.renderer import SourceMaps
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from render.loading import load_for, precision_for, scenes_for, usable_device
from render.options import PathOptions, VideoOptions
from render.paths import PathFile, frames_of, read_path
from render.source_pool import SourcePool
from render.trajectories import CameraPath, automatic_kind, camera_path
from training.cli import parse_options
from training.files import staged_file
from training.nerf.checkpoint import read_nerf_checkpoint
from training.pictures import as_bytes, colored_depth
from training.precision import autocast_of

Picture = UInt8[np.ndarray, "height width 3"]
_FRAMES, _FPS = 60, 24
"""Where neither an option nor a camera path file says."""
_QUALITY = 8
"""imageio's scale of 0 to 10 for its encoder: larger files show fewer artifacts. Chosen by hand."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, write the video."""
    written = make_video(parse_options(VideoOptions, __doc__, argv))
    sys.stdout.write(f"written: {', '.join(str(path) for path in written)}\n")


def make_video(options: VideoOptions) -> list[Path]:
    """Render the path that the options describe and return the files written.

    Along `--path` and `--trajectory auto` every frame has the sources that see most of what it sees, and `auto` follows
    all views of the pool. Otherwise a general model renders all frames from the same `n_views` source views, neighbors
    in the middle of the pool, and the path leads around them. A fine-tuned model covers its whole scene: every frame
    has the sources nearest to it, and spirals and orbits follow all views of the pool.

    Raises:
        InputError: for anything the user can correct, before a file is written or with none left behind.
    """
    return write_film(filmed_frames(options, usable_device(options.device)), options)


def write_film(film: "Film", options: VideoOptions) -> list[Path]:
    """Render the frames into the files that the options name; these.

    Raises:
        InputError: for a file that cannot be written, with none left behind.
    """
    fps = options.fps or film.fps or _FPS
    out = Path(options.out)
    files = list(dict.fromkeys([out, out.with_suffix(".gif")] if options.gif else [out]))
    with ExitStack() as stack:
        writers = [stack.enter_context(video_file(file, fps)) for file in files]
        for rendered in tqdm(film.frames, total=film.count, unit="frame", desc=film.name):
            picture = frame_picture(rendered, film.path)
            for write in writers:
                write(picture)
    return files


@dataclass(frozen=True)
class Film:
    """Frames along a camera path."""

    path: CameraPath
    frames: Iterator[RenderedImage]
    """Rendered one after the other, as they are asked for."""
    fps: float | int | None
    """As the camera path file says."""
    name: str
    trajectory: str
    """Name of the path: where `auto` was asked for, the one that it has chosen; a camera path file's name."""

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self.path.near)


def filmed_frames(options: PathOptions, device: torch.device) -> Film:
    """What the options describe, see `make_video`.

    Raises:
        InputError: for anything the user can correct.
    """
    checkpoint = read_nerf_checkpoint(Path(options.ckpt))
    record = checkpoint.record
    scans = (options.scan,) if options.scan else ()
    scene = only_scene(scenes_for(record, options, scans, split="all"))
    pool = pool_of(scene, options.source_views, options.n_views)
    plan = _plan(options, scene, pool, is_local=record.task == "finetune")
    model = load_for(options, checkpoint, device, [scene])
    precision = precision_for(options, record, device)
    frames = render_path(model, scene, plan.path, plan.sources, device, options.imgScale_test, options.chunk, precision)
    return Film(plan.path, frames, plan.fps, f"{scene.scan} {plan.name}", plan.trajectory)


@dataclass(frozen=True)
class _Plan:
    """What to film."""

    path: CameraPath
    sources: list[tuple[int, ...]]
    """Of every frame."""
    fps: float | int | None
    """As a camera path file says."""
    name: str
    trajectory: str
    """See `Film`."""


def _plan(options: PathOptions, scene: PosedScene, pool: tuple[int, ...], *, is_local: bool) -> _Plan:
    scale, count = options.imgScale_test, options.n_views
    views = SourcePool.of(scene, pool, scale)
    if options.path:
        file = read_path(Path(options.path), scene.image_size(pool[0]))
        path, sources = filmed(file, views, count, scale, options.frames)
        name = Path(options.path).name
        return _Plan(path, sources, file.fps, name, name)
    trajectory, frames = options.trajectory or "interpolate", options.frames or _FRAMES
    everywhere = CameraPath(views.cameras, views.near, views.far)
    if trajectory == "auto":
        path = camera_path(trajectory, everywhere, frames)
        sources = [views.nearest(w2c, count) for w2c in path.cameras.w2c]
        chosen = automatic_kind(everywhere)
        return _Plan(path, sources, None, f"auto ({chosen})", chosen)
    central = central_views(scene, pool, count)
    if not is_local or trajectory == "interpolate":
        everywhere = CameraPath(scene.cameras(central, scale), *scene.near_far(central))
    path = camera_path(trajectory, everywhere, frames)
    sources = nearest_views(scene, pool, path, count) if is_local else [central] * frames
    return _Plan(path, sources, None, trajectory, trajectory)


def filmed(
    file: PathFile, pool: SourcePool, count: int, scale: float = 1.0, frames: int | None = None
) -> tuple[CameraPath, list[tuple[int, ...]]]:
    """The frames of a camera path file, resized by `scale`, and the `count` sources of each.

    Bounds that the file does not give are those of what the sources see in the frame, see `SourcePool.bounds`.

    Raises:
        InputError: for a scale that leaves almost nothing of the images.
    """
    wanted = frames_of(file, frames)
    height, width = (round(side * scale) for side in (wanted.cameras.height, wanted.cameras.width))
    least = f"at least {MIN_SIDE} pixels a side"
    require(min(height, width) >= MIN_SIDE, f"--path: expected images of {least} after scaling, got {width}x{height}")
    cameras = wanted.cameras.resized(height, width)
    sources = [pool.nearest(w2c, count) for w2c in cameras.w2c]
    near, far = wanted.near, wanted.far
    if near is None or far is None:
        bounds = [pool.bounds(cameras[index : index + 1], ids) for index, ids in enumerate(sources)]
        near, far = torch.tensor(bounds).unbind(-1)
    return CameraPath(cameras, near, far), sources


@torch.no_grad()
def render_path(
    model: VGGTNeRF,
    scene: PosedScene,
    path: CameraPath,
    source_ids: Sequence[tuple[int, ...]],
    device: torch.device,
    scale: float = 1.0,
    chunk: int = 4096,
    precision: str = "32-true",
) -> Iterator[RenderedImage]:
    """The frames of a path one after the other, each from its own source views, encoded only when they change."""
    path = path.to(device)
    current: tuple[int, ...] = ()
    maps: SourceMaps | None = None
    for frame, ids in enumerate(source_ids):
        if ids != current:
            source = Views.stack([scene.views(ids, scale, wants_depth=False, wants_mask=False).to(device)])
            with autocast_of(precision, device):
                maps, current = model.encode(source, (scene.name,)), ids
        one = slice(frame, frame + 1)
        with autocast_of(precision, device):
            rendered = render_image(model.view(maps, path.cameras[one], path.near[one], path.far[one]), chunk)
        yield rendered


def pool_of(scene: PosedScene, asked_for: tuple[int, ...], n_views: int) -> tuple[int, ...]:
    """The views that may be sources: those asked for, else the scene's training views.

    Raises:
        InputError: for a view that the scene lacks, or fewer than `n_views`.
    """
    missing = [view for view in asked_for if view not in scene.frames]
    if missing:
        raise InputError(f"--source_views: expected views of {scene.name} ({sorted(scene.frames)}), got {missing}")
    pool = tuple(dict.fromkeys(asked_for)) or scene.train_views
    if len(pool) < n_views:
        raise InputError(f"scene {scene.name}: expected {n_views} source views (--n_views), got only {list(pool)}")
    return pool


def central_views(scene: PosedScene, pool: Sequence[int], count: int) -> tuple[int, ...]:
    """The view of the pool whose center is nearest (L1) to the mean of all, and those nearest to it."""
    centers = _centers(scene, pool)
    middle = nearest_by_center({**centers, -1: torch.stack(list(centers.values())).mean(0)}, -1, pool)[0]
    return tuple(nearest_by_center(centers, middle, pool)[:count])


def nearest_views(scene: PosedScene, pool: Sequence[int], path: CameraPath, count: int) -> list[tuple[int, ...]]:
    """For every frame the `count` views of the pool whose centers are nearest (L1), in ascending order.

    The order does not depend on the frame, so that frames with the same views share their cached VGGT tokens.
    """
    centers = _centers(scene, pool)
    frames = path.cameras.centers
    return [tuple(sorted(nearest_by_center({**centers, -1: frame}, -1, pool)[:count])) for frame in frames]


def frame_picture(rendered: RenderedImage, path: CameraPath) -> Picture:
    """Color beside depth; the colors of depth mean the same in all frames of a path."""
    near, far = path.near.min().item(), path.far.max().item()
    return as_bytes(torch.cat([rendered.rgb, colored_depth(rendered.depth, near, far)], dim=1))


@contextmanager
def video_file(path: Path, fps: float | int) -> Iterator[Callable[[Picture], None]]:
    """A function that appends a frame to the .mp4 or .gif `path`, which appears when the block ends well.

    Raises:
        InputError: where `path` cannot be written, or the encoder writes nothing.
    """
    with staged_file(path) as partial:
        if path.suffix == ".gif":
            writer = imageio.get_writer(partial, mode="I", duration=1000 / fps, loop=0)
        else:
            # without macro_block_size imageio rescales frames to multiples of 16; yuv420p needs even sides only
            writer = imageio.get_writer(
                partial, format="FFMPEG", fps=fps, codec="libx264", quality=_QUALITY, macro_block_size=2
            )
        failed = f"--out {path}: expected a video by ffmpeg, got none (see above)"

        def write(picture: Picture) -> None:
            try:
                writer.append_data(_even(picture))
            except OSError:  # the encoder has ended
                raise InputError(failed) from None

        try:  # leaving `with writer` by an exception would keep ffmpeg running
            yield write
        finally:
            writer.close()
        require(partial.stat().st_size > 0, failed)


def _even(picture: Picture) -> UInt8[np.ndarray, "even_height even_width 3"]:
    """With the last row and column repeated where their number is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _centers(scene: PosedScene, views: Sequence[int]) -> dict[int, Float[Tensor, " 3"]]:
    return {view: scene.frames[view].center for view in views}


def only_scene(scenes: Sequence[PosedScene]) -> PosedScene:
    """The one scene among those read.

    Raises:
        InputError: asking for `--scan`, when there are several.
    """
    if len(scenes) != 1:
        found = ", ".join(scene.scan for scene in scenes)
        raise InputError(f"--scan: expected the name of one scan, got none for {len(scenes)} there: {found}")
    return scenes[0]


if __name__ == "__main__":
    main()
