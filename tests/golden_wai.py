"""Recorded scenes, covisibility and view sampling of the WAI reference, for `tests.goldens`.

Folders are recognized by the files in them.
"""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.multi_view.covisible_views import edges, sample_views
from data.multi_view.sampler import BatchShape, GroupSampler, turns
from data.wai.overlap import (
    PRESETS,
    ConfidenceRule,
    DepthViews,
    OverlapRule,
    covisibility,
    depth_confidence,
    frusta_touch,
    resized,
    resized_intrinsics,
    resized_size,
)
from data.wai.reference_views import ImageRule, ResizedFrame, apply_rule, reference_view
from data.wai.scene import WaiScene
from tests.golden_comparison import Comparison, compared

Arrays = dict[str, np.ndarray]
Checked = dict[str, list[Comparison]]

_POSE_TOLERANCE = 1e-6


def kind_of(folder: Path) -> Callable[[Path], Checked] | None:
    """The check of a folder, if it is one of this kind."""
    if (folder / "expected.npz").is_file() and any(folder.glob("*/scene_meta.json")):
        return check_scene
    if any(is_covisibility(path) for path in folder.glob("*.npz")):
        return check_covisibility
    if (folder / "graphs.npz").is_file() and (folder / "sampling.json").is_file():
        return check_sampling
    if (folder / "views.npz").is_file() or (folder / "image_rules.npz").is_file():
        return check_views
    return None


def read_arrays(path: Path) -> Arrays:
    """All arrays of an npz file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def check_scene(folder: Path) -> Checked:
    """Every frame and modality of a scene as it is loaded, and its files beside the arrays that were stored."""
    record = read_arrays(folder / "expected.npz")
    root = next(iter(sorted(folder.glob("*/scene_meta.json")))).parent
    scene, results = WaiScene.read(root), []
    frames: dict[int, dict[str, object]] = {}
    known = {"extrinsics", "intrinsics", "keys", "w", "h"}
    requests = sorted({name.partition("/")[2] for name in record if name[0].isdigit()} - known)
    for name, expected in record.items():
        head, _, key = name.partition("/")
        if head.isdigit():
            index = int(head)
            if index not in frames:
                frames[index] = _loaded(scene, index, requests)
            got = np.array(sorted(frames[index])) if key == "keys" else np.asarray(frames[index].get(key))
            if key == "keys":
                missing = set(expected.tolist()) ^ set(got.tolist())
                results.append(Comparison(name, float(len(missing)), "the same set", not missing))
            else:
                absolute = _POSE_TOLERANCE if key in ("extrinsics", "intrinsics") else 0.0
                results.append(compared(name, expected, got, absolute=absolute))
        elif name == "covis":
            got = np.asarray(scene.load_scene_modality("pairwise_covisibility"))
            results.append(compared(name, expected, got))
    results += _written(scene, record)
    return {f"{root.name}/scene_meta.json": results}


def _loaded(scene: WaiScene, index: int, requests: list[str]) -> dict[str, object]:
    return scene.load_frame(index, requests).record()


_WRITTEN = {
    "depth_float32": "depth",
    "normals": "pred_normals/moge2",
    "conf": "depth_confidence/mvs",
    "mask": "pred_mask/moge2",
}


def _written(scene: WaiScene, record: Arrays) -> list[Comparison]:
    """What the reference stored is what is loaded; depth after rounding to half floats."""
    results = []
    for name, request in _WRITTEN.items():
        if f"written/{name}" not in record:
            continue
        expected = record[f"written/{name}"]
        got = np.stack(
            [scene.load_frame(index, [request]).modalities[request] for index in range(len(scene.meta.frames))]
        )
        if name == "depth_float32":
            with np.errstate(over="ignore"):
                expected = expected.astype(np.float16).astype(np.float32)
        results.append(compared(f"written/{name}", expected, got))
    return results


_COVISIBILITY = {"depth", "intrinsics", "cam2world", "covis_gt"}
_LONG_SIDE = 224
_CONFIDENCE_SHARE = 0.02
"""Of the pixels of a confidence map that may differ by more than 1e-3."""


def is_covisibility(path: Path) -> bool:
    """Whether a file is an npz file with a record of covisibility."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return set(file.files) >= _COVISIBILITY
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def check_covisibility(folder: Path) -> Checked:
    """The reference's matrices by its rule, those that start with `derived_` by the repaired one."""
    return {path.name: _covisibility_of(path) for path in sorted(folder.glob("*.npz")) if is_covisibility(path)}


def _covisibility_of(path: Path) -> list[Comparison]:
    record = read_arrays(path)
    maps = list(record["depth"].astype(np.float32))
    size = maps[0].shape

    def views(new: tuple[int, int]) -> DepthViews:
        return DepthViews.make(
            np.stack([resized(np.where(one > 0, one, 0), *new) for one in maps]),
            resized_intrinsics(record["intrinsics"], size, new),
            record["cam2world"],
        )

    native, long = views(size), views(resized_size(*size, _LONG_SIDE))
    derived = DepthViews.make(
        np.stack([_resized_in_double(np.where(one > 0, one, 0), *long.size) for one in maps]),
        resized_intrinsics(record["intrinsics"], size, long.size),
        record["cam2world"],
    )
    by_name = {
        "covis_gt_56x40": (views((40, 56)), "gt", OverlapRule(is_upstream=True), 1e-2),
        "covis_gt_native": (native, "gt", OverlapRule(is_upstream=True), 2.5 / native.depth[0].numel()),
        "covis_gt_native_validtarget": (native, "gt", OverlapRule(is_upstream=True, of_target=True), None),
        **{f"covis_{name}": (long, name, OverlapRule(is_upstream=True), 2e-3) for name in ("gt", "mvs", "moge")},
        **{f"derived_targetvalid_{name}": (derived, name, OverlapRule(), 1e-3) for name in ("gt", "mvs", "moge")},
    }
    results = []
    for name, expected in record.items():
        if name in by_name:
            maps_of, preset, rule, tolerance = by_name[name]
            got = covisibility(maps_of, PRESETS[preset], rule)
            if tolerance is None:
                tolerance = 2.5 / max(1, int((native.depth > 0).flatten(1).sum(1).min()))
            off = ~np.eye(len(got), dtype=bool)
            results.append(compared(name, expected[off], got[off].astype(np.float64), absolute=tolerance))
            diagonal = 0.04 if rule.is_upstream else tolerance
            results.append(compared(f"{name} diagonal", np.diag(expected), np.diag(got), absolute=diagonal))
        elif name == "covis_gt_native_nofrustum":
            every = np.ones((len(native), len(native)), bool)
            got = covisibility(native, PRESETS["gt"], OverlapRule(is_upstream=True), candidates=every)
            off = ~np.eye(len(got), dtype=bool)
            results.append(compared(name, expected[off], got[off], absolute=2.5 / native.depth[0].numel()))
        elif name == "frustum_native":
            results.append(compared(name, expected, frusta_touch(native)))
        elif name in _CONFIDENCES:
            rule, touching = _CONFIDENCES[name], None
            if name == "multiview_confidence_native":  # a view without depth is a partner of all there
                is_empty = ~(native.depth > 0).flatten(1).any(1).numpy()
                touching = frusta_touch(native) | is_empty | is_empty[:, None]
            got = np.stack([depth_confidence(native, view, rule, touching=touching) for view in range(len(native))])
            share = float((np.abs(got - expected) > 1e-3).mean())
            results.append(Comparison(name, share, f"{_CONFIDENCE_SHARE:g} of the pixels", share <= _CONFIDENCE_SHARE))
    return results


def _resized_in_double(depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """As `resized`, but the single-precision ratio is multiplied in double precision, as the derived record has it:
    another column is taken where i * old / new is a whole number."""
    rows, columns = (
        np.floor(np.arange(new, dtype=np.float64) * np.float64(np.float32(old / new))).astype(int)
        for old, new in zip(depth.shape, (height, width), strict=True)
    )
    return depth[rows[:, None], columns]


_CONFIDENCES = {
    "depth_confidence_native": ConfidenceRule(is_upstream=True, includes_self=True),
    "multiview_confidence_native": ConfidenceRule(is_upstream=True, alone=1.0),
    "derived_depth_confidence_noself_targetvalid": ConfidenceRule(),
}


def check_sampling(folder: Path) -> Checked:
    """Edges, walks of the recorded seeds, and frequencies over many draws."""
    graphs, record = read_arrays(folder / "graphs.npz"), json.loads((folder / "sampling.json").read_text())
    by_name = {}
    for name, expected in graphs.items():
        if name.startswith("edges_"):
            _, number, kind = name.split("_")
            got = edges(graphs[f"covis_{number}"], _threshold_of(record, int(number), kind), averaged=kind == "avg")
            by_name[name] = compared(name, expected, got)
        elif name.startswith("pairfreq_"):
            by_name[name] = _pairs(name, expected, record, graphs)
    walks = [one for walk in record["walks"] for one in _walk(walk, graphs)]
    lists = [one for name, expected in record.items() if (one := _list(name, expected))]
    batches = [one for number, entry in enumerate(record.get("dynamic", [])) for one in _batches(number, entry)]
    return {"graphs.npz": list(by_name.values()), "sampling.json": [*walks, *lists, *batches]}


def _pairs(name: str, expected: np.ndarray, record: dict[str, Any], graphs: Arrays) -> Comparison:
    """How often a view is drawn first and another one second."""
    _, number, kind = name.split("_")
    neighbors = edges(graphs[f"covis_{number}"], _threshold_of(record, int(number), kind), averaged=kind == "avg")
    found = np.zeros_like(expected)
    for seed in range(_DRAWS):
        one, other = sample_views(neighbors, 2, np.random.default_rng(10000 + seed)).views
        found[one, other] += 1 / _DRAWS
    draws = next(one["draws"] for one in record["walks"] if one["graph"] == int(number) and one["views"] == 2)
    spread = np.sqrt(expected * (1 - expected) * (1 / _DRAWS + 1 / draws))
    off = ~np.eye(len(expected), dtype=bool)
    excess = float((np.abs(found - expected) / (5 * spread + 2e-3))[off].max())
    return Comparison(name, excess, "1 (5 sigma)", excess <= 1)


def _list(name: str, expected: Any) -> Comparison | None:
    """Which scene each group of an epoch is of, with more groups than scenes or fewer."""
    if match := re.fullmatch(r"resize_(\d+)_of_(\d+)_epoch(\d+)", name):
        count, length, epoch = (int(one) for one in match.groups())
        got = turns(length, count, np.random.default_rng(epoch + _REFERENCE_SEED)).tolist()
        offsets = [index // length for index in range(count)]
        differing = sum(a != b for a, b in zip(got, expected["index"], strict=True))
        differing += sum(a != b for a, b in zip(offsets, expected["seed_offset"], strict=True))
        return Comparison(name, float(differing), "the same", differing == 0)
    return None


_REFERENCE_SEED = 777
"""Added to the epoch by the reference."""


def _batches(number: int, entry: dict[str, Any]) -> list[Comparison]:
    """Sizes of recorded batches by their number of views; the same for ours, whatever the aspect."""
    counts = entry["num_views"] if isinstance(entry["num_views"], list) else [entry["num_views"]]
    aspects = tuple(0.5 + 0.25 * index for index in range(max(3, entry["aspect_ratios"])))
    shape = BatchShape(64, aspects, 8, (min(counts), max(counts)), entry["max_images"])
    batches = [batch for rank in entry["ranks"] for batch in rank["batches"]]
    has_views = isinstance(entry["num_views"], list)
    # with one number of views the reference gives all aspects but the first a batch of one
    sound = [batch for batch in batches if has_views or batch[0][1] == 0]
    wrong = sum(len(batch) != shape.groups(counts[batch[0][2]] if has_views else counts[0]) for batch in sound)
    lengths = (entry["dataset_len"],)
    samplers = [
        GroupSampler(lengths, lengths, shape, batches_per_epoch=1, seed=0, rank=rank, world_size=entry["world_size"],
                     next_batch=lambda: 0, in_turn=True)
        for rank in range(entry["world_size"])
    ]  # fmt: skip
    ours = [[sampler.keys_of(batch) for sampler in samplers] for batch in range(20)]
    sizes = {(keys[0].num_frames, len(keys)) for batch in ours for keys in batch}
    drawn = [keys[turn].item for batch in ours for turn in range(len(batch[0])) for keys in batch]
    unused = entry["dataset_len"] - len(set(drawn[: entry["dataset_len"]]))
    name = f"dynamic {number}"
    return [
        Comparison(f"{name}: sizes of recorded batches", float(wrong), "ours", wrong == 0),
        Comparison(f"{name}: our sizes", 0.0, "the budget", all(size == shape.groups(count) for count, size in sizes)),
        Comparison(f"{name}: sets left out of an epoch", float(unused), "none", unused == 0),
    ]


def _kind(walk: dict[str, Any]) -> str:
    return "avg" if walk["edge"].startswith("mean") else "row"


def _threshold_of(record: dict[str, Any], number: int, kind: str) -> float:
    return next(one["threshold"] for one in record["walks"] if one["graph"] == number and _kind(one) == kind)


def _walk(walk: dict[str, Any], graphs: Arrays) -> list[Comparison]:
    """Frequencies within four standard deviations; sets that are too short keep what they found."""
    name = f"graph {walk['graph']} {_kind(walk)}, {walk['views']} views"
    neighbors = edges(graphs[f"covis_{walk['graph']}"], walk["threshold"], averaged=_kind(walk) == "avg")
    wanted = [tuple(one) for one in walk["sequences_for_default_rng_seed_0_to_3"]]
    got = [sample_views(neighbors, walk["views"], np.random.default_rng(seed)) for seed in range(len(wanted))]
    differing = sum(
        one.views != expected
        for one, expected in zip(got, wanted, strict=True)
        if one.num_repeated == 0 and len(set(expected)) == len(expected)
    )
    results = [Comparison(f"{name}: sequences", float(differing), "the same", differing == 0)]
    sets = [sample_views(neighbors, walk["views"], np.random.default_rng(10000 + seed)) for seed in range(_DRAWS)]
    first = np.bincount([one.views[0] for one in sets], minlength=len(neighbors)) / _DRAWS
    repeats = np.array([np.mean([one.num_repeated > 0 for one in sets])])
    expected_repeats = np.array([walk["fraction_of_sets_with_repeats"]])
    pairs = [("repeats", expected_repeats, repeats)]
    if repeats[0] == 0:  # else the reference draws all views anew, and loses some that it found
        pairs.append(("first view", np.array(walk["first_view_frequency"]), first))
        included = np.mean([np.isin(np.arange(len(neighbors)), one.views) for one in sets], axis=0)
        pairs.append(("inclusion", np.array(walk["inclusion_frequency"]), included))
    for what, expected, found in pairs:
        spread = np.sqrt(expected * (1 - expected) * (1 / _DRAWS + 1 / walk["draws"]))
        excess = float((np.abs(found - expected) / (4 * spread + 1e-3)).max())
        results.append(Comparison(f"{name}: {what}", excess, "1 (4 sigma)", excess <= 1))
    return results


_DRAWS = 200


def check_views(folder: Path) -> Checked:
    """Image rules, and whole views of the scene beside the folder (chosen by their recorded frames)."""
    results: Checked = {}
    if (folder / "image_rules.npz").is_file():
        results["image_rules.npz"] = _image_rules(folder)
    scenes = sorted((*folder.glob("../*/*/scene_meta.json"), *folder.glob("*/scene_meta.json")))
    if (folder / "views.npz").is_file() and scenes:
        results["views.npz"] = _views(read_arrays(folder / "views.npz"), WaiScene.read(scenes[0].parent))
    return results


def _image_rules(folder: Path) -> list[Comparison]:
    record, results = read_arrays(folder / "image_rules.npz"), []
    for case in json.loads((folder / "image_rules.json").read_text()):
        at = f"{case['case']}/"
        width, height = case["resolution_wh"]
        rule = ImageRule(width, height, case["principal_point_centered"], case["drawn_extra_pixels"])
        given = (record[f"{at}{name}_in"] for name in ("image", "depth", "mask", "K"))
        image, depth, mask, matrix = given
        got = apply_rule(ResizedFrame(image, depth, mask > 0, matrix), rule)
        masked = record[f"{at}mask_out"] > 0
        results += [
            compared(f"{at}K", record[f"{at}K_out"], got.intrinsics, absolute=1e-4),
            compared(f"{at}depth", record[f"{at}depth_out"], got.depth),
            compared(f"{at}mask", masked, got.mask),
            compared(f"{at}image", record[f"{at}image_out"], got.image, absolute=2),
        ]
    return results


_PIXEL_SHARE = 0.005
"""Of the pixels of a mask or depth map that may differ."""
_NOT_COMPARED = {"is_metric_scale", "is_synthetic", "idx", "rng", "data_norm_type", "dataset", "label"}
"""Flags of the data set's class, and numbers of the reference's random stream."""


def _views(record: Arrays, scene: WaiScene) -> list[Comparison]:
    results: list[Comparison] = []
    views: dict[str, dict[str, Any]] = {}
    for name, expected in record.items():
        place, _, key = name.rpartition("/")
        case = place.partition("/")[0]
        if place not in views:
            height, width = record[f"{place}/true_shape"].tolist()
            frame = scene.meta.frame_index[str(record[f"{place}/instance"]).rpartition("/")[2]]
            # the case's name says which rule the reference was run with
            views[place] = reference_view(scene, frame, ImageRule(width, height, is_centered=case.endswith("_pp")))
        if key in _NOT_COMPARED:
            continue
        got = views[place].get(key)
        if key == "instance":
            results.append(Comparison(name, 0.0, "the same", str(expected) == got))
        elif key == "img":
            got = (got - _MEAN) / _STD if "dinov2" in case else got
            unit = 1 / 255 / (0.224 if "dinov2" in case else 1)
            results.append(compared(name, expected, got, absolute=unit + 1e-6))
        elif key in ("depthmap", "valid_mask", "non_ambiguous_mask"):
            share = float((expected != got).mean())
            results.append(Comparison(name, share, f"{_PIXEL_SHARE:g} of the pixels", share <= _PIXEL_SHARE))
        else:
            if key == "depth_along_ray":  # positive for negative depth there
                expected = np.where(record[f"{place}/depthmap"] < 0, 0, expected)
            results.append(compared(name, expected, got, absolute=1e-5, relative=1e-5))
    return results


_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
_STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
