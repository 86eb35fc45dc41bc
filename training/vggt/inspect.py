"""What VGGT's training loader really yields.

    python -m training.vggt.inspect --config configs/vggt_nano.txt --out scene.ply

Takes all options of train_vggt.py. Writes one group of frames, augmented as in training, as a colored point cloud
(.ply, world frame, scene units) and a contact sheet beside it (.png: images, depth in color), and prints a table:
per frame the depth range and how far it agrees with the first. `--viewer` shows both in a browser of this machine.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.image_io import write_image
from data.point_cloud import ColoredPoints, colored_points, depth_agreement_of, write_ply
from geometry import FrameBatch, Views, one_line_errors, require
from models.vggt import VGGTConfig
from training.checkpoint import read_checkpoint
from training.cli import parse_options
from training.options import option
from training.pictures import as_bytes, colored_depth
from training.vggt.build import build_vggt_data
from training.vggt.checkpoint import VGGT_TRAINING
from training.vggt.options import VGGTOptions

_COLUMNS = 6
"""Frames in a row of the contact sheet."""
_FRUSTUM_SIZE = 0.05
"""Of the median distance of the points from their middle; for the viewer only."""


@dataclass(frozen=True, kw_only=True)
class InspectOptions(VGGTOptions):
    """Those of train_vggt.py, and which of its groups to look at."""

    out: str = option("scene.ply", "point cloud to write; the contact sheet lies beside it under the same name")
    index: int = option(0, "number of the training batch, counted from the start of the run")
    group: int = option(0, "number of the group within the batch")
    viewer: bool = option(False, "show points and cameras in a browser until Ctrl-C")

    def __post_init__(self) -> None:
        """See `VGGTOptions`."""
        super().__post_init__()
        self._require_at_least(0, "index", "group")
        require(Path(self.out).suffix == ".ply", f"--out: expected a file name that ends in .ply, got {self.out!r}")


def inspect_group(options: InspectOptions) -> tuple[FrameBatch, ColoredPoints]:
    """The group that was asked for and its points; files are written, the table goes to stdout.

    Raises:
        InputError: for options, files or a group number that do not exist.
    """
    data = build_vggt_data(options, _patch_size(options))
    keys = data.sampler().keys_of(options.index)
    require(options.group < len(keys), f"--group: expected 0 to {len(keys) - 1} in batch {options.index}")
    group = data.train_frames().__getitems__(keys)[options.group]
    cloud = colored_points(group.views)
    sheet = Path(options.out).with_suffix(".png")
    write_ply(Path(options.out), cloud)
    write_image(sheet, as_bytes(contact_sheet(group.views)))
    lines = [f"batch {options.index} of {len(keys)} groups, group {options.group}: {group.names[0]}", *table(group)]
    lines.append(f"wrote {options.out} ({len(cloud.points_world)} points) and {sheet}")
    sys.stdout.write("\n".join(lines) + "\n")
    return group, cloud


def table(group: FrameBatch) -> list[str]:
    """One line per frame."""
    views, depths = group.views, depths_of(group.views)
    lines = [
        f"{len(views.images)} frames of {views.cameras.width}x{views.cameras.height} (width x height)",
        "view   known   depth min      median         max   on known depth of first   agreeing   pixels off",
    ]
    for index, view in enumerate(views.ids.tolist()):
        depth = depths[index]
        known = depth[depth > 0]
        low, middle, high = (known.min(), known.median(), known.max()) if known.numel() else (math.nan,) * 3
        agreement = depth_agreement_of(views, index, 0)
        lines.append(
            f"{view:4d}  {100 * known.numel() / depth.numel():4.0f} %  {low:10.4g}  {middle:10.4g}  {high:10.4g}"
            f"  {100 * agreement.overlap:22.0f} %  {100 * agreement.confirmed:7.0f} %  {agreement.pixels:11.3f}"
        )
    return lines


def depths_of(views: Views) -> Float[Tensor, "frame height width"]:
    """Depth maps; all unknown (0) where there are none."""
    return torch.zeros_like(views.images[:, 0]) if views.depth is None else views.depth


def contact_sheet(views: Views) -> Float[Tensor, "rows columns 3"]:
    """Frames side by side, at most 6 in a row, each above its depth; one color range for all, unknown is black."""
    depths = depths_of(views)
    known = depths[depths > 0]
    near, far = (known.min().item(), known.max().item()) if known.numel() else (0.0, 1.0)
    tiles = [
        torch.cat([image.permute(1, 2, 0), colored_depth(depth, near, max(far, near * 1.001))])
        for image, depth in zip(views.images, depths, strict=True)
    ]
    columns = min(_COLUMNS, len(tiles))
    tiles += [torch.ones_like(tiles[0])] * (-len(tiles) % columns)
    return torch.cat([torch.cat(tiles[start : start + columns], dim=1) for start in range(0, len(tiles), columns)])


def show(views: Views, cloud: ColoredPoints) -> None:
    """Serve points and camera frustums to a browser of this machine until interrupted."""
    import viser  # takes half a second, which other uses need not wait for
    import viser.transforms

    from data.private_server import PrivateServer

    center = cloud.points_world.median(dim=0).values
    points = cloud.points_world - center
    extent = points.norm(dim=-1).median().item()
    server = PrivateServer()
    server.scene.set_up_direction(tuple((-views.cameras.w2c[0, 1, :3]).tolist()))
    server.scene.add_point_cloud("/points", points.numpy(), cloud.colors.numpy(), point_size=extent / 500)
    for index, c2w in enumerate(views.cameras.c2w):
        server.scene.add_camera_frustum(
            f"/frames/{index}",
            fov=2 * math.atan(views.cameras.height / 2 / views.cameras.intrinsics[index, 1, 1].item()),
            aspect=views.cameras.width / views.cameras.height,
            scale=_FRUSTUM_SIZE * extent,
            wxyz=viser.transforms.SO3.from_matrix(c2w[:3, :3].double().numpy()).wxyz,
            position=(c2w[:3, 3] - center).numpy(),
            image=as_bytes(views.images[index].permute(1, 2, 0)),
        )
    server.sleep_forever()


def _patch_size(options: InspectOptions) -> int:
    """Of the network that the options name; its weights are not read, and a hub's is VGGT-1B's.

    `--eval_ckpt` tells the sizes of what a config trains that starts from weights given on the command line.
    """
    source = options.ckpt or options.init_from or options.vggt_ckpt
    if not source and options.vggt_config:
        return _aggregator_patch(options.vggt_config)
    source = Path(source or options.eval_ckpt)
    if source.suffix == ".ckpt":
        return _aggregator_patch(read_checkpoint(source, VGGT_TRAINING).record.config)
    beside = source / "config.json" if source.is_dir() else source.with_suffix(".json")
    if source.name and beside.is_file():
        return _aggregator_patch(beside)
    return VGGTConfig().aggregator.patch_size


def _aggregator_patch(config: Mapping[str, Any] | str | Path) -> int:
    return VGGTConfig.read(config).aggregator.patch_size


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = parse_options(InspectOptions, str(__doc__).splitlines()[0], arguments)
    group, cloud = inspect_group(options)
    if options.viewer:
        show(group.views, cloud)


if __name__ == "__main__":
    main()
