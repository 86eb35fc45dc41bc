"""MapAnything's recorded network, geometry, losses, metrics and schedules, for `tests.goldens`.

Folders are recognized by the files in them. Everything is computed in float64 from the recorded numbers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from geometry.cameras import rigid_inverse
from geometry.conversions import intrinsics_from_integer_centers, intrinsics_to_integer_centers
from geometry.errors import InputError
from geometry.pixel_rays import along_ray, intrinsics_from_key_rays, intrinsics_from_rays, unit_rays
from geometry.pose_metrics import histogram_auc
from geometry.quaternions import (
    quaternion_from_rotation,
    quaternion_inverse,
    quaternion_product,
    relative_pose,
    rotation_from_quaternion,
)
from models.mapanything import GeometricInputs, MapAnything, MapAnythingConfig, Reconstruction
from models.mapanything.config import config_of_weights
from models.mapanything.inputs import encoded_depth, encoded_poses, log_length
from models.mapanything.objective.elementary import KEPT_SHARE, robust_error, sorted_valid
from models.mapanything.objective.losses import GeometryLosses, geometry_losses
from models.mapanything.objective.recipes import RECIPES, LossRecipe
from models.mapanything.objective.surface import gradient_error, normal_error
from models.mapanything.objective.truth import GeometryTruth, mean_distance
from models.vggt.weights import require_fitting_weights
from tests.golden_comparison import Comparison, compared
from training.mapanything.inputs import PRESETS, probabilities
from training.mapanything.metrics import (
    PairErrors,
    absolute_relative,
    chord_angle,
    norm_inliers,
    set_metrics,
    trajectory_errors,
    true_inliers,
)
from training.optimizers import PartRate, rate_groups
from training.schedules import warmup_half_cosine

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

OUTPUTS = {
    "pts3d": "points",
    "pts3d_cam": "points_cam",
    "ray_directions": "rays",
    "depth_along_ray": "depth_along_ray",
    "cam_trans": "translations",
    "cam_quats": "quaternions",
    "metric_scaling_factor": "scale",
    "conf": "confidence",
    "non_ambiguous_mask_logits": "mask_logits",
}
"""Recorded name of an output -> field of `Reconstruction`."""
RECIPE_NAMES = {
    "overall_loss_highpm_plus_rel_pose": "v1.1",
    "overall_loss_highpm_plus_rel_pose_no_conf": "v1.1_no_confidence",
    "overall_loss_highpm_rel_pose_no_ref_view": "v1.1_no_reference",
    "overall_loss_highpm_rel_pose_no_ref_view_no_conf": "v1.1_no_reference_no_confidence",
    "overall_loss_weigh_pm_higher": "v1",
    "overall_loss": "base",
    "vggt_loss": "vggt",
    "pi3_loss": "pi3",
    "moge2_loss": "moge",
    "entangled_metric_loss": "entangled",
    "no_log_scaling": "no_log",
    "no_robust_loss": "not_robust",
    "conf_pm_mask_scale_loss": "points_only",
}
"""Recorded name of a loss -> name in `RECIPES`."""
TERMS = {
    "pts3d": "points",
    "cam_pts3d": "points_cam",
    "depth_along_ray": "depth",
    "depth_z": "depth",
    "ray_directions": "rays",
    "pose_quats": "quaternions",
    "pose_trans": "translations",
    "normal": "normals",
    "gradient_matching": "gradients",
    "mask_bce": "mask",
    "scale": "scale",
}
MODEL_TOLERANCE = 2e-5
LOSS_TOLERANCE = 1e-7
MASK_TOLERANCE = 2e-7
"""Of the mask's term, which is recorded as the float32 that the reference logs."""
NOISE = 1e-12
"""Of terms that are zero but for rounding."""


def kind_of(folder: Path) -> Callable[[Path], dict[str, list[Comparison]]] | None:
    """The check of a folder of fixtures; None: not one of these kinds."""
    names = {path.name for path in folder.iterdir()}
    if {"io.npz", "config.json", "state_dict.safetensors"} <= names:
        is_projector = "num_latents" in json.loads((folder / "config.json").read_text())  # tests/golden_vqa.py
        return None if is_projector else check_model
    if "geometry.npz" in names and "quat_unnormalised_in" in _arrays_in(folder / "geometry.npz"):
        return check_geometry
    if "losses.json" in names and "losses.npz" not in names:
        return check_losses
    if "units.npz" in names or {"benchmark.json", "benchmark_inputs.npz"} <= names:
        return check_metrics
    if names & {"schedule.json", "task_probabilities.json"}:
        return check_schedule
    return None


def _arrays_in(path: Path) -> list[str]:
    with np.load(path, allow_pickle=False) as file:
        return file.files


def _read(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"arrays {path} cannot be read: {error}") from error
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items() if value.dtype.kind != "U"}


def _stacked(tensors: Tensors, side: str, name: str) -> Tensor:
    """Of all views: batch view ...; floats as float64."""
    views = sorted({int(key[len(side) + 1 :].split("/")[0]) for key in tensors if key.startswith(f"{side}/")})
    found = torch.stack([tensors[f"{side}/{view}/{name}"] for view in views], dim=1)
    return found.double() if found.is_floating_point() else found


# ---- network


def check_model(folder: Path) -> dict[str, list[Comparison]]:
    """Outputs and what lies between for every combination of inputs that is recorded."""
    weights = folder / "state_dict.safetensors"
    state = load_file(weights)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    model = MapAnything(config_of_weights(shapes, MapAnythingConfig.read(folder / "config.json")))
    require_fitting_weights(weights, shapes, model.state_dict())
    model.load_state_dict(state)
    model.double().eval()
    record = _read(folder / "io.npz")
    results = []
    for task in sorted({name.split("/")[0] for name in record} - {"in"}):
        inputs = _inputs_of_task(record, task)
        with torch.no_grad():
            output = model(inputs)
            between = _between(model, inputs)
        for name, expected in record.items():
            if name.startswith(f"{task}/"):
                got = _recorded_output(name.removeprefix(f"{task}/"), output, between, tuple(expected.shape))
                results.append(
                    compared(name, expected.numpy(), None if got is None else got.numpy(), absolute=MODEL_TOLERANCE)
                )
    return {"io.npz": results}


def _inputs_of_task(record: Tensors, task: str) -> GeometricInputs:
    """What a task shows of the recorded views; `partial`: view 1 without depth, the last view without pose."""
    metric = _stacked(record, "in", "is_metric_scale")
    yes, no = torch.ones_like(metric), torch.zeros_like(metric)
    words = task.split("_")
    everything = words[0] in ("all", "partial")
    flags = {
        "has_rays": yes if everything or "rays" in words else no,
        "has_depth": yes if everything or "depth" in words else no,
        "has_pose": yes if everything or "poses" in words else no,
    }
    if task == "partial":
        flags["has_depth"], flags["has_pose"] = yes.clone(), yes.clone()
        flags["has_depth"][:, 1] = False
        flags["has_pose"][:, -1] = False
    shown = no if "hidden" in words else metric
    return GeometricInputs(
        images=_stacked(record, "in", "img"),
        rays=_stacked(record, "in", "ray_directions_cam"),
        depth_along_ray=_stacked(record, "in", "depth_along_ray")[..., 0],
        quaternions=_stacked(record, "in", "camera_pose_quats"),
        translations=_stacked(record, "in", "camera_pose_trans"),
        shows_depth_scale=shown & flags["has_depth"],
        shows_pose_scale=shown & flags["has_pose"],
        **flags,
    )


def _by_view_first(values: Tensor) -> Tensor:
    """(batch view) ... in our order -> (view batch) ..., as recorded."""
    return values.transpose(0, 1).flatten(0, 1)


def _between(model: MapAnything, inputs: GeometricInputs) -> Tensors:
    """Inputs and outputs of the parts, by recorded name, but for those that do not run by themselves."""
    batch, views = inputs.has_rays.shape
    patch = model.config.patch_size
    rows, cols = (side // patch for side in inputs.images.shape[-2:])
    depth = encoded_depth(inputs.depth_along_ray, inputs.has_depth)
    poses = encoded_poses(inputs.quaternions, inputs.translations, inputs.has_pose)
    given = {
        "depth_encoder": depth.values[:, :, None],
        "depth_scale_encoder": depth.log_mean[..., None],
        "cam_rot_encoder": poses.quaternions,
        "cam_trans_encoder": poses.translations,
        "cam_trans_scale_encoder": poses.log_mean[..., None],
    }
    found = {f"encoder_input/{name}": _by_view_first(value) for name, value in given.items()}

    def as_map(tokens: Tensor) -> Tensor:
        return tokens.transpose(-1, -2).unflatten(-1, (rows, cols))

    images = _by_view_first(inputs.images)
    encoded = model.encoder(images)
    found["mid/encoder"] = as_map(encoded.patches)
    found["mid/ray_encoder"] = as_map(model.ray_dirs_encoder(_by_view_first(inputs.rays).movedim(-1, 1)))
    for ours, theirs in (
        ("depth_encoder", "depth_encoder"),
        ("depth_scale_encoder", "depth_scale_encoder"),
        ("cam_rot_encoder", "rot_encoder"),
        ("cam_trans_encoder", "trans_encoder"),
        ("cam_trans_scale_encoder", "trans_scale_encoder"),
    ):
        features = getattr(model, ours)(found[f"encoder_input/{ours}"])
        found[f"mid/{theirs}"] = as_map(features) if ours == "depth_encoder" else features
    patches = model.encoder(inputs.images.flatten(0, 1)).patches
    fused = model.fused(patches, inputs).unflatten(0, (batch, views))
    found["mid/fused_channels_last"] = _by_view_first(fused).unflatten(1, (rows, cols))
    shared = model.info_sharing(fused, model.scale_token)
    tokens = {"tap0": shared.first_tap, "tap1": shared.second_tap, "final": shared.last}
    found |= {f"mid/{name}": as_map(value) for name, value in tokens.items()}
    found["mid/scale_token"] = shared.scale[..., None]
    levels = [as_map(_by_view_first(one)) for one in (fused, *tokens.values())]
    maps = model.dpt_feature_head(levels)
    found["mid/dense_channels"] = model.dpt_regressor_head(maps, tuple(inputs.images.shape[-2:]))
    found["mid/pose_channels"] = model.pose_head(levels[-1])
    found["mid/scale_channels"] = model.scale_head(shared.scale)[:, None, None]
    return found


def _recorded_output(name: str, output: Reconstruction, between: Tensors, shape: tuple[int, ...]) -> Tensor | None:
    part, _, rest = name.partition("/")
    if part != "out":
        return between.get(name)
    view, _, key = rest.partition("/")
    if key == "non_ambiguous_mask":
        return output.mask_logits[:, int(view)].sigmoid() > 0.5
    if key not in OUTPUTS:
        return None
    return getattr(output, OUTPUTS[key])[:, int(view)].reshape(shape)


# ---- losses


def truth_of_record(tensors: Tensors) -> GeometryTruth:
    """Recorded views as a batch."""
    return GeometryTruth(
        points=_stacked(tensors, "gt", "pts3d"),
        points_cam=_stacked(tensors, "gt", "pts3d_cam"),
        rays=_stacked(tensors, "gt", "ray_directions_cam"),
        depth_along_ray=_stacked(tensors, "gt", "depth_along_ray")[..., 0],
        quaternions=_stacked(tensors, "gt", "camera_pose_quats"),
        translations=_stacked(tensors, "gt", "camera_pose_trans"),
        valid=_stacked(tensors, "gt", "valid_mask"),
        unambiguous=_stacked(tensors, "gt", "non_ambiguous_mask"),
        is_metric=_stacked(tensors, "gt", "is_metric_scale")[:, 0],
        is_synthetic=_stacked(tensors, "gt", "is_synthetic")[:, 0],
    )


def leaves_of_record(tensors: Tensors) -> Tensors:
    """Recorded predictions by `<view>/<name>`, each one with a gradient of its own."""
    found = {key.removeprefix("pred/"): value for key, value in tensors.items() if key.startswith("pred/")}
    return {key: value.clone().double().requires_grad_() for key, value in found.items()}


def prediction_of_leaves(leaves: Tensors) -> Reconstruction:
    """All views as a batch."""
    fields: Tensors = {}
    for key in dict.fromkeys(name.split("/")[1] for name in leaves):
        value = _stacked({f"pred/{name}": one for name, one in leaves.items()}, "pred", key)
        fields[OUTPUTS[key]] = value[..., 0] if key in ("depth_along_ray", "metric_scaling_factor") else value
    return Reconstruction(**fields)


def check_losses(folder: Path) -> dict[str, list[Comparison]]:
    """Totals, terms and gradients of every scenario and recipe."""
    results = {}
    for scenario, entry in json.loads((folder / "losses.json").read_text()).items():
        tensors = _read(folder / f"{scenario}.npz")
        truth = truth_of_record(tensors)
        results[f"{scenario}.npz"] = [
            one for key, values in entry["losses"].items() for one in _check_loss(key, values, tensors, truth)
        ]
    return results


def _check_loss(key: str, values: dict[str, Any], tensors: Tensors, truth: GeometryTruth) -> list[Comparison]:
    name, _, mode = key.rpartition(".")
    if name not in RECIPE_NAMES:
        return [Comparison(key, float("inf"), "a recipe of the table", False)]
    recipe = RECIPES[RECIPE_NAMES[name]]
    leaves = leaves_of_record(tensors)
    losses = geometry_losses(prediction_of_leaves(leaves), truth, recipe, is_training=mode == "train")
    numbers = {"total": losses.total, "total_after_view_scaling": losses.objective}
    found = [
        compared(f"{key}/{total}", np.array(values[total]), value.detach().numpy(), relative=LOSS_TOLERANCE)
        for total, value in numbers.items()
    ]
    for term, expected in values["terms"].items():
        got = _term(term, losses, recipe)
        relative = MASK_TOLERANCE if term.startswith("mask") else LOSS_TOLERANCE
        found.append(compared(f"{key}/{term}", np.array(expected), got, absolute=NOISE, relative=relative))
    if mode == "train":
        losses.total.backward()
        for recorded in (one for one in tensors if one.startswith(f"{name}/g/")):
            leaf = leaves[recorded.removeprefix(f"{name}/g/")]
            gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            expected = tensors[recorded].numpy()
            absolute = 1e-6 * float(np.abs(expected).max()) + NOISE
            found.append(compared(recorded, expected, gradient.numpy(), absolute=absolute))
    return found


def _term(term: str, losses: GeometryLosses, recipe: LossRecipe) -> np.ndarray | None:
    """Ours by a recorded name such as `pts3d[conf]/view0`; the mask's is recorded without its weight."""
    name, _, where = term.partition("/")
    ours = TERMS.get(name.split("[")[0], "")
    values = losses.plain.get(ours) if "[" not in name and ours in losses.plain else losses.terms.get(ours)
    if values is None:
        return None
    value = values.mean() if where in ("", "mean_over_views") else values[int(where.removeprefix("view"))]
    return (value / (recipe.mask if ours == "mask" else 1)).detach().numpy()


# ---- geometry


def check_geometry(folder: Path) -> dict[str, list[Comparison]]:
    """Every `*_out` of the file."""
    given = {name: value for name, value in _read(folder / "geometry.npz").items()}
    ours = _poses_and_rays(given) | _normalizations(given) | _elementary(given)
    invalid = ~given["valid_out"].numpy()
    results = []
    for name, value in given.items():
        if not name.endswith("_out"):
            continue
        expected, got = value.numpy(), ours.get(name)
        if got is not None and name in ("depth_along_ray_out", "points_world_out"):
            # a negative depth is unknown to us: 0; the reference makes a positive distance of it
            expected = np.where(invalid.reshape(invalid.shape + (1,) * (expected.ndim - invalid.ndim)), 0, expected)
            got = torch.where(torch.from_numpy(invalid).reshape(*invalid.shape, *[1] * (got.ndim - 3)), 0.0, got)
        tolerance = {"absolute": 1e-3} if name.startswith("K_from") else {"absolute": 1e-14, "relative": 1e-9}
        results.append(compared(name, expected, None if got is None else got.detach().numpy(), **tolerance))
    return {"geometry.npz": results}


def _poses_and_rays(given: Tensors) -> Tensors:
    first, second = (given[name] for name in ("quat_unnormalised_in", "quat2_in"))
    units = [one / one.norm(dim=-1, keepdim=True) for one in (first, second)]
    quaternion, translation = relative_pose(units[0], given["trans1_in"], units[1], given["trans2_in"])
    height, width = given["z_in"].shape[1:]
    rays = unit_rays(intrinsics_from_integer_centers(given["K_in"]), height, width)
    distance = along_ray(given["z_in"], rays)
    c2w = given["cam2world_in"]
    turned = rotation_from_quaternion(given["pose_quats_in"])
    points = torch.einsum("brc,bhwc->bhwr", turned, given["ray_directions_out"] * given["depth_in"])
    world = torch.einsum("brc,bhwc->bhwr", c2w[:, :3, :3], rays * distance[..., None])
    fits = {
        "K_from_rays_out": intrinsics_from_rays(given["ray_directions_out"]),
        "K_from_noisy_rays_out": intrinsics_from_rays(given["noisy_rays_in"]),
        "K_from_rays_keypoints_out": intrinsics_from_key_rays(given["noisy_rays_in"]),
    }
    return {
        "quat_out": quaternion_from_rotation(given["rot_in"]),
        "rot_out": rotation_from_quaternion(first),
        "quat_inverse_out": quaternion_inverse(first),
        "quat_product_out": quaternion_product(first, second),
        "rel_quat_out": quaternion,
        "rel_trans_out": translation,
        "cam2world_inverse_out": rigid_inverse(c2w),
        "ray_directions_out": rays,
        "depth_along_ray_out": distance,
        "points_world_out": world + c2w[:, None, None, :3, 3],
        "valid_out": (given["z_in"] > 0).double(),
        "pointmap_out": points + given["pose_trans_in"][:, None, None],
    } | {name: intrinsics_to_integer_centers(value) for name, value in fits.items()}


def _normalizations(given: Tensors) -> Tensors:
    depth = given["depthnorm_in"][:, None, ..., 0]
    yes = torch.ones(len(depth), 1, dtype=torch.bool)
    mean = encoded_depth(depth, yes).log_mean[:, 0].exp() - 1e-8
    translations = given["transnorm_in"]
    identity = torch.zeros(*translations.shape[:2], 4, dtype=torch.float64)
    identity[..., 3] = 1
    # relative to a view 0 that is put at the origin: the others are as given
    origin = torch.zeros_like(translations[:, :1])
    poses = encoded_poses(
        torch.cat([identity[:, :1], identity], 1),
        torch.cat([origin, translations], 1),
        torch.ones(len(translations), translations.shape[1] + 1, dtype=torch.bool),
    )
    cloud, mask = given["cloud_in"].transpose(0, 1), given["cloud_mask_in"].transpose(0, 1)
    unit = mean_distance(cloud, mask)
    return {
        "depthnorm_factor_out": mean,
        "depthnorm_out": given["depthnorm_in"] / mean[:, None, None, None],
        "transnorm_out": poses.translations[:, 1:],
        "transnorm_factor_out": poses.log_mean[:, 0].exp() - 1e-8,
        "cloud_factor_out": unit,
        "cloud_out": given["cloud_in"] / unit[None, :, None, None, None],
    }


def _elementary(given: Tensors) -> Tensors:
    def with_gradient(name: str, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = given[name].clone().requires_grad_()
        value = function(leaf)
        value.sum().backward()
        return value, leaf.grad

    def of_view(values: Tensor) -> Tensor:
        return values[:, None]

    logarithm, logarithm_gradient = with_gradient("logmap_in", log_length)
    robust, robust_gradient = with_gradient("robust_a_in", lambda a: robust_error(a, given["robust_b_in"]))
    normal, normal_gradient = with_gradient(
        "normal_pred_in",
        lambda x: normal_error(of_view(x), of_view(given["normal_gt_in"]), of_view(given["normal_mask_in"]))[0],
    )
    matching, matching_gradient = with_gradient(
        "gm_pred_in",
        lambda x: gradient_error(of_view(x[..., 0]), of_view(given["gm_gt_in"][..., 0]), of_view(given["gm_mask_in"]))[
            0
        ],
    )
    errors, counts = sorted_valid(given["keep_in"][:, None], given["keep_mask_in"][:, None])
    kept = [row[: int(KEPT_SHARE * int(count))] for row, count in zip(errors, counts, strict=True)]
    return {
        "logmap_out": logarithm,
        "logmap_grad_of_sum_out": logarithm_gradient,
        "logmap1d_out": log_length(given["logmap1d_in"]),
        "robust_out": robust,
        "robust_grad_a_out": robust_gradient,
        "normal_loss_out": normal,
        "normal_grad_out": normal_gradient,
        "gm_loss_out": matching,
        "gm_grad_out": matching_gradient,
        "keep95_out": torch.cat(kept),
    }


# ---- metrics


def check_metrics(folder: Path) -> dict[str, list[Comparison]]:
    """Single metrics, and those of whole sets of views."""
    results = {}
    if (folder / "units.npz").is_file():
        results["units.npz"] = _check_units(_read(folder / "units.npz"))
    if (folder / "benchmark.json").is_file():
        results["benchmark.json"] = _check_sets(folder)
    return results


def _check_units(given: Tensors) -> list[Comparison]:
    maps = (given["pred"], given["gt"], given["mask"])
    rotated = (given["pred_rotated"], given["gt"], given["mask"])
    ours, theirs = given["poses_pred"], given["poses_gt"]
    pairs = PairErrors(
        quaternion_from_rotation(ours[:, :3, :3]),
        ours[:, :3, 3],
        quaternion_from_rotation(theirs[:, :3, :3]),
        theirs[:, :3, 3],
    )
    residuals = trajectory_errors(ours[:, :3, 3], theirs[:, :3, 3])
    found = {
        "abs_rel": absolute_relative(*maps),
        "abs_rel_rotated": absolute_relative(*rotated),
        "abs_rel_empty_mask": absolute_relative(*maps[:2], torch.zeros_like(given["mask"])),
        "inlier103": norm_inliers(*maps),
        "inlier103_rotated": norm_inliers(*rotated),
        "derived_true_inlier103": true_inliers(*maps),
        "derived_true_inlier103_rotated": true_inliers(*rotated),
        "rel_rot_deg": pairs.rotation,
        "rel_trans_deg": pairs.line,
        "derived_rel_trans_deg_unfolded": pairs.translation,
        "auc5": pairs.auc(5, is_true=False) / 100,
        "auc30": pairs.auc(30, is_true=False) / 100,
        "ate_per_pose": residuals,
        "ate_reported_mean": residuals.mean(),
        "derived_ate_rmse": residuals.square().mean().sqrt(),
        "auc_edge_out": torch.tensor([histogram_auc(one[None], 5) for one in given["auc_edge_in"]]),
        "ray_deg_out": chord_angle(given["ray_l2_in"]),
    }
    return [
        compared(name, given[name].numpy(), np.asarray(value), absolute=1e-4 if "deg" in name else 1e-6)
        for name, value in found.items()
        if name in given
    ]


def _check_sets(folder: Path) -> list[Comparison]:
    """Every recorded set against the list of its scene; data sets one after the other, scenes by label."""
    record = json.loads((folder / "benchmark.json").read_text())
    with np.load(folder / "benchmark_inputs.npz", allow_pickle=False) as file:
        labels = {name.rsplit("/gt/", 1)[0]: str(file[name]) for name in file.files if name.endswith("gt/0/label")}
    tensors = _read(folder / "benchmark_inputs.npz")
    by_number = {name.split("/")[1]: label for name, label in labels.items()}
    results = []
    for mode, files in record.items():
        positions = _positions(files, by_number)
        for key in sorted(name for name in labels if name.startswith(f"{mode}/")):
            scene = {name.removeprefix(f"{key}/"): one for name, one in tensors.items() if name.startswith(f"{key}/")}
            got = set_metrics(*_set_of_record(scene))
            file_name, label, index = positions[key.split("/")[1]]
            for metric, values in files[file_name][label].items():
                ours = "pose_ate_mean" if metric == "pose_ate_rmse" else metric
                expected = np.array(values[index])
                results.append(compared(f"{key}/{ours}", expected, np.array(got[ours]), absolute=1e-5))
    return results


def _positions(files: dict[str, Any], labels: dict[str, str]) -> dict[str, tuple[str, str, int]]:
    """Number of a set -> file, scene and place in that scene's lists."""
    names = [f"{name}_per_scene_results.json" for name in files["per_dataset_results.json"] if name != "Average"]
    found, number = {}, 0
    for name in names:
        scenes = files[name]
        lengths = {scene: len(next(iter(values.values()))) for scene, values in scenes.items()}
        seen = dict.fromkeys(lengths, 0)
        for _ in range(sum(lengths.values())):
            label = labels[str(number)]
            found[str(number)] = (name, label, seen[label])
            seen[label] += 1
            number += 1
    return found


def _set_of_record(scene: Tensors) -> tuple[Reconstruction, GeometryTruth]:
    """One set, with a batch axis."""
    batched = {name: value[None] for name, value in scene.items()}

    def of(side: str, name: str) -> Tensor:
        return _stacked(batched, side, name)

    prediction = Reconstruction(
        points=of("pred", "pts3d"),
        points_cam=of("pred", "pts3d_cam"),
        rays=of("pred", "ray_directions"),
        depth_along_ray=of("pred", "pts3d_cam").norm(dim=-1),
        quaternions=of("pred", "cam_quats"),
        translations=of("pred", "cam_trans"),
        scale=of("pred", "metric_scaling_factor")[..., 0],
    )
    valid = of("gt", "valid_mask")
    truth = GeometryTruth(
        points=of("gt", "pts3d"),
        points_cam=of("gt", "pts3d_cam"),
        rays=of("gt", "ray_directions_cam"),
        depth_along_ray=of("gt", "pts3d_cam").norm(dim=-1),
        quaternions=of("gt", "camera_pose_quats"),
        translations=of("gt", "camera_pose_trans"),
        valid=valid,
        unambiguous=valid,
        is_metric=of("gt", "is_metric_scale")[:, 0],
        is_synthetic=torch.zeros(1, dtype=torch.bool),
    )
    return prediction, truth


# ---- schedules


def check_schedule(folder: Path) -> dict[str, list[Comparison]]:
    """Learning rates and parameter groups; probabilities of the inputs."""
    results: dict[str, list[Comparison]] = {}
    if (folder / "schedule.json").is_file():
        entries = json.loads((folder / "schedule.json").read_text())
        results["schedule.json"] = [
            one for name, entry in entries.items() for one in _check_schedule_entry(name, entry)
        ]
    if (folder / "task_probabilities.json").is_file():
        entries = json.loads((folder / "task_probabilities.json").read_text())
        results["task_probabilities.json"] = [
            compared(f"{views}/{name}", np.array(expected), np.array(got[name]), relative=1e-9)
            for entry in entries.values()
            for views, values in entry.items()
            for got in [probabilities(PRESETS["augmented"], int(views.removeprefix("V")))]
            for name, expected in values.items()
        ]
    return results


def _check_schedule_entry(name: str, entry: dict[str, Any]) -> list[Comparison]:
    parts = [
        PartRate(prefix, float(part["lr"]), float(part.get("min_lr", 0.0)))
        for prefix, part in entry["submodules"].items()
    ]
    model = _named_parameters(entry)
    groups = rate_groups(model, parts, lrate=entry["lr"], floor=entry["min_lr"], weight_decay=0.05)
    found = [(group["part"] or "default", float(group["weight_decay"]), tuple(group["names"])) for group in groups]
    expected = [(one["submodule"], one["weight_decay"], tuple(one["params"])) for one in entry["groups"]]
    frozen = {key for key, value in model.named_parameters() if not value.requires_grad}
    same = [
        ("groups", sorted(found) == sorted(expected)),
        ("frozen", frozen == set(entry["frozen"])),
    ]
    results = [Comparison(f"{name}/{what}", 0.0 if is_same else 1.0, "the same", is_same) for what, is_same in same]
    order = [
        next(group for group in groups if tuple(group["names"]) == tuple(one["params"])) for one in entry["groups"]
    ]
    warmup = entry["warmup"] / entry["epochs"]
    for point in entry["trace"]:
        progress = point["epoch"] / entry["epochs"]
        got = [warmup_half_cosine(progress, group["lr"], group["floor"], warmup) for group in order]
        label = f"{name}/epoch {point['epoch']}"
        results.append(compared(label, np.array(point["lr"]), np.array(got), absolute=1e-18, relative=1e-12))
    return results


def _named_parameters(entry: dict[str, Any]) -> nn.Module:
    """A module with the recorded parameters; those without decay are vectors, but for biases any shape would do."""
    names = {name: group["weight_decay"] > 0 for group in entry["groups"] for name in group["params"]}
    names |= {name: not name.endswith(".bias") for name in entry["frozen"]}
    root = nn.Module()
    for name, is_matrix in names.items():
        *path, last = name.split(".")
        module = root
        for step in path:
            if not hasattr(module, step):
                module.add_module(step, nn.Module())
            module = getattr(module, step)
        module.register_parameter(last, nn.Parameter(torch.zeros((2, 2) if is_matrix else (2,))))
    return root
