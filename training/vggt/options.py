"""Options of train_vggt.py."""

from dataclasses import dataclass
from typing import Any

from geometry import require
from training.multi_view_options import MultiViewOptions
from training.options import option
from training.strategies import FSDP, strategy_of

DEFAULT_TRACKS = 1024
"""Per group, as upstream (docs/vggt.md, "Tracks from depth")."""


@dataclass(frozen=True, kw_only=True)
class VGGTOptions(MultiViewOptions):
    """Training, evaluating and exporting VGGT. Defaults are the upstream experiment's where it has the option."""

    vggt_config: str = option("", "JSON file of sizes, for training from random weights; none: VGGT-1B's")
    vggt_ckpt: str = option("", "weights to start from: a .safetensors or .pt file, a folder or a hub id")
    accumulate: int = option(1, "parts a batch is worked through in: less memory, the same step")
    num_epochs: int = option(20, "epochs; an epoch sees --len_train groups")
    lrate: float = option(5e-5, "peak learning rate of AdamW")
    muon_lrate: float = option(0.0, "peak rate of Muon on weight matrices and kernels; 0: AdamW learns them too")
    lrate_final: float = option(1e-8, "learning rate at the start of the warm-up and the end of the decay")
    warmup_fraction: float = option(0.05, "share of the run in which the learning rate rises")
    weight_decay: float = option(0.05, "AdamW's decay of every parameter, as a share of the learning rate")
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
    camera_matches: bool = option(
        False,
        "--eval_only: cameras from the matches of the network's stem (VGGT-nano's) instead of those of its camera head",
    )
    eval_ckpt: str = option("", "weights for --eval_only without --ckpt, --init_from and --vggt_ckpt")

    def __post_init__(self) -> None:
        """See `MultiViewOptions`; besides, what belongs together must fit.

        Raises:
            InputError: naming the option or both options.
        """
        super().__post_init__()
        self._require_at_least(1, "accumulate")
        self._require_at_least(0, "muon_lrate", "weight_decay", "lora_rank")
        self._require_at_least(0, "camera_weight", "depth_weight", "point_weight", "track_weight", "match_weight")
        self._require_at_least(1, "num_tracks")
        self._require_positive("lora_alpha")
        for name in ("warmup_fraction", "ema"):
            require(0 <= getattr(self, name) < 1, f"--{name}: expected 0 to below 1, got {getattr(self, name)}")
        require(
            self.num_tracks == DEFAULT_TRACKS or self.track_weight > 0,
            f"--num_tracks {self.num_tracks}: expected --track_weight above 0 beside it, got 0",
        )
        require(
            not self.camera_matches or self.eval_only,
            "--camera_matches evaluates cameras that are not learned: expected --eval_only beside it",
        )
        self._check_learning()

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

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the weights out among them."""
        return self.strategy == FSDP

    @property
    def lightning_strategy(self) -> Any:
        """See `strategy_of`."""
        return strategy_of(self.strategy, self.num_processes)

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Heads with a weight in the objective."""
        return tuple(head for head in ("camera", "depth", "point", "track") if getattr(self, f"{head}_weight") > 0)

    @property
    def needs_depth(self) -> bool:
        """Whether something else than cameras is trained."""
        return any(head != "camera" for head in self.trained_heads)
