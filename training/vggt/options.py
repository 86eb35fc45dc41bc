"""Options of train_vggt.py."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy

from data.multi_view.datamodule import PROCEDURAL, sampling_of
from data.multi_view.protocols import NEIGHBORS, PROTOCOLS
from data.multi_view.sources import FrameSampling
from data.procedural.motions import MOTIONS, MotionMix
from data.readers.registry import READERS
from geometry import InputError, require
from training.options import RunOptions, option

DEFAULT_TRACKS = 1024
"""Per group, as upstream (docs/vggt.md, "Tracks from depth")."""
DEFAULT_EVAL_VIEWS = 4
"""Frames of a validation group; chosen by hand."""
DEFAULT_ROOMS, DEFAULT_ROLLS = 0.5, 0.1
"""Of `MotionMix`."""
_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class VGGTOptions(RunOptions):
    """Training, evaluating and exporting VGGT. Defaults are the upstream experiment's where it has the option."""

    vggt_config: str = option("", "JSON file of sizes, for training from random weights; none: VGGT-1B's")
    vggt_ckpt: str = option("", "weights to start from: a .safetensors or .pt file, a folder or a hub id")
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
    procedural_sensor: float = option(
        0.0, "share of procedural training groups with exposure, white balance, blur, noise and JPEG per frame"
    )
    scans: tuple[str, ...] = option((), "scans to use; none given: the data sets' own lists", nargs="+")
    image_size: int = option(518, "width of the images in pixels, a multiple of the patch size")
    aspect: tuple[float, ...] = option(
        (0.33, 1.0), "height / width of the images, or two numbers: drawn anew for every step", nargs="+"
    )
    n_views: tuple[int, ...] = option((2, 24), "frames per group, or two numbers: drawn anew for every step", nargs="+")
    max_img_per_gpu: int = option(48, "images per step and process: so many groups as fit, at least one")
    frame_sampling: tuple[str, ...] = option(
        (),
        "frames of a group on disk, for each data set or once for all: uniform (from the whole sequence), or "
        "nearby:R (from R times as many neighbors of the first one); none given: uniform for co3d, else nearby:8",
        nargs="+",
    )
    expand_ratio: tuple[float, ...] = option(
        (), "short for --frame_sampling nearby:R, for each data set or once for all", nargs="+"
    )
    augment: bool = option(True, "jitter colors of training images")
    blur: bool = option(False, "blur one training image in twenty as well")
    augment_geometry: bool = option(True, "crop and zoom training images on disk at random")
    turn_portraits: bool = option(False, "turn upright training images on disk by 90 degrees, half of the groups")
    accumulate: int = option(1, "parts a batch is worked through in: less memory, the same step")
    num_epochs: int = option(20, "epochs; an epoch sees --len_train groups")
    lrate: float = option(5e-5, "peak learning rate of AdamW")
    muon_lrate: float = option(0.0, "peak rate of Muon on weight matrices and kernels; 0: AdamW learns them too")
    lrate_final: float = option(1e-8, "learning rate at the start of the warm-up and the end of the decay")
    warmup_fraction: float = option(0.05, "share of the run in which the learning rate rises")
    weight_decay: float = option(0.05, "AdamW's, on every parameter")
    grad_clip: float = option(1.0, "largest norm of the gradient of the aggregator and of each head")
    camera_weight: float = option(5.0, "weight of the camera loss; 0: a network without that head")
    depth_weight: float = option(1.0, "weight of the depth loss; 0: without that head")
    point_weight: float = option(0.0, "weight of the point loss; 0: without that head")
    track_weight: float = option(0.0, "weight of the track loss; 0: without that head")
    new_heads: tuple[str, ...] = option(
        (), "heads that the given weights lack and that start from fresh ones: camera, depth, point, track", nargs="+"
    )
    num_tracks: int = option(DEFAULT_TRACKS, "tracks per group, for the track head")
    match_weight: float = option(0.2, "weight of the match loss, of networks that have a match stem (VGGT-nano)")
    freeze: tuple[str, ...] = option((), "patterns of modules that do not learn, such as *aggregator*", nargs="+")
    lora_rank: int = option(0, "learn low-rank changes of this rank to the aggregator instead of its weights; 0: off")
    lora_alpha: float = option(16.0, "the low-rank change is scaled by this over its rank")
    bias_only: bool = option(False, "of the aggregator only biases learn")
    checkpointing: bool = option(True, "compute activations of aggregator and dense heads again backwards: less memory")
    ema: float = option(0.0, "decay per step of an average of the weights that is validated and exported; 0: none")
    export_dtype: str = option("float32", "numbers of exported weights: float32, float16, bfloat16")
    export: str = option("", "no training: write the weights of --init_from to this .safetensors file")
    eval_only: bool = option(False, "no training: print and write metrics of the weights")
    eval_ckpt: str = option("", "weights for --eval_only without --ckpt, --init_from and --vggt_ckpt")
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
        self._require_at_least(1, "image_size", "max_img_per_gpu", "accumulate")
        self._require_at_least(0, "muon_lrate", "weight_decay", "lora_rank", "max_groups", "procedural_scenes")
        self._require_at_least(0, "camera_weight", "depth_weight", "point_weight", "track_weight", "match_weight")
        self._require_at_least(2, "eval_views")
        self._require_at_least(1, "num_tracks")
        self._require_positive("lora_alpha")
        self._require_range("n_views", 1, "at least 1 frame")
        self._require_range("aspect", 0.05, "height / width of at least 0.05")
        for name in ("warmup_fraction", "ema"):
            require(0 <= getattr(self, name) < 1, f"--{name}: expected 0 to below 1, got {getattr(self, name)}")
        require(
            self.export_dtype in _DTYPES,
            f"--export_dtype: expected one of {', '.join(_DTYPES)}, got {self.export_dtype!r}",
        )
        self._check_data()
        self._check_sampling()
        self._check_without_effect()
        self._check_learning()
        self._check_modes()

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

    def _check_without_effect(self) -> None:
        """What is asked for and would do nothing."""
        require(not self.blur or self.augment, "--blur and --no-augment: expected colors that are augmented")
        require(
            not self.turn_portraits or self.augment_geometry,
            "--turn_portraits and --no-augment_geometry: expected geometry that is augmented",
        )
        require(
            self.num_tracks == DEFAULT_TRACKS or self.track_weight > 0,
            f"--num_tracks {self.num_tracks}: expected --track_weight above 0 beside it, got 0",
        )
        require(
            self.eval_protocol in PROTOCOLS,
            f"--eval_protocol: expected one of {', '.join(PROTOCOLS)}, got {self.eval_protocol!r}",
        )
        self._check_procedural()
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
        for name, default in (("procedural_rooms", DEFAULT_ROOMS), ("procedural_rolls", DEFAULT_ROLLS)):
            require(
                bool(self.procedural_motions) or getattr(self, name) == default,
                f"--{name} {getattr(self, name)}: expected --procedural_motions beside it, got none",
            )
        _ = self.motion_mix

    def _check_learning(self) -> None:
        require(
            not (self.lora_rank and self.bias_only),
            "--lora_rank and --bias_only both restrict what the aggregator learns: give only one of them",
        )
        require(
            bool(self.trained_heads),
            "--camera_weight, --depth_weight, --point_weight, --track_weight: expected one above 0",
        )
        wrong = [head for head in self.new_heads if head not in self.trained_heads]
        require(
            not wrong,
            f"--new_heads {' '.join(wrong)}: expected heads with a weight above 0 (--point_weight, ...), "
            f"which are {', '.join(self.trained_heads)}",
        )
        require(len(set(self.new_heads)) == len(self.new_heads), f"--new_heads {' '.join(self.new_heads)}: named twice")
        require(
            not self.new_heads or bool(self.ckpt or self.init_from or self.vggt_ckpt) or self.eval_only,
            "--new_heads adds to given weights: expected --vggt_ckpt or --init_from, got neither, so all are fresh",
        )
        require(not (self.ema and self.is_sharded), "--ema and --strategy fsdp: the average needs whole weights")
        require(
            not self.muon_lrate or self.lrate_final <= self.muon_lrate,
            f"--lrate_final {self.lrate_final}: expected at most --muon_lrate {self.muon_lrate}",
        )
        require(
            not (self.muon_lrate and self.is_sharded), "--muon_lrate and --strategy fsdp: Muon needs whole matrices"
        )
        require(
            not (self.vggt_config and self.vggt_ckpt) or self.eval_only,
            "--vggt_config starts from random weights and --vggt_ckpt from given ones: give only one of them",
        )

    def _check_modes(self) -> None:
        require(not (self.export and self.eval_only), "--export and --eval_only: give only one of them")
        require(not self.export or bool(self.init_from), "--export: expected --init_from with the weights, got none")
        if self.export and Path(self.export).suffix != ".safetensors":
            raise InputError(f"--export: expected a file that ends in .safetensors, got {self.export!r}")

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the weights out among them."""
        return self.strategy == "fsdp"

    @property
    def lightning_strategy(self) -> Any:
        """`fsdp` is torch's second version of it, which also runs on CPUs and with several backward passes a step."""
        if not self.is_sharded:
            return self.strategy
        return ModelParallelStrategy(self.num_processes, 1, save_distributed_checkpoint=False)

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Heads with a weight in the objective."""
        return tuple(head for head in ("camera", "depth", "point", "track") if getattr(self, f"{head}_weight") > 0)

    @property
    def needs_depth(self) -> bool:
        """Whether something else than cameras is trained."""
        return any(head != "camera" for head in self.trained_heads)

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
        return MotionMix.parse(self.procedural_motions, self.procedural_rooms, self.procedural_rolls)

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
        return self.aspect[0], self.aspect[-1]

    @property
    def train_lengths(self) -> tuple[int, ...]:
        """Groups per epoch of each data set."""
        return self.len_train if len(self.len_train) > 1 else self.len_train * len(self.dataset_name)
