"""Options of train_vqa.py -> data, network and task."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data.image_io import UnreadableFileError
from data.scene_qa.datamodule import SceneQADataModule, build_qa_data, open_cache
from data.scene_qa.feature_cache import Extractor
from data.scene_qa.sources import QASource
from data.scene_qa.types import QARecord
from data.seeds import evenly_spread
from geometry import require
from models.vggt.frozen import FROZEN_HEADS, FrozenVGGT
from models.vqa.config import VQAConfig
from models.vqa.language import load_language
from models.vqa.network import SceneQA
from models.vqa.spelling import SEPARATOR
from models.vqa.visual import scene_features
from models.vqa.weights import load_published_perceiver
from training.backbone import VGGTRecord, announce_license, require_same_backbone
from training.checkpoint import read_checkpoint
from training.launch import global_rank
from training.vqa.checkpoint import VQA_TRAINING, read_start
from training.vqa.inputs import CAPTION
from training.vqa.options import NEW_LANGUAGE, NEW_VGGT, VQAOptions
from training.vqa.task import VQATask

_STATISTICS_GROUPS = 128
"""Groups of views that means and standard deviations of VGGT's channels are taken from."""


def load_vggt_of(options: VQAOptions, config: VQAConfig, source: str = "") -> tuple[FrozenVGGT, VGGTRecord]:
    """The frozen VGGT of `--vggt_ckpt`, else of `source`, with what a network of `config` reads, and its record.

    Raises:
        InputError: for weights that cannot be read, or without the heads that points need.
    """
    heads = FROZEN_HEADS if config.visual.has_points else ()
    source = options.vggt_ckpt or source or NEW_VGGT
    vggt = FrozenVGGT.load(source, config.visual.layers, heads)
    announce_license(vggt)
    record = VGGTRecord(source, vggt.identity.name, vggt.identity.sha256, vggt.layers, options.image_size, heads)
    return vggt, record


def build_data(options: VQAOptions, vggt: FrozenVGGT, config: VQAConfig) -> SceneQADataModule:
    """Training mixture and validation records.

    A sample of each is read at once, so that files that are not there stop a run before it leaves anything.
    """
    cache = open_cache(options.token_cache, cache_identity(vggt, config), config.visual.layers)
    data = build_qa_data(options.data_spec, cache, for_training=not options.eval_only)
    if options.captions == "whole":
        data.train_sources = tuple(map(WholeCaptions, data.train_sources))
    for sources in (data.train_sources, data.val_sources):
        for source in sources:
            next(readable_images(source, source.records))
    return data


def readable_images(source: QASource, records: Sequence[QARecord]) -> Iterator[Tensor]:
    """Of all records whose images can be read.

    Raises:
        UnreadableFileError: for the last one, where there are none.
    """
    found, failure = 0, None
    for record in records:
        try:
            images = source.images(record)
        except UnreadableFileError as error:
            failure = error
            continue
        found += 1
        yield images
    if failure is not None and not found:
        raise failure


def cache_identity(vggt: FrozenVGGT, config: VQAConfig) -> str:
    """Everything but layers and pixels that stored features depend on."""
    visual = config.visual
    return f"{vggt.identity.sha256}:pixels{int(visual.has_pixels)}:points{int(visual.has_points)}"


def build_task(options: VQAOptions, vggt: FrozenVGGT, record: VGGTRecord, data: SceneQADataModule) -> VQATask:
    """Network and task.

    A new network has the sizes of the options; it takes what was trained in `--init_from` where that is given, and
    statistics of VGGT's channels from the training data otherwise. A run to resume gets the sizes of its record.

    Raises:
        InputError: for weights that do not fit.
    """
    torch.manual_seed(options.seed)
    dtype = getattr(torch, options.language_dtype)
    is_hollow = options.is_sharded and global_rank() > 0  # the first process shares its weights out
    if options.ckpt:
        checkpoint = read_checkpoint(Path(options.ckpt), VQA_TRAINING)
        require_same_backbone(checkpoint.record.vggt, record, f"--vggt_ckpt {options.vggt_ckpt}")
        network = VQA_TRAINING.build(
            checkpoint.record, language=options.language_model, dtype=dtype, is_hollow=is_hollow
        )
        wrong = sorted(network.state_dict().keys() ^ checkpoint.weights.keys())
        require(not wrong, f"--ckpt {options.ckpt}: expected the weights of its record, got others: {wrong[:3]}")
        task = VQATask(options, network, vggt, record)
        task.resume(checkpoint)
        return task
    start = read_start(options.init_from) if options.init_from else None
    source = options.language_model or (NEW_LANGUAGE if start is None else start.language.name)
    network = SceneQA(options.config_for(vggt.channels), load_language(source, dtype=dtype, is_hollow=is_hollow))
    if start is not None:
        require_same_backbone(start.vggt, replace(record, heads=start.vggt.heads), f"--vggt_ckpt {options.vggt_ckpt}")
        start.load_into(network, f"--init_from {options.init_from}", with_adapters=not options.new_adapters)
    else:
        if options.perceiver_ckpt:
            load_published_perceiver(Path(options.perceiver_ckpt), network.perceiver)
        visual = network.config.visual
        network.visual.standardize(training_features(data, lambda images: scene_features(vggt, visual, images)))
    return VQATask(options, network, vggt, record)


class WholeCaptions:
    """A source without the captions that leave views out."""

    def __init__(self, source: QASource) -> None:
        """Raises `InputError` where nothing is left."""
        self.name, self.size = source.name, source.size
        self.images, self.fingerprints, self.geometry = source.images, source.fingerprints, source.geometry
        self.records = [one for one in source.records if one.task != CAPTION or tells_of_all_views(one)]
        require(len(self.records) > 0, f"--captions whole: expected some of all views in {source.name}, got none")


def tells_of_all_views(record: QARecord) -> bool:
    """Whether a caption has a part for each of several views."""
    return len(record.images) > 1 and len(record.answers[0].split(SEPARATOR)) == len(record.images)


def training_features(data: SceneQADataModule, extract: Extractor) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and view masks of some training groups, evenly spread."""
    seen: set[tuple[Path, ...]] = set()
    groups = []
    for source in data.train_sources:
        for item in source.records:
            if item.images not in seen:
                seen.add(item.images)
                groups.append((source, item))
    require(len(groups) > 0, "expected training data to take statistics from, got none")
    chosen = evenly_spread(groups, _STATISTICS_GROUPS)
    for source in data.train_sources:
        for images in readable_images(source, [item for one, item in chosen if one is source]):
            features = extract(images[None])
            yield features, torch.ones(features.shape[:2], dtype=torch.bool)
