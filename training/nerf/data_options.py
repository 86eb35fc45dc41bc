"""Options of reading a data set, which training, evaluation and video share."""

from dataclasses import dataclass

from data.readers.options import VIEW_SPLITS, ReaderOptions
from data.readers.registry import READERS
from training.options import option


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data, and how they are read."""

    dataset_name: str = option("dtu", f"data set format: {', '.join(READERS)}")
    datadir: str = option("./data/dtu", "root folder of the data set")
    view_split: str | None = option(
        None,
        f"llff, blender: which views train and which are held out: {', '.join(VIEW_SPLITS)} (docs/protocols.md); not "
        "given: own in training; in render.* the protocol's, else the one that --ckpt was fine-tuned with, else own",
    )
    llff_factor: int | None = option(
        None, "llff: images of the folder images_<N>, or images for 1; not given: the most reduced folder"
    )
    llff_size: tuple[int, ...] = option(
        (), "llff: width and height to which images are resized, whatever their proportions", nargs="+"
    )
    image_factor: int | None = option(None, "colmap, transforms: images of the folder images_<N>; not given: of images")
    sparse_depth: bool = option(
        False, "colmap, transforms: views without a depth map have the depth of the sparse points that they observe"
    )

    def __post_init__(self) -> None:
        """Refuse what no data set understands, by name.

        Raises:
            InputError: naming the option.
        """
        self.reader_options()

    def reader_options(self, view_split: str | None = None) -> ReaderOptions:
        """What `read_scenes` takes; `view_split` if the option is not given."""
        split = self.view_split or view_split or "own"
        return ReaderOptions(
            view_split=split,
            llff_factor=self.llff_factor,
            llff_size=self.llff_size,
            image_factor=self.image_factor,
            sparse_depth=self.sparse_depth,
        )
