"""Options of every task that trains on groups of views: data, how groups are drawn, what is evaluated and exported."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from data.multi_view.datamodule import PROCEDURAL, MultiViewSpec, sampling_of
from data.multi_view.protocols import NEIGHBORS, PROTOCOLS
from data.multi_view.sampler import BatchShape
from data.multi_view.sources import FrameSampling
from data.procedural.motions import MOTIONS, MotionMix
from data.readers.registry import READERS
from geometry import InputError, require
from training.launch import local_rank
from training.options import RunOptions, option

DEFAULT_EVAL_VIEWS = 4
"""Frames of a validation group; chosen by hand."""
DEFAULT_ROOMS, DEFAULT_ROLLS = 0.5, 0.1
"""Of `MotionMix`."""
_DTYPES = ("float32", "float16", "bfloat16")
"""Of exported weights."""


@dataclass(frozen=True, kw_only=True)
class MultiViewOptions(RunOptions):
    """Data of `FrameDataModule`, in training and evaluation."""

    dataset_name: tuple[str, ...] = option(
        ("dtu",), f"data sets to mix: {', '.join((*READERS, PROCEDURAL))}", nargs="+"
    )
    datadir: tuple[str, ...] = option(
        ("./data/dtu",), "root folder of each data set, in the same order; - for procedural", nargs="+"
    )
    annotation_dir: tuple[str, ...] = option(
        (),
        "folder of each data set's annotations (co3d), - for its root; none given: all in the roots",
        nargs="+",
    )
    len_train: tuple[int, ...] = option(
        (10_000,), "groups of frames per epoch from each data set (one number: from each); their ratio mixes", nargs="+"
    )
    procedural_scenes: int = option(
        0, "number of procedural scenes of 8 frames, rendered once and reused; 0: every group is rendered afresh"
    )
    procedural_motions: tuple[str, ...] = option(
        (),
        f"kinds of motion of procedural cameras with their shares, such as rig=0.3 pan=0.7, of {', '.join(MOTIONS)}; "
        "none given: rig only, by a lens of 25 degrees",
        nargs="+",
    )
    procedural_rooms: float = option(
        DEFAULT_ROOMS, "share of the parallel and pan groups of --procedural_motions that stand inside a room"
    )
    procedural_rolls: float = option(
        DEFAULT_ROLLS, "share of the groups of --procedural_motions, but for rig, that are rolled by up to 180 degrees"
    )
    procedural_photos: float = option(
        0.0, "share of the groups of --procedural_motions, but for rig, that show a photograph on a wall: homographies"
    )
    procedural_sensor: float = option(
        0.0, "share of procedural training groups with exposure, white balance, blur, noise and JPEG per frame"
    )
    scans: tuple[str, ...] = option((), "scans to use; none given: the data sets' own lists", nargs="+")
    image_size: int = option(518, "width of the images in pixels, a multiple of the patch size")
    aspect: tuple[float, ...] = option(
        (0.33, 1.0),
        "height / width of the images, or two numbers: drawn anew for every step; three or more: one of them for every "
        "step, with --image_size on the longer side",
        nargs="+",
    )
    n_views: tuple[int, ...] = option((2, 24), "frames per group, or two numbers: drawn anew for every step", nargs="+")
    max_img_per_gpu: int = option(48, "images per step and process: so many groups as fit, at least one")
    in_turn: bool = option(
        False,
        "train on the scenes in turns, on each of an epoch's --len_train groups once; else scenes are drawn anew for "
        "every step",
    )
    frame_sampling: tuple[str, ...] = option(
        (),
        "frames of a group on disk, for each data set or once for all: uniform (from the whole sequence), nearby:R "
        "(from R times as many neighbors of the first one) or covisibility:T (connected by covisibility above T, wai "
        "only); none given: uniform for co3d, else nearby:8",
        nargs="+",
        aliases=("view_sampling",),
    )
    expand_ratio: tuple[float, ...] = option(
        (), "ratio R: short for --frame_sampling nearby:R, for each data set or once for all", nargs="+"
    )
    augment: bool = option(True, "jitter colors of training images")
    blur: bool = option(False, "blur one training image in twenty as well")
    augment_geometry: bool = option(True, "crop and zoom training images on disk at random")
    turn_portraits: bool = option(False, "turn upright training images on disk by 90 degrees, half of the groups")
    export_dtype: str = option("float32", "numbers of exported weights: float32, float16, bfloat16")
    export: str = option("", "no training: write the weights of --init_from to this .safetensors file")
    eval_only: bool = option(False, "no training: print and write metrics of the weights")
    eval_protocol: str = option(
        NEIGHBORS, f"groups of validation and evaluation on disk, one of {', '.join(PROTOCOLS)} (docs/vggt_training.md)"
    )
    eval_views: int = option(DEFAULT_EVAL_VIEWS, f"frames per group with --eval_protocol {NEIGHBORS}")
    max_groups: int = option(0, "evaluate at most so many groups, spread evenly; 0: all (64 of procedural)")
    out: str = option("metrics.json", "file for the metrics of --eval_only; pictures go into a folder beside it")

    def __post_init__(self) -> None:
        """See `RunOptions`; besides, what belongs together must fit.

        Raises:
            InputError: naming the option or both options.
        """
        super().__post_init__()
        self._require_at_least(1, "image_size", "max_img_per_gpu")
        self._require_at_least(0, "max_groups", "procedural_scenes")
        self._require_at_least(2, "eval_views")
        self._require_range("n_views", 1, "at least 1 frame")
        if len(self.aspect) <= 2:
            self._require_range("aspect", 0.05, "height / width of at least 0.05")
        require(min(self.aspect) >= 0.05, f"--aspect: expected height / width of at least 0.05, got {min(self.aspect)}")
        self._check_data()
        self._check_sampling()
        self._check_choices()
        self._check_procedural()
        self._check_export()

    def _check_data(self) -> None:
        count = len(self.dataset_name)
        require(
            len(self.datadir) == count,
            f"--datadir: expected one folder for each of --dataset_name {list(self.dataset_name)}, "
            f"got {list(self.datadir)}",
        )
        require(  # an evaluation may name other data sets than its config mixes
            self.eval_only or (len(self.len_train) in (1, count) and min(self.len_train) >= 1),
            f"--len_train: expected one positive number, or one for each of {count} data sets, "
            f"got {list(self.len_train)}",
        )

    def _check_sampling(self) -> None:
        count = len(self.dataset_name)
        require(
            len(self.annotation_dir) in (0, count),
            f"--annotation_dir: expected one folder (or -) for each of {count} data sets, "
            f"got {list(self.annotation_dir)}",
        )
        require(
            not (self.frame_sampling and self.expand_ratio),
            "--frame_sampling and --expand_ratio both say how frames are drawn: give only one of them",
        )
        for name in ("frame_sampling", "expand_ratio"):
            values = getattr(self, name)
            require(
                self.eval_only or len(values) in (0, 1, count),
                f"--{name}: expected one value, or one for each of {count} data sets, got {list(values)}",
            )
        for ratio in self.expand_ratio:
            require(1 <= ratio < math.inf, f"--expand_ratio: expected 1 or more, got {ratio}")
        for text in self.frame_sampling:
            FrameSampling.parse(text)

    def _check_choices(self) -> None:
        """What is asked for and would do nothing, or is not known."""
        require(not self.blur or self.augment, "--blur and --no-augment: expected colors that are augmented")
        require(
            not self.turn_portraits or self.augment_geometry,
            "--turn_portraits and --no-augment_geometry: expected geometry that is augmented",
        )
        require(
            self.eval_protocol in PROTOCOLS,
            f"--eval_protocol: expected one of {', '.join(PROTOCOLS)}, got {self.eval_protocol!r}",
        )
        count = PROTOCOLS[self.eval_protocol].num_frames
        require(
            count is None or self.eval_views in (DEFAULT_EVAL_VIEWS, count),
            f"--eval_views {self.eval_views}: --eval_protocol {self.eval_protocol} takes {count} frames",
        )

    def _check_procedural(self) -> None:
        require(
            0 <= self.procedural_sensor <= 1,
            f"--procedural_sensor: expected a share from 0 to 1, got {self.procedural_sensor}",
        )
        given = {
            "procedural_motions": bool(self.procedural_motions),
            "procedural_sensor": self.procedural_sensor > 0,
        }
        for name in (name for name, is_given in given.items() if is_given):
            require(
                PROCEDURAL in self.dataset_name or self.eval_only,  # whose data may be others than the config's
                f"--{name}: expected {PROCEDURAL} in --dataset_name, got {list(self.dataset_name)}",
            )
        defaults = {"procedural_rooms": DEFAULT_ROOMS, "procedural_rolls": DEFAULT_ROLLS, "procedural_photos": 0.0}
        for name, default in defaults.items():
            require(
                bool(self.procedural_motions) or getattr(self, name) == default,
                f"--{name} {getattr(self, name)}: expected --procedural_motions beside it, got none",
            )
        _ = self.motion_mix

    def _check_export(self) -> None:
        require(
            self.export_dtype in _DTYPES,
            f"--export_dtype: expected one of {', '.join(_DTYPES)}, got {self.export_dtype!r}",
        )
        require(not (self.export and self.eval_only), "--export and --eval_only: give only one of them")
        require(not self.export or bool(self.init_from), "--export: expected --init_from with the weights, got none")
        if self.export and Path(self.export).suffix != ".safetensors":
            raise InputError(f"--export: expected a file that ends in .safetensors, got {self.export!r}")

    @property
    def sampling(self) -> tuple[FrameSampling, ...]:
        """How frames of each data set are drawn."""
        return sampling_of(self.dataset_name, self.frame_sampling, self.expand_ratio)

    @property
    def motion_mix(self) -> MotionMix | None:
        """Kinds of motion of the procedural scenes that are trained on; None: `rig` as it was before there were more.

        Raises:
            InputError: naming the option.
        """
        if not self.procedural_motions:
            return None
        return MotionMix.parse(
            self.procedural_motions, self.procedural_rooms, self.procedural_rolls, self.procedural_photos
        )

    @property
    def reads_images(self) -> bool:
        """Whether some images are on disk."""
        return any(name != PROCEDURAL for name in self.dataset_name)

    @property
    def group_views(self) -> int:
        """Frames of a group in validation and evaluation."""
        return PROTOCOLS[self.eval_protocol].num_frames or self.eval_views

    @property
    def view_range(self) -> tuple[int, int]:
        """Fewest and most frames of a group."""
        return self.n_views[0], self.n_views[-1]

    @property
    def aspect_range(self) -> tuple[float, float]:
        """Flattest and tallest images, height / width."""
        return min(self.aspect), max(self.aspect)

    @property
    def train_lengths(self) -> tuple[int, ...]:
        """Groups per epoch of each data set."""
        return self.len_train if len(self.len_train) > 1 else self.len_train * len(self.dataset_name)

    def batch_shape(self, patch_size: int) -> BatchShape:
        """What the groups of a batch have in common."""
        aspects = self.aspect if len(self.aspect) > 2 else self.aspect_range
        return BatchShape(self.image_size, aspects, patch_size, self.view_range, self.max_img_per_gpu)

    def data_spec(self, patch_size: int, *, needs_depth: bool) -> MultiViewSpec:
        """What the data module is built from."""
        return MultiViewSpec(
            dataset_names=self.dataset_name,
            datadirs=self.datadir,
            scans=self.scans,
            shape=self.batch_shape(patch_size),
            len_train=self.train_lengths,
            annotation_dirs=self.annotation_dir,
            sampling=self.sampling,
            protocol=self.eval_protocol,
            needs_depth=needs_depth,
            num_val=self.num_val,
            val_views=self.group_views,
            in_turn=self.in_turn,
            seed=self.seed,
            num_workers=self.num_workers,
            is_augmented=self.augment,
            is_blurred=self.blur,
            is_geometry_augmented=self.augment_geometry,
            turns_portraits=self.turn_portraits,
            procedural_scenes=self.procedural_scenes,
            procedural_mix=self.motion_mix,
            procedural_sensor=self.procedural_sensor,
            render_device=self.render_device,
        )

    @property
    def render_device(self) -> str:
        """Where procedural scenes are rendered: on the accelerator, where loading processes do not stand between."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if self.num_workers > 0 or self.accelerator == "cpu" or accelerator is None:
            return "cpu"
        return f"{accelerator.type}:{local_rank()}"
