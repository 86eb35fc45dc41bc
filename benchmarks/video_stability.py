"""How much a video flickers: the difference between frames of a path once the camera's motion is taken out.

    python -m benchmarks.video_stability --ckpt C --dataset_name dtu --datadir D --scan scan24 --trajectory interpolate

Options are those of `render.video`, without a file. Every pixel of a frame is carried into a later one by the depth
that was rendered with it; where both frames agree on the depth, their colors should be the same (warping error, Lai et
al. 2018, "Learning Blind Video Temporal Consistency", sec. 4; the flow is from depth and cameras here). Beside it the
same difference at the same pixel, without warping: what the motion alone makes. A blur does not flicker: read it beside
the PSNR of `render.evaluate`.
"""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tqdm import tqdm

from geometry import Cameras, one_line_errors, pixel_centers, require, sample_at_pixels
from models.nerf.vggt_nerf import RenderedImage
from render.loading import usable_device
from render.options import PathOptions
from render.video import filmed_frames
from training.cli import parse_options
from training.options import option

_AGREEMENT = 0.02
"""Relative difference of depth within which two frames see the same surface."""


@dataclass(frozen=True, kw_only=True)
class StabilityOptions(PathOptions):
    """Those of `render.video`, and which frames are compared."""

    apart: tuple[int, ...] = option((1, 5), "compare frames that are so many apart", nargs="+")

    def __post_init__(self) -> None:
        """See `PathOptions`.

        Raises:
            InputError: naming the option.
        """
        super().__post_init__()
        require(
            min(self.apart, default=0) >= 1 and (self.frames is None or max(self.apart) < self.frames),
            f"--apart: expected numbers from 1 to less than --frames, got {list(self.apart)}",
        )


class Difference(NamedTuple):
    """Of two frames."""

    warped: float
    """Mean absolute difference of color where both see the same surface, in [0, 1]; NaN where they nowhere do."""
    still: float
    """Of the same pixels without warping."""
    shared: float
    """Share of the first frame's pixels that count."""
    contradicted: float
    """Share of those inside the second frame for which it has a surface farther away than where the first one has its:
    if the first were right, it would hide that."""


def difference(first: RenderedImage, second: RenderedImage, cameras: Cameras) -> Difference:
    """How two frames differ; `cameras`: theirs, one leading axis of 2."""
    height, width = first.depth.shape
    pixels = pixel_centers(height, width, first.depth).view(1, -1, 2)
    points_world = cameras[:1].unproject(pixels, first.depth.reshape(1, -1))
    there = cameras[1:].project(points_world)
    maps = torch.cat([second.rgb.movedim(-1, 0), second.depth[None]])[None]
    seen = sample_at_pixels(maps, there.pixels, height, width)[0]
    visible, depth = there.visible[0], there.depth[0]
    ahead = (seen[:, 3] - depth) / depth.clamp_min(1e-12)
    same = visible & (ahead.abs() < _AGREEMENT)
    color = first.rgb.reshape(-1, 3)
    warped = (color - seen[:, :3]).abs().mean(-1)[same].mean().item()
    still = (color - second.rgb.reshape(-1, 3)).abs().mean(-1)[same].mean().item()
    behind = (visible & (ahead >= _AGREEMENT)).sum() / visible.sum().clamp_min(1)
    return Difference(warped, still, same.float().mean().item(), behind.item())


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Render the path, print a row per distance."""
    options = parse_options(StabilityOptions, __doc__, argv)
    film = filmed_frames(options, usable_device(options.device))
    require(
        max(options.apart) < film.count,
        f"--apart: expected less than the path's {film.count} frames, got {list(options.apart)}",
    )
    cameras, kept = film.path.cameras, deque[RenderedImage](maxlen=max(options.apart) + 1)
    found: dict[int, list[Difference]] = {apart: [] for apart in options.apart}
    for index, frame in enumerate(tqdm(film.frames, total=film.count, unit="frame", desc=film.name)):
        kept.append(frame)
        for apart in options.apart:
            if apart <= index:
                both = cameras[torch.tensor([index - apart, index])]
                found[apart].append(difference(kept[-1 - apart], frame, both))
    sys.stdout.write(f"{film.name}, {film.count} frames; differences in levels of 255, mean over pixels and pairs\n")
    sys.stdout.write("apart   warped   not warped   pixels shared   contradicted\n")
    for apart, all_of in found.items():
        warped, still, shared, behind = torch.tensor(all_of).nanmean(0).tolist()
        sys.stdout.write(f"{apart:5}{255 * warped:9.2f}{255 * still:13.2f}{shared:15.1%} {behind:14.1%}\n")


if __name__ == "__main__":
    main()
