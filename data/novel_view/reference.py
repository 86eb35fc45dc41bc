"""The truth of a target as a protocol sees it: the one rule for which pixels count, in training and in evaluation."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from data.novel_view.protocols import MaskKind, Protocol, mask_of
from geometry import TensorStruct, Views


@dataclass(frozen=True)
class Reference(TensorStruct):
    """The truth of one target, painted black where pixels do not count, margins cut off; on the target's device."""

    image: Float[Tensor, "height width 3"]
    mask: Bool[Tensor, "height width"] | None
    """Pixels that count; None = all."""
    mask_kind: MaskKind
    depth: Float[Tensor, "height width"] | None
    """0 = unknown."""
    object_mask: Bool[Tensor, "height width"] | None
    """For `psnr_object`, where the protocol asks for it."""
    margins: tuple[int, int]
    """Rows and columns cut off at each side."""

    @property
    def has_pixels(self) -> bool:
        """Whether any pixel counts; otherwise truth and every picture of it are black alike, which is no score."""
        return self.mask is None or bool(self.mask.any())

    def cut(self, image: Tensor) -> Tensor:
        """Another picture or map of the same view, of full height and width, cut alike; on the reference's device."""
        return _cut(image.to(self.image.device), self.margins)

    def shown(self, image: Float[Tensor, "full_height full_width 3"]) -> Float[Tensor, "height width 3"]:
        """Another picture of the same view, cut and painted alike; on the reference's device."""
        cut = self.cut(image)
        return cut if self.mask is None else cut * self.mask[..., None]


def reference_of(protocol: Protocol, target: Views) -> Reference:
    """What to compare with; the leading axis of `target` is one view."""
    height, width = target.images.shape[-2:]
    margins = int(protocol.crop_margin * height), int(protocol.crop_margin * width)
    mask_kind, mask = mask_of(protocol, target)
    mask = None if mask is None else _cut(mask, margins)
    image = _cut(target.images[0].permute(1, 2, 0), margins)
    has_object = protocol.has_object_psnr and target.mask is not None
    return Reference(
        image=image if mask is None else image * mask[..., None],
        mask=mask,
        mask_kind=mask_kind,
        depth=None if target.depth is None else _cut(target.depth[0], margins),
        object_mask=_cut(target.mask[0], margins) if has_object else None,
        margins=margins,
    )


def _cut(image: Tensor, margins: tuple[int, int]) -> Tensor:
    """Without `margins` rows and columns at each side of an image whose first axes are height and width."""
    (rows, cols), (height, width) = margins, image.shape[:2]
    return image[rows : height - rows, cols : width - cols]
