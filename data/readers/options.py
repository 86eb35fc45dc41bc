"""What may be asked of a data set besides its scans. Every option belongs to some formats and is refused elsewhere."""

from dataclasses import dataclass, fields, replace

from geometry import InputError, require

VIEW_SPLITS = ("own", "mvsnerf", "test")


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of `read_scenes`; the defaults are what every format understands. Fields are named as the options are."""

    view_split: str = "own"
    """Which views are for training and which are held out.

    `own`: the rule of the format; `mvsnerf`: MVSNeRF's published lists, for the scenes that they name (LLFF, Blender);
    `test`: training frames against test frames (Blender).
    """
    llff_factor: int | None = None
    """LLFF: images of the folder images_<N>, or images for 1. None: the most reduced folder."""
    llff_size: tuple[int, ...] = ()
    """LLFF: (width, height) in pixels to which images are resized, whatever their proportions. Empty: as they are."""
    image_factor: int | None = None
    """COLMAP, transforms.json: images of the folder images_<N>. None or 1: of images."""
    sparse_depth: bool = False
    """COLMAP, transforms.json: views without a depth map have the depth of the points that they observe."""

    def __post_init__(self) -> None:
        """Refuse values that no format understands.

        Raises:
            InputError: naming the option.
        """
        require(
            self.view_split in VIEW_SPLITS,
            f"--view_split: expected one of {', '.join(VIEW_SPLITS)}, got {self.view_split!r}",
        )
        require(
            self.llff_factor is None or self.llff_factor >= 1,
            f"--llff_factor: expected 1 or more, got {self.llff_factor}",
        )
        require(
            self.image_factor is None or self.image_factor >= 1,
            f"--image_factor: expected 1 or more, got {self.image_factor}",
        )
        require(
            len(self.llff_size) in (0, 2) and all(side >= 1 for side in self.llff_size),
            f"--llff_size: expected width and height in pixels, got {list(self.llff_size)}",
        )

    def known_to(self, values: dict[str, tuple[str, ...]]) -> "ReaderOptions":
        """With the defaults in place of what a data set does not have; `values`: see `require_known_to`."""
        strange = {field.name: field.default for field in fields(self) if field.name not in values}
        return replace(self, **strange)

    def require_known_to(self, dataset_name: str, values: dict[str, tuple[str, ...]]) -> None:
        """Refuse what a data set does not have; `values`: the options it has, and their values (none: any).

        Raises:
            InputError: naming the option.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name not in values:
                raise InputError(f"--{field.name} {_shown(value)}: does not belong to --dataset_name {dataset_name}")
            if values[field.name] and value not in values[field.name]:
                expected = ", ".join(values[field.name])
                raise InputError(f"--{field.name}: expected {expected} for {dataset_name}, got {_shown(value)}")


def _shown(value: object) -> str:
    return " ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
