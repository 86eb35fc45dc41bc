"""Free-viewpoint video of a scene: color beside depth, along a camera path.

python -m render.video --ckpt C --dataset_name dtu --datadir D --scan scan24 --trajectory orbit --frames 60 --out V.mp4
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from data.scene import PosedScene
from data.view_selection.neighbors import nearest_by_center
from geometry import InputError, Views, one_line_errors
from models.nerf.renderer import SourceMaps
from models.nerf.vggt_nerf import RenderedImage, VGGTNeRF, render_image
from render.loading import load_for, precision_for, scenes_for, usable_device
from render.options import VideoOptions
from render.trajectories import CameraPath, camera_path
from training.cli import parse_options
from training.files import staged_file
from training.nerf.checkpoint import read_nerf_checkpoint
from training.pictures import as_bytes, colored_depth
from training.precision import autocast_of

Picture = UInt8[np.ndarray, "height width 3"]
_QUALITY = 8
"""imageio's scale of 0 to 10 for its encoder: larger files show fewer artifacts. Chosen by hand."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, write the video."""
    written = make_video(parse_options(VideoOptions, __doc__, argv))
    sys.stdout.write(f"written: {', '.join(str(path) for path in written)}\n")


def make_video(options: VideoOptions) -> list[Path]:
    """Render the path that the options describe and return the files written.

    A general model renders all frames from the same `n_views` source views, neighbors in the middle of the pool,
    and the path leads around them. A fine-tuned model covers its whole scene: every frame has the sources nearest to
    it, and spirals and orbits follow all views of the pool.

    Raises:
        InputError: for anything the user can correct, before a file is written or with none left behind.
    """
    device = usable_device(options.device)
    checkpoint = read_nerf_checkpoint(Path(options.ckpt))
    record = checkpoint.record
    scans = (options.scan,) if options.scan else ()
    scene = _only(scenes_for(record, options, scans, split="all"))
    pool = pool_of(scene, options.source_views, options.n_views)
    central = central_views(scene, pool, options.n_views)
    is_local = record.task == "finetune"
    along = pool if is_local and options.trajectory != "interpolate" else central
    seen = scene.views(along, options.imgScale_test, wants_depth=False, wants_mask=False)
    path = camera_path(options.trajectory, seen, options.frames)
    choice = nearest_views(scene, pool, path, options.n_views) if is_local else [central] * options.frames
    model = load_for(options, checkpoint, device, [scene])
    precision = precision_for(options, record, device)
    out = Path(options.out)
    files = list(dict.fromkeys([out, out.with_suffix(".gif")] if options.gif else [out]))
    with ExitStack() as stack:
        writers = [stack.enter_context(video_file(file, options.fps)) for file in files]
        bar = stack.enter_context(tqdm(total=options.frames, unit="frame", desc=f"{scene.scan} {options.trajectory}"))
        for rendered in render_path(
            model, scene, path, choice, device, options.imgScale_test, options.chunk, precision
        ):
            picture = frame_picture(rendered, path)
            for write in writers:
                write(picture)
            bar.update()
    return files


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
def video_file(path: Path, fps: int) -> Iterator[Callable[[Picture], None]]:
    """A function that appends a frame to the .mp4 or .gif `path`, which appears when the block ends well."""
    with staged_file(path) as partial:
        if path.suffix == ".gif":
            writer = imageio.get_writer(partial, mode="I", duration=1000 / fps, loop=0)
        else:
            # without macro_block_size imageio rescales frames to multiples of 16; yuv420p needs even sides only
            writer = imageio.get_writer(
                partial, format="FFMPEG", fps=fps, codec="libx264", quality=_QUALITY, macro_block_size=2
            )
        try:  # leaving `with writer` by an exception would keep ffmpeg running
            yield lambda picture: writer.append_data(_even(picture))
        finally:
            writer.close()


def _even(picture: Picture) -> UInt8[np.ndarray, "even_height even_width 3"]:
    """With the last row and column repeated where their number is odd."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _centers(scene: PosedScene, views: Sequence[int]) -> dict[int, Float[Tensor, " 3"]]:
    return {view: scene.frames[view].center for view in views}


def _only(scenes: Sequence[PosedScene]) -> PosedScene:
    if len(scenes) != 1:
        found = ", ".join(scene.scan for scene in scenes)
        raise InputError(f"--scan: expected the name of one scan, got none for {len(scenes)} there: {found}")
    return scenes[0]


if __name__ == "__main__":
    main()
