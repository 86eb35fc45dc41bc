"""Options of train_occupancy.py."""

import math
from dataclasses import dataclass, fields

from data.occupancy.augmentation import GridAugmentation
from data.occupancy.datamodule import DATASETS, PROCEDURAL, OccupancyDataSpec
from data.occupancy.windows import EVERYTHING
from geometry import require
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid
from models.occupancy.networks import ALIGNED, MODELS, OCCWORLD, SIXDOF
from models.occupancy.objective.occupancy import OccupancyWeights
from models.occupancy.objective.poses import PoseWeights
from training.occupancy.schedules import GUIDE, OCCWORLD_START, SCHEDULES
from training.options import RunOptions, option

TOKENIZER, TRANSFORMER = "tokenizer", "transformer"
STAGES = (TOKENIZER, TRANSFORMER)
DYNAMIC = "dynamic"
COMMANDED, PREDICTED = "commanded", "predicted"
_ONLY_OF = {
    OCCWORLD: ("stage", "restart_after", "quantizer_weight", "code_weight", "planning_weight"),
    SIXDOF: ("use_transformer", "relocalization_weight", "place_weight"),
}
"""Options that nothing but one model reads."""


@dataclass(frozen=True, kw_only=True)
class OccupancyOptions(RunOptions):
    """Training and evaluating forecasts of occupancy."""

    dataset: str = option(PROCEDURAL, f"kind of data: {', '.join(DATASETS)}")
    datadir: str = option("", "folder of the sessions, or of Occ3D; nothing for procedural")
    infos: str = option("", "occ3d: frame infos (a pickle, or annotations.json); none: annotations.json of the folder")
    val_infos: str = option("", "occ3d: infos of the validation scenes, where they have a file of their own")
    grid_min: tuple[float, ...] = option((), "lower bounds x y z of the grid, m; none: what the data say", nargs="+")
    grid_max: tuple[float, ...] = option((), "upper bounds x y z, m; what does not fill a voxel is cut off", nargs="+")
    voxel: tuple[float, ...] = option((), "size of a voxel along x y z, m", nargs="+")
    orientation: str = option("yaw", "grid frame, with --grid_min: yaw (level) or full (body frame)")
    z_reference: str = option("vehicle", "height 0 of the grid, with --grid_min: vehicle, or world (the datum)")
    history: int = option(4, "observed frames")
    future: int = option(6, "predicted frames")
    skip: int = option(1, "use every so manieth frame", aliases=("frame_skip", "interval"))
    train_sessions: tuple[str, ...] = option(
        (), "names of sessions (scenes) to train on; none: by --val_share", nargs="+"
    )
    val_sessions: tuple[str, ...] = option((), "names of sessions (scenes) to validate with", nargs="+")
    test_sessions: tuple[str, ...] = option((), "names of sessions (scenes) to evaluate on", nargs="+")
    val_share: float = option(0.1, "share of the sessions to validate with")
    test_share: float = option(0.1, "share of the sessions to evaluate on")
    split_by: str = option("session", "what the shares are of: session or world")
    split_seed: int = option(42, "of the split, apart from --seed")
    skips_dummies: bool = option(False, "leave out sessions with dummy in their names")
    needs_motion: bool = option(False, "train on windows only in which the vehicle moves")
    visible: str = option(EVERYTHING, "occ3d: voxels that count: all, camera or lidar")
    num_worlds: int = option(1000, "procedural worlds to train on")
    num_val_worlds: int = option(120, "procedural worlds to validate with, and as many others to evaluate on; 0: none")
    eval_split: str = option("test", "split for --eval_only: val or test")
    aug_flip: float = option(0.0, "probability of a mirror left to right, and of one front to back")
    aug_rotation: float = option(0.0, "turn grids and poses by up to so many degrees")
    aug_rotation_share: float = option(0.8, "probability of a turn")
    aug_scale: tuple[float, ...] = option((1.0, 1.0), "least and greatest scale of the world", nargs="+")
    aug_voxel_dropout: float = option(0.0, "share of occupied voxels of the history that become empty")
    aug_voxel_dropout_share: float = option(0.3, "probability of that")
    aug_voxel_flip: float = option(0.0, "share of voxels of the history that change")
    aug_voxel_flip_share: float = option(0.3, "probability of that")
    aug_point_noise: float = option(0.0, "refused: grids have no points any more, data.occupancy.convert adds noise")

    model: str = option(ALIGNED, f"network: {', '.join(MODELS)}", aliases=("model_type",))
    model_config: str = option("", "JSON file of sizes; none: the defaults of the model")
    width: int = option(32, "aligned: channels of the finest level")
    levels: int = option(1, "aligned: times the plane is halved")
    use_transformer: bool = option(False, "sixdof: attention over the history's poses instead of an LSTM")
    stage: str = option(TOKENIZER, f"occworld: what is trained: {TOKENIZER}, then {TRANSFORMER} from its --init_from")
    motion: str = option(
        COMMANDED, f"aligned: train where the plan leads ({COMMANDED}), or where the network thinks ({PREDICTED})"
    )
    freeze: tuple[str, ...] = option((), "parts that do not learn, such as motion or vae.*", nargs="+")
    init_allow: tuple[str, ...] = option(
        (), "prefixes of weights that --init_from may lack or have too many of; any others stop the run", nargs="+"
    )

    batch_size: int = option(3, "windows per step and process")
    steps_per_window: int = option(0, "aligned: future frames of each window to train on, drawn anew; 0: all")
    num_epochs: int = option(50, "epochs; an epoch sees every window once")
    lrate: float = option(1e-4, "peak learning rate of AdamW", aliases=("lr",))
    lrate_final: float = option(1e-6, "learning rate at the end of the cosine decay")
    weight_decay: float = option(0.01, "AdamW's decay of weights, as a share of the learning rate")
    schedule: str = option(GUIDE, f"learning rates: {', '.join(SCHEDULES)}")
    warmup_steps: int = option(100, "optimizer steps in which the learning rate rises")
    warmup_ratio: float = option(0.1, "guide: share of the peak it begins with")
    grad_clip: float = option(35.0, "largest norm of the gradient; larger ones are scaled down")
    num_workers: int = option(8, "processes that load windows")
    seed: int = option(42, "all randomness derives from it")
    num_val: int = option(120, "validation windows at most (samples of consecutive frames), spread evenly")
    log_every: int = option(10, "optimizer steps between logged scalars")
    keep_every: int = option(5, "epochs between checkpoints that are kept beside last.ckpt and best.ckpt; 0: none")
    keep: int = option(3, "checkpoints of those steps that stay, the newest", aliases=("max_keep_ckpts",))
    ckpt: str = option("", "checkpoint to resume exactly; nothing is deleted", aliases=("resume_from",))
    resume: bool = option(False, "resume the run's newest checkpoint, by the steps it has made")
    from_scratch: bool = option(False, "refuse --resume, --ckpt and --init_from")

    occupancy_weight: float = option(1.0, "weight of the losses of binary occupancy together")
    focal_weight: float = option(1.0, "weight of the focal loss")
    focal_alpha: str = option("0.99", f"focal loss: weight of occupied voxels; {DYNAMIC}: the share of empty ones")
    focal_gamma: float = option(2.0, "focal loss: exponent of 1 - p, no unit")
    focal_decay: float = option(0.0, "focal loss: predicted steps count exp(-decay t), decay per step")
    dice_weight: float = option(1.0, "weight of the Dice loss")
    mean_weight: float = option(10.0, "weight of the squared difference of mean occupancy")
    lovasz_weight: float = option(0.0, "weight of the Lovasz loss")
    recall_weight: float = option(0.0, "weight of -log p over occupied voxels")
    class_weight: float = option(10.0, "weight of the cross-entropy of classes (semantic data, occworld)")
    class_lovasz_weight: float = option(1.0, "weight of the Lovasz softmax loss of classes")
    pose_weight: float = option(0.5, "weight of the losses of poses together")
    velocity_weight: float = option(0.5, "poses: weight of velocities")
    variance_floor: float = option(0.0, "poses: weight of the penalty where they hardly vary over a batch")
    uncertainty_weight: float = option(0.1, "poses: weight of the likelihood of errors under the predicted deviations")
    orientation_uncertainty: float = option(1.0, "poses: weight of rotations in that likelihood; 0: positions only")
    relocalization_weight: float = option(0.2, "sixdof: weight of the world pose")
    place_weight: float = option(0.1, "sixdof: weight of the embedding of places")
    quantizer_weight: float = option(1.0, "occworld: weight of the quantizer's loss")
    code_weight: float = option(1.0, "occworld: weight of the cross-entropy of codes")
    planning_weight: float = option(0.1, "occworld: weight of the distance of the planned path")
    restart_after: int = option(
        20, "occworld: codes unused for so many steps restart from the encoder's output; 0: never"
    )

    occ_threshold: float = option(0.5, "probability from which a voxel counts as occupied, in all metrics")
    eval_only: bool = option(False, "no training: print and write metrics of the weights")
    eval_ckpt: str = option("", "weights for --eval_only: a .ckpt of this script or a .safetensors file")
    baselines: bool = option(True, "measure what is trivial beside the model")
    out: str = option("metrics.json", "file for the metrics of --eval_only; a picture is put beside it")

    def __post_init__(self) -> None:
        """See `RunOptions`; besides, what belongs together must fit.

        Raises:
            InputError: naming the option or both options.
        """
        super().__post_init__()
        for name, choices in (("model", MODELS), ("stage", STAGES), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            require(value in choices, f"--{name}: expected one of {', '.join(choices)}, got {value!r}")
        require(
            self.motion in (COMMANDED, PREDICTED), f"--motion: expected {COMMANDED} or {PREDICTED}, got {self.motion!r}"
        )
        require(self.eval_split in ("val", "test"), f"--eval_split: expected val or test, got {self.eval_split!r}")
        self._require_at_least(1, "batch_size", "history", "future", "skip", "width", "keep")
        self._require_at_least(0, "steps_per_window", "warmup_steps", "weight_decay", "keep_every", "restart_after")
        self._require_at_least(0, "levels", "focal_gamma", "focal_decay", "num_val_worlds")
        self._require_at_least(0, *(name for name in vars(self) if name.endswith("_weight")))
        require(0 < self.warmup_ratio <= 1, f"--warmup_ratio: expected above 0 to 1, got {self.warmup_ratio}")
        require(0 < self.occ_threshold < 1, f"--occ_threshold: expected between 0 and 1, got {self.occ_threshold}")
        self._require_fitting()
        _ = self.occupancy_weights, self.spec

    def _require_fitting(self) -> None:
        """Options that need or exclude each other."""
        starts = [name for name in ("resume", "ckpt", "init_from") if getattr(self, name)]
        require(
            not (self.from_scratch and starts),
            f"--from_scratch and --{(starts or [''])[0]} contradict each other: give only one of them",
        )
        require(not (self.resume and self.ckpt), "--resume and --ckpt contradict each other: give only one of them")
        require(
            self.motion == COMMANDED or self.model == ALIGNED,
            f"--motion {self.motion}: expected only with --model {ALIGNED}",
        )
        require(
            self.steps_per_window == 0 or self.model == ALIGNED,
            f"--steps_per_window: expected 0 with --model {self.model}, which predicts all frames at once",
        )
        require(
            self.steps_per_window <= self.future,
            f"--steps_per_window {self.steps_per_window}: expected at most --future {self.future}",
        )
        defaults = {field.name: field.default for field in fields(self)}
        for model, names in _ONLY_OF.items():
            given = [name for name in names if getattr(self, name) != defaults[name]]
            require(
                self.model == model or not given,
                f"--{(given or [''])[0]}: expected only with --model {model}, got {self.model}",
            )
        require(
            bool(self.init_from) or not self.init_allow,
            f"--init_allow {' '.join(self.init_allow)}: expected --init_from with it",
        )
        require(
            self.model != OCCWORLD or self.stage == TOKENIZER or bool(self.init_from or self.ckpt or self.resume)
            or self.eval_only,
            f"--stage {TRANSFORMER}: expected --init_from a trained tokenizer",
        )  # fmt: skip
        require(
            self.schedule == GUIDE or self.lrate_final <= OCCWORLD_START,
            f"--lrate_final {self.lrate_final}: expected at most {OCCWORLD_START} with --schedule {self.schedule}",
        )
        given = [bool(getattr(self, name)) for name in ("grid_min", "grid_max", "voxel")]
        require(all(given) or not any(given), "--grid_min, --grid_max, --voxel: expected all three or none")
        wrong = [name for name in ("grid_min", "grid_max", "voxel") if len(getattr(self, name)) not in (0, 3)]
        require(not wrong, f"--{(wrong or [''])[0]}: expected three numbers")

    @property
    def alpha(self) -> float | None:
        """Of the focal loss.

        Raises:
            InputError: for a word that is none, or a number outside 0 to 1.
        """
        if self.focal_alpha == DYNAMIC:
            return None
        try:
            value = float(self.focal_alpha)
        except ValueError:
            value = math.nan
        require(0 <= value <= 1, f"--focal_alpha: expected {DYNAMIC} or a number from 0 to 1, got {self.focal_alpha!r}")
        return value

    @property
    def occupancy_weights(self) -> OccupancyWeights:
        """Of binary occupancy."""
        share = self.occupancy_weight
        return OccupancyWeights(
            focal=share * self.focal_weight,
            alpha=self.alpha,
            gamma=self.focal_gamma,
            decay=self.focal_decay,
            dice=share * self.dice_weight,
            mean_match=share * self.mean_weight,
            lovasz=share * self.lovasz_weight,
            recall=share * self.recall_weight,
        )

    @property
    def pose_weights(self) -> PoseWeights:
        """Of poses."""
        return PoseWeights(
            pose=self.pose_weight,
            velocity=self.velocity_weight,
            variance_floor=self.variance_floor,
            uncertainty=self.uncertainty_weight,
            orientation_uncertainty=self.orientation_uncertainty,
            relocalization=self.relocalization_weight,
            place=self.place_weight,
        )

    @property
    def space(self) -> EgoGrid | None:
        """The grid that was asked for."""
        if not self.voxel:
            return None
        bounds = [(values[0], values[1], values[2]) for values in (self.grid_min, self.grid_max, self.voxel)]
        return EgoGrid(VoxelGrid(*bounds), GridFrame(self.orientation, self.z_reference))

    @property
    def spec(self) -> OccupancyDataSpec:
        """The data that were asked for."""
        same = ("dataset", "datadir", "infos", "val_infos", "space", "history", "future", "skip", "batch_size", "seed")
        same += ("num_workers", "num_val", "train_sessions", "val_sessions", "test_sessions", "val_share", "test_share")
        same += ("split_by", "split_seed", "skips_dummies", "needs_motion", "visible", "num_worlds", "num_val_worlds")
        return OccupancyDataSpec(**{name: getattr(self, name) for name in same}, augmentation=self.augmentation)

    @property
    def augmentation(self) -> GridAugmentation:
        """Of training windows."""
        require(len(self.aug_scale) == 2, f"--aug_scale: expected two numbers, got {list(self.aug_scale)}")
        return GridAugmentation(
            flip=self.aug_flip,
            rotation=self.aug_rotation,
            rotation_share=self.aug_rotation_share,
            scale=(self.aug_scale[0], self.aug_scale[1]),
            voxel_dropout=self.aug_voxel_dropout,
            voxel_dropout_share=self.aug_voxel_dropout_share,
            voxel_flip=self.aug_voxel_flip,
            voxel_flip_share=self.aug_voxel_flip_share,
            point_noise=self.aug_point_noise,
        )
