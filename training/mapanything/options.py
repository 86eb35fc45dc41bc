"""Options of train_mapanything.py."""

from dataclasses import dataclass, replace
from typing import Any

from geometry import require
from models.mapanything.objective.recipes import RECIPES, LossRecipe, recipe_named
from training.mapanything.inputs import PRESETS, InputProbabilities, preset_named
from training.multi_view_options import MultiViewOptions
from training.optimizers import PartRate
from training.options import option
from training.strategies import FSDP, strategy_of

MODELS = ("mapanything", "vggt", "pi3")
DEFAULT_LOSS = {"mapanything": "v1.1", "vggt": "vggt", "pi3": "pi3"}


_EVAL_INPUTS = ("images", "everything")


@dataclass(frozen=True, kw_only=True)
class MapAnythingOptions(MultiViewOptions):
    """Training and evaluating networks that reconstruct many views at once."""

    model: str = option(
        "mapanything",
        "mapanything, vggt (images only) or pi3 (images only, no reference view: our network in pi3's manner)",
    )
    model_config: str = option("", "JSON file of sizes, for training from random weights; none: the released sizes")
    model_ckpt: str = option("", "weights to start from: a .safetensors or .pt file, a folder or a hub id")
    dinov2_ckpt: str = option(
        "", "a DINOv2's own weights (.pt), for the image encoder and the attention over views of random weights"
    )
    loss: str = option("", f"recipe of the loss: {', '.join(RECIPES)}; not given: that of --model")
    inputs: str = option(
        "augmented", f"geometry that training gives beside the images: {', '.join(PRESETS)}; augmented draws it anew"
    )
    input_overall: float | None = option(None, "probability that a group gets any geometry; not given: of --inputs")
    hide_scale_per_view: bool = option(
        False, "hide the metric scale view by view instead of group by group, as upstream"
    )
    eval_inputs: tuple[str, ...] = option(
        _EVAL_INPUTS, "presets of --inputs to validate and evaluate with, one after the other", nargs="+"
    )
    in_turn: bool = option(
        True,
        "train on the scenes in turns, on each of an epoch's --len_train groups once; else scenes are drawn anew for "
        "every step",
    )
    num_epochs: int = option(100, "epochs; an epoch sees --len_train groups")
    lrate: float = option(1e-4, "peak learning rate of AdamW")
    lrate_final: float = option(1e-6, "learning rate at the end of the cosine decay")
    part_lrates: tuple[str, ...] = option(
        (), "rates of parts of the network, such as encoder=5e-6:5e-8 (peak:final), or encoder=0: frozen", nargs="+"
    )
    warmup_fraction: float = option(0.1, "share of the run in which the learning rate rises from 0")
    weight_decay: float = option(0.05, "AdamW's decay of all matrices and kernels, as a share of the learning rate")
    max_objective: float = option(1000.0, "a larger weighted sum of losses stops the run as unstable, no unit")
    checkpointing: bool = option(True, "compute activations again backwards: less memory")
    eval_ckpt: str = option("", "weights for --eval_only without --ckpt, --init_from and --model_ckpt")

    def __post_init__(self) -> None:
        """See `MultiViewOptions`; besides, what belongs together must fit.

        Raises:
            InputError: naming the option or both options.
        """
        super().__post_init__()
        require(self.model in MODELS, f"--model: expected one of {', '.join(MODELS)}, got {self.model!r}")
        self._require_at_least(0, "weight_decay")
        self._require_positive("max_objective")
        require(0 <= self.warmup_fraction < 1, f"--warmup_fraction: expected 0 to below 1, got {self.warmup_fraction}")
        require(
            not (self.model_config and self.model_ckpt) or self.eval_only,
            "--model_config starts from random weights and --model_ckpt from given ones: give only one of them",
        )
        require(
            not self.dinov2_ckpt or (self.model != "vggt" and not self.model_ckpt and not self.init_from),
            "--dinov2_ckpt: expected --model mapanything or pi3 without --model_ckpt and --init_from",
        )
        for name in self.eval_inputs:
            preset_named(name, "--eval_inputs")
        require(
            self.model == "mapanything" or self.inputs in ("images", "augmented"),
            f"--inputs {self.inputs}: --model {self.model} takes images only",
        )
        require(
            self.model == "mapanything" or (self.input_overall is None and not self.hide_scale_per_view),
            f"--input_overall and --hide_scale_per_view: --model {self.model} takes images only",
        )
        require(
            self.model == "mapanything" or self.eval_inputs in (_EVAL_INPUTS, ("images",)),
            f"--eval_inputs {' '.join(self.eval_inputs)}: --model {self.model} takes images only",
        )
        require(
            self.input_overall is None or self.inputs != "images", "--input_overall: --inputs images gives no geometry"
        )
        require(
            len(set(self.eval_inputs)) == len(self.eval_inputs), f"--eval_inputs: named twice in {self.eval_inputs}"
        )
        _ = self.input_chances, self.recipe, self.rates

    @property
    def takes_geometry(self) -> bool:
        """Whether the network is given more than images."""
        return self.model == "mapanything"

    @property
    def input_chances(self) -> InputProbabilities:
        """What training draws."""
        if not self.takes_geometry:
            return PRESETS["images"]
        chances = replace(preset_named(self.inputs), hides_per_view=self.hide_scale_per_view)
        return chances if self.input_overall is None else replace(chances, overall=self.input_overall)

    @property
    def evaluated_inputs(self) -> tuple[str, ...]:
        """Presets to evaluate with."""
        return self.eval_inputs if self.takes_geometry else ("images",)

    @property
    def recipe(self) -> LossRecipe:
        """Of the loss."""
        return recipe_named(self.loss or DEFAULT_LOSS[self.model])

    @property
    def rates(self) -> tuple[PartRate, ...]:
        """Of `--part_lrates`."""
        return tuple(PartRate.parse(text) for text in self.part_lrates)

    @property
    def is_sharded(self) -> bool:
        """Whether processes share the weights out among them."""
        return self.strategy == FSDP

    @property
    def lightning_strategy(self) -> Any:
        """See `strategy_of`."""
        return strategy_of(self.strategy, self.num_processes)
