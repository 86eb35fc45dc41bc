"""The frozen VGGT of a radiance field: which one it is, and whether a checkpoint may have it.

A network that reads tokens needs the VGGT it was trained with; one that reads only depth may have any that predicts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from data.problems import announce
from geometry import InputError
from models.vggt.backbones import LoadedNetwork
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

    def __str__(self) -> str:
        """For messages: name, start of the hash, image size."""
        if self.name == NO_VGGT:
            return "no VGGT"
        size = f"images of {self.image_size} pixels" if self.image_size else "images as they are"
        return f"VGGT {self.name} ({self.sha256[:8]}, {size})"


def record_of(vggt: FrozenVGGT | None, source: str, image_size: int) -> VGGTRecord:
    """What is recorded of a backbone from `--vggt_ckpt`."""
    if vggt is None:
        return VGGTRecord(NO_VGGT, NO_VGGT, NO_VGGT, (), image_size)
    heads = FROZEN_HEADS if vggt.has_depth else ()
    return VGGTRecord(source, vggt.identity.name, vggt.identity.sha256, tuple(vggt.layers), image_size, heads)


def announce_license(vggt: FrozenVGGT | LoadedNetwork) -> None:
    """A line about the license of published weights; numbers and models that stand on them fall under it."""
    if vggt.license_terms:
        announce(f"license of the weights {vggt.identity.name}: {vggt.license_terms}")


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
        return None, record_of(None, source, image_size)
    try:
        vggt = FrozenVGGT.load(source, layers, heads, image_size=image_size or None)
    except MissingHeadError as error:
        wanted = "camera and depth heads, which --depth_prior and --near_far auto need"
        more = "as do tokens that count as much as depth is to be trusted"
        raise InputError(f"--vggt_ckpt {source}: expected {wanted}, {more}, got: {error}") from None
    announce_license(vggt)
    return vggt, record_of(vggt, source, image_size)


def load_recorded_backbone(
    record: VGGTRecord,
    vggt_ckpt: str = "",
    *,
    wants_depth: bool = False,
    image_size: int | None = None,
    may_differ: bool = False,
) -> tuple[FrozenVGGT | None, VGGTRecord]:
    """The backbone a checkpoint was trained with, from where it was found then or from `vggt_ckpt`, and its record.

    `wants_depth`: with its camera and depth heads, even if the checkpoint was trained without. `image_size`: None = as
    recorded. `may_differ`: the network reads no tokens, so another VGGT is taken as well, or none where no depth is
    wanted.

    Raises:
        InputError: when the weights are not those of the record, unless they may differ; for a VGGT of which nothing
            would be read.
    """
    source = vggt_ckpt or record.source
    has_depth = wants_depth or (bool(record.heads) and (source != NO_VGGT or not may_differ))
    if may_differ and record.source == NO_VGGT and source != NO_VGGT and not wants_depth:
        raise InputError(f"--vggt_ckpt {source}: this model reads nothing of a VGGT, expected none")
    if source == NO_VGGT and image_size is not None:
        raise InputError(f"--vggt_image_size {image_size}: has no effect without a VGGT")
    size = record.image_size if image_size is None else image_size
    layers = None if may_differ else record.layers or None
    vggt, found = load_backbone(source, size, wants_depth=has_depth, layers=layers)
    if not may_differ:
        require_same_backbone(record, found, f"--vggt_ckpt {source}")
    return vggt, found


def replaced_backbone(before: VGGTRecord, now: VGGTRecord, *, reads_tokens: bool = False) -> tuple[VGGTRecord, ...]:
    """The earlier backbone of weights that read only depth, and a line about it, where there is another now.

    `reads_tokens`: from now on.
    """
    if before.sha256 == now.sha256 and (before.image_size == now.image_size or now.name == NO_VGGT):
        return ()
    tokens = "its tokens are read from now on" if reads_tokens else "its tokens are not read"
    announce(f"backbone changed: {now} instead of {before}, which the checkpoint was trained with; {tokens}")
    return (before,)


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
