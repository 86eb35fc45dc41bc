"""The frozen VGGT of a radiance field: which one it is, and that it is the one a checkpoint was trained with."""

from collections.abc import Sequence
from dataclasses import dataclass

from geometry import InputError
from models.vggt.config import MissingHeadError
from models.vggt.frozen import FROZEN_HEADS, FrozenVGGT

NO_VGGT = "none"
"""`--vggt_ckpt none`: the image stem alone."""


@dataclass(frozen=True)
class VGGTRecord:
    """Which frozen backbone a checkpoint belongs to."""

    source: str
    """Where its weights were found (`--vggt_ckpt`); `none`: there is no VGGT."""
    name: str
    sha256: str
    layers: tuple[int, ...]
    image_size: int
    """Longest image side VGGT saw; 0 = the image's own size."""
    heads: tuple[str, ...] = ()
    """Heads that were used; none = tokens only."""


def load_backbone(
    source: str, image_size: int, *, wants_depth: bool, layers: Sequence[int] | None = None
) -> tuple[FrozenVGGT | None, VGGTRecord]:
    """VGGT from `--vggt_ckpt` and the record of it; with its camera and depth heads where depth is wanted.

    Raises:
        InputError: for weights that cannot be read, or that lack a wanted head.
    """
    heads = FROZEN_HEADS if wants_depth else ()
    if source == NO_VGGT:
        if wants_depth:
            raise InputError("--vggt_ckpt none: expected a VGGT, whose depth --depth_prior and --near_far auto need")
        return None, VGGTRecord(NO_VGGT, NO_VGGT, NO_VGGT, (), image_size)
    try:
        vggt = FrozenVGGT.load(source, layers, heads, image_size=image_size or None)
    except MissingHeadError as error:
        wanted = "camera and depth heads, which --depth_prior and --near_far auto need"
        raise InputError(f"--vggt_ckpt {source}: expected {wanted}, got: {error}") from None
    identity = vggt.identity
    return vggt, VGGTRecord(source, identity.name, identity.sha256, tuple(vggt.layers), image_size, heads)


def load_recorded_backbone(record: VGGTRecord, vggt_ckpt: str = "", *, wants_depth: bool = False) -> FrozenVGGT | None:
    """The backbone a checkpoint was trained with, from where it was found then or from `vggt_ckpt`.

    `wants_depth`: with its camera and depth heads, even if the checkpoint was trained without.

    Raises:
        InputError: when the weights are not those of the record.
    """
    source = vggt_ckpt or record.source
    has_depth = bool(record.heads)
    vggt, found = load_backbone(
        source, record.image_size, wants_depth=wants_depth or has_depth, layers=record.layers or None
    )
    require_same_backbone(record, found, f"--vggt_ckpt {source}")
    return vggt


def require_same_backbone(theirs: VGGTRecord, ours: VGGTRecord, where: str) -> None:
    """Refuse weights that were trained behind another VGGT, other layers of it, or at another image size.

    Raises:
        InputError: saying what the checkpoint was trained with.
    """
    for name in ("sha256", "layers", "image_size"):
        if getattr(theirs, name) != getattr(ours, name):
            raise InputError(
                f"{where}: the checkpoint was trained with VGGT {theirs.name}, {name} {getattr(theirs, name)}, "
                f"got {ours.name}, {name} {getattr(ours, name)}"
            )
