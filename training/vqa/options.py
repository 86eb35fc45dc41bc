"""Options of train_vqa.py."""

from dataclasses import dataclass
from typing import Any

from data.scene_qa.datamodule import SceneQASpec
from data.scene_qa.dataset import ABLATIONS
from data.scene_qa.splits import SPLIT_SEED, VAL_RATIO
from geometry import require
from models.vqa.config import (
    GEOMETRY_STYLES,
    LORA_TARGETS,
    GeometryConfig,
    LoRAConfig,
    PerceiverConfig,
    VisualConfig,
    VQAConfig,
)
from models.vqa.prompt import FORMATS
from training.options import RunOptions, option
from training.strategies import DEEPSPEED, FSDP, strategy_of
from training.vqa.actions import require_room
from training.vqa.batch_size import AUTO, samples_at_once

NEW_VGGT, NEW_LANGUAGE = "facebook/VGGT-1B", "Qwen/Qwen3-4B-Instruct-2507"
_CAPTIONS = ("all", "whole")
_ABLATIONS = ABLATIONS[1:]
"""But for what is always shown: all views."""
_LANGUAGE_DTYPES = ("float32", "bfloat16")
_STORED_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class VQAOptions(RunOptions):
    """Training and evaluating networks that answer questions about scenes."""

    # ---- data
    dataset_name: tuple[str, ...] = option(
        ("rooms_qa",),
        "data sets to mix: rooms_qa, rooms_captions, rooms_actions (rendered), records, scanqa, sqa3d, arkit",
        nargs="+",
    )
    datadir: tuple[str, ...] = option(
        ("-",), "folder or file pattern of each data set; - for rendered rooms", nargs="+"
    )
    weights: tuple[float, ...] = option(
        (), "share of each data set, exact over every 100 samples; none given: as many as it has records", nargs="+"
    )
    scannet_dir: str = option("", "folder of ScanNet scenes, for questions that come without images")
    image_size: int = option(448, "side of the square images, pixels: short side resized, middle cut out")
    max_views: int = option(8, "views of a record at most; of more that many are kept, evenly spread")
    view_dropout: float = option(0.0, "probability that a view of a training sample is hidden; never all are")
    val_ratio: float = option(VAL_RATIO, "share of the scenes to validate with, of data sets without a split")
    rooms: int = option(2000, "rendered rooms to train on")
    val_rooms: int = option(200, "rendered rooms to validate with")
    room_views: int = option(3, "views of a rendered room, 2 to 4")
    captions: str = option("all", "captions to train on: all, or whole: only those that tell of every view")
    token_cache: str = option(
        "", "folder where VGGT's tokens are kept, computed once; not given: computed in every step"
    )
    # ---- network
    vggt_ckpt: str = option(
        "", f"frozen VGGT: a file, a folder or a hub id; not given: that of given weights, else {NEW_VGGT}"
    )
    vggt_layers: tuple[int, ...] = option((23,), "layers of VGGT whose tokens are read, from 0", nargs="+")
    image_stem: bool = option(False, "show the pixels of each cell beside VGGT's tokens: colors that VGGT gives up")
    point_codes: bool = option(False, "code where VGGT's own depth and cameras put each cell")
    pooling: int = option(1, "average squares of so many cells along a side before the Perceiver")
    merging: int = option(1, "cells along a side of the squares whose channels become one token; nothing is averaged")
    language_model: str = option(
        "", f"Qwen3: a folder, a hub id, or tiny[:SEED]; not given: that of given weights, else {NEW_LANGUAGE}"
    )
    language_dtype: str = option("bfloat16", "numbers of the frozen language model: float32, bfloat16")
    prompt_format: str = option("chat", f"layout of prompts: {', '.join(FORMATS)}")
    max_length: int = option(512, "tokens of a prompt with its answer; a longer question loses its beginning")
    latents: int = option(128, "embeddings that the Perceiver gives to the language model")
    perceiver_width: int = option(1024, "channels of the Perceiver")
    perceiver_layers: int = option(6, "layers of the Perceiver")
    perceiver_heads: int = option(8, "attention heads of the Perceiver")
    perceiver_ffn: int = option(4096, "channels inside the Perceiver's MLPs")
    perceiver_dropout: float = option(0.1, "dropout of the Perceiver")
    perceiver_stem: int = option(0, "channels inside an MLP on every token before the Perceiver reads it; 0: none")
    pre_norm: bool = option(False, "Perceiver with LayerNorm before each part instead of behind it")
    latent_attention: bool = option(False, "latents of the Perceiver attend to each other")
    latent_std: float = option(0.02, "standard deviation of the latents' start")
    perceiver_ckpt: str = option("", "projector of the published guide's names (.safetensors), its sizes as above")
    geometry: str = option("relative", f"tokens of cameras and depth: {', '.join(GEOMETRY_STYLES)}")
    geometry_tokens: int = option(8, "geometry tokens of a prompt; --geometry relative: one per view, the rest empty")
    lora_rank: int = option(16, "rank of the adapters")
    lora_alpha: float = option(32.0, "adapters are scaled by this over their rank")
    lora_dropout: float = option(0.05, "dropout before the adapters")
    lora_targets: tuple[str, ...] = option(LORA_TARGETS, "linear layers that get adapters", nargs="+")
    new_adapters: bool = option(
        False,
        "take all but adapters from --init_from; new ones, for a language model that --merge wrote or other --lora_*",
    )
    freeze_text_layers: int = option(0, "first layers of the language model that get no adapters")
    # ---- learning
    num_epochs: int = option(1, "epochs; an epoch sees as many samples as there are records")
    samples_per_update: int = option(192, "training samples of an optimizer step, of all processes together")
    batch: str = option(
        "0",
        f"samples that are in memory at once: a number, 0 for all, or {AUTO} by the free memory; results stay the same",
    )
    lrate: float = option(1e-4, "peak learning rate of the adapters")
    lrate_final: float = option(0.0, "learning rate at the end of the cosine decay")
    projector_lrate: float = option(1e-4, "peak learning rate of Perceiver, codes and geometry head")
    spelling_weight: float = option(
        0.0, "weight of writing captions of all views into the visual embeddings, word by word; 0: off"
    )
    weight_decay: float = option(
        0.1, "AdamW's decay of weights, as a share of the learning rate; not of norms, biases, latents and codes"
    )
    warmup_fraction: float = option(0.03, "share of the run in which the learning rates rise from 0")
    checkpointing: bool = option(True, "compute the language model's activations again backwards: less memory")
    # ---- use
    eval_only: bool = option(False, "no training: print and write metrics of --ckpt or --init_from")
    ablations: tuple[str, ...] = option(
        _ABLATIONS, "views that --eval_only also shows instead of the real ones", nargs="+"
    )
    max_new_tokens: int = option(64, "longest answer, tokens; actions need 256")
    constrained: bool = option(False, "--eval_only: questions for an action are answered by actions and nothing else")
    eval_batch: int = option(32, "samples that are answered at once")
    out: str = option("metrics.json", "file for the metrics of --eval_only; predictions are written beside it")
    export: str = option("", "no training: write what was trained of --init_from to this .safetensors file")
    export_dtype: str = option("float32", "numbers of exported weights: float32, float16, bfloat16")
    merge: str = option("", "no training: write the language model of --init_from, adapters merged, to this folder")

    def __post_init__(self) -> None:
        """See `RunOptions`; besides, what belongs together must fit.

        Raises:
            InputError: naming the option or both options.
        """
        super().__post_init__()
        self._require_at_least(1, "samples_per_update", "max_new_tokens", "eval_batch", "geometry_tokens", "max_length")
        self._require_at_least(0, "weight_decay", "spelling_weight", "freeze_text_layers", "perceiver_stem")
        self._require_positive("projector_lrate")
        require(0 <= self.warmup_fraction < 1, f"--warmup_fraction: expected 0 to below 1, got {self.warmup_fraction}")
        choices = {"language_dtype": _LANGUAGE_DTYPES, "export_dtype": _STORED_DTYPES, "captions": _CAPTIONS}
        for name, known in choices.items():
            value = getattr(self, name)
            require(value in known, f"--{name}: expected one of {', '.join(known)}, got {value!r}")
        require(
            self.geometry != "relative" or self.geometry_tokens >= self.max_views,
            f"--geometry_tokens {self.geometry_tokens}: expected at least --max_views {self.max_views}",
        )
        require(
            self.samples_per_update % self.num_processes == 0,
            f"--samples_per_update {self.samples_per_update}: expected a multiple of {self.num_processes} processes",
        )
        modes = [name for name in ("eval_only", "export", "merge") if getattr(self, name)]
        require(len(modes) < 2, f"--{' and --'.join(modes)}: give only one of them")
        require(
            not (self.perceiver_ckpt and self.init_from),
            "--perceiver_ckpt and --init_from: give only one, both bring a Perceiver",
        )
        unknown = [name for name in self.ablations if name not in _ABLATIONS]
        require(not unknown, f"--ablations: expected some of {', '.join(_ABLATIONS)}, got {unknown[:1]}")
        require(not self.new_adapters or bool(self.init_from), "--new_adapters: expected --init_from, got none")
        require(not self.constrained or self.eval_only, "--constrained: expected --eval_only beside it, got none")
        if self.constrained:
            require_room(self.max_new_tokens)
        for name in ("export", "merge"):
            require(
                not getattr(self, name) or bool(self.init_from),
                f"--{name}: expected --init_from with weights, got none",
            )
        require(
            not self.export or self.export.endswith(".safetensors"),
            f"--export: expected a file that ends in .safetensors, got {self.export!r}",
        )
        samples_at_once(self.batch, 0)
        _ = self.config, self.data_spec

    @property
    def config(self) -> VQAConfig:
        """Sizes of a new network, but for the channels of VGGT."""
        return self.config_for(VisualConfig().channels)

    def config_for(self, channels: int) -> VQAConfig:
        """Sizes of a new network behind a VGGT of so many channels."""
        return VQAConfig(
            visual=VisualConfig(
                layers=self.vggt_layers,
                channels=channels,
                has_pixels=self.image_stem,
                has_points=self.point_codes,
                pooling=self.pooling,
                merging=self.merging,
                max_views=max(10, self.max_views),
            ),
            perceiver=PerceiverConfig(
                width=self.perceiver_width,
                num_latents=self.latents,
                num_layers=self.perceiver_layers,
                num_heads=self.perceiver_heads,
                ffn_dim=self.perceiver_ffn,
                dropout=self.perceiver_dropout,
                pre_norm=self.pre_norm,
                self_attention=self.latent_attention,
                latent_std=self.latent_std,
                stem_dim=self.perceiver_stem,
                is_scaled=not self.perceiver_ckpt,
            ),
            geometry=GeometryConfig(self.geometry, self.geometry_tokens),
            lora=LoRAConfig(
                self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_targets, self.freeze_text_layers
            ),
            prompt_format=self.prompt_format,
            max_length=self.max_length,
        )

    @property
    def data_spec(self) -> SceneQASpec:
        """What the data module is built from."""
        return SceneQASpec(
            dataset_names=self.dataset_name,
            datadirs=self.datadir,
            weights=self.weights,
            scannet_dir=self.scannet_dir,
            image_size=self.image_size,
            max_views=self.max_views,
            batch_size=self.samples_per_update // self.num_processes,
            view_dropout=self.view_dropout,
            val_ratio=self.val_ratio,
            split_seed=SPLIT_SEED,
            num_val=None if self.eval_only else self.num_val,
            rooms=self.rooms,
            val_rooms=self.val_rooms,
            room_views=self.room_views,
            seed=self.seed,
            num_workers=self.num_workers,
        )

    @property
    def is_sharded(self) -> bool:
        """Whether the task shares the weights out among processes."""
        return self.strategy == FSDP

    @property
    def lightning_strategy(self) -> Any:
        """See `strategy_of`."""
        return strategy_of(self.strategy, self.num_processes)

    @property
    def runs_deepspeed(self) -> bool:
        """Whether DeepSpeed owns the optimizer."""
        return self.strategy == DEEPSPEED
