"""Recorded losses, quantizer, OccWorld, metrics and learning rates of the occupancy task, for `tests.goldens`.

Folders are recognized by the files in them. Everything is computed in float64 from the recorded numbers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from geometry.errors import InputError
from geometry.voxels import VoxelGrid
from models.occupancy.objective import occupancy as losses
from models.occupancy.objective import poses as pose_losses
from models.occupancy.occworld import OccWorld, OccWorldConfig
from models.occupancy.occworld.network import code_loss
from models.occupancy.occworld.tokenizer import VectorQuantizer, code_use
from models.vggt.weights import require_fitting_weights
from tests.golden_comparison import Comparison, compared
from training.occupancy.metrics import (
    ClassCounts,
    OccupancyScores,
    class_ious,
    collisions,
    planning_errors,
    planning_l2,
    strata_masks,
    temporal_consistency,
)
from training.occupancy.schedules import guide_rate, occworld_rate

Check = Callable[[Path], dict[str, list[Comparison]]]
Tensors = dict[str, Tensor]

VALUE_TOLERANCE = 1e-7
"""Of losses, relative."""
QUATERNION_TOLERANCE = 1e-8
"""Of rotation losses, absolute: the reference adds 1e-8 to a length."""
GRADIENT_TOLERANCE = 1e-6
"""Of a gradient, relative to its largest entry (recorded in float32)."""
LOGIT_TOLERANCE = 2e-5
NETWORK_GRADIENT_TOLERANCE = 1e-4
EXACT_TOLERANCE = 1e-9
"""Of quotients of counts."""
COSINE_TOLERANCE = 1e-6
"""Of what was recorded in float32."""

FOCAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "focal_fixed_a099_g2": lambda x, y: losses.focal_loss(x, y, alpha=0.99, gamma=2.0),
    "focal_dynamic_g2": lambda x, y: losses.focal_loss(x, y, alpha=None, gamma=2.0),
    "focal_fixed_a025_g15": lambda x, y: losses.focal_loss(x, y, alpha=0.25, gamma=1.5),
    "focal_fixed_decay01": lambda x, y: losses.focal_loss(x, y, alpha=0.99, gamma=2.0, decay=0.1),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = FOCAL | {
    "lovasz": losses.lovasz_loss,
    "dice_smooth1": losses.dice_loss,
    "mean_match": losses.mean_match_loss,
    "recall": losses.recall_loss,
    "composite_guide": lambda x, y: _total(losses.occupancy_losses(x, y, losses.OccupancyWeights())),
    "composite_repository": lambda x, y: _total(losses.occupancy_losses(x, y, losses.REPOSITORY_WEIGHTS)),
}
REFERENCE_POSES = pose_losses.PoseWeights(variance_floor=1.0, orientation_uncertainty=0.0)


def _total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def kind_of(folder: Path) -> Check | None:
    """All checks of a folder as one; None: not one of these kinds."""
    names = {path.name for path in folder.iterdir()}
    checks = [check for needed, check in _KINDS if needed <= names]
    if {"losses.npz", "losses.json"} <= names and _has_logits(folder / "losses.npz"):
        checks.append(check_losses)
    if not checks:
        return None
    return lambda path: {file: results for check in checks for file, results in check(path).items()}


def _has_logits(path: Path) -> bool:
    """VGGT's training maths has a file of the same name."""
    return any(name.endswith(".logits") for name in _read(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"arrays {path} cannot be read: {error}") from error


def _tensors(path: Path) -> Tensors:
    """Numbers in float64, whole ones as they are."""
    found = {name: torch.from_numpy(value) for name, value in _read(path).items()}
    return {name: value.double() if value.is_floating_point() else value for name, value in found.items()}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _value(name: str, expected: Any, got: Tensor | float | None, **tolerance: float) -> Comparison:
    ours = None if got is None else np.array(got.item() if isinstance(got, Tensor) else got)
    return compared(name, np.array(expected), ours, **(tolerance or {"absolute": 1e-12, "relative": VALUE_TOLERANCE}))


def _gradient(name: str, expected: Tensor, got: Tensor, tolerance: float = GRADIENT_TOLERANCE) -> Comparison:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return compared(name, expected.numpy(), got.numpy(), absolute=tolerance * largest + 1e-12)


def _gradient_of(value: Tensor, leaf: Tensor) -> Tensor:
    """0 where nothing depends on it."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


def check_losses(folder: Path) -> dict[str, list[Comparison]]:
    """Values, and gradients to logits and to probabilities."""
    record, values = _tensors(folder / "losses.npz"), _json(folder / "losses.json")
    results, gradients = [], []
    for name, expected in values.items():
        case, _, loss = name.partition(".")
        if case == "multi":
            leaf, found = _class_loss(record, loss)
        elif loss in BINARY:
            leaf = record[f"{case}.logits"].requires_grad_()
            found = BINARY[loss](leaf, record[f"{case}.target"].double())
        else:
            results.append(_value(name, expected, None))
            continue
        results.append(_value(name, expected, found))
        by_logit = _gradient_of(found, leaf)
        if f"{name}.dlogit" in record:
            gradients.append(_gradient(f"{name}.dlogit", record[f"{name}.dlogit"], by_logit))
        if f"{name}.dprob" in record:
            probability = leaf.detach().sigmoid()
            by_probability = by_logit / (probability * (1 - probability))
            gradients.append(_gradient(f"{name}.dprob", record[f"{name}.dprob"], by_probability, 1e-5))
    return {"losses.json": results, "losses.npz": gradients}


def _class_loss(record: Tensors, name: str) -> tuple[Tensor, Tensor]:
    leaf, labels = record["multi.logits"].requires_grad_(), record["multi.labels"]
    made = {
        "recon_ce": lambda: losses.class_loss(leaf, labels),
        "lovasz_softmax": lambda: losses.lovasz_softmax_loss(leaf, labels),
        "recon_ce_freq_weight": lambda: losses.class_loss(leaf, labels, record["multi.freq_weights"]),
    }
    if name not in made:
        raise InputError(f"losses of classes: expected one of {', '.join(made)}, got {name}")
    return leaf, made[name]()


def check_pose_losses(folder: Path) -> dict[str, list[Comparison]]:
    """Parts with and without their weights, gradients of the total, the planning loss and its metric."""
    record, values = _tensors(folder / "pose_losses.npz"), _json(folder / "pose_losses.json")
    leaves = {
        "future_poses": record["pred"],
        "uncertainty": record["uncertainty_logits"],
        "global_pose": record["global_pose"],
        "place_embedding": record["embedding"],
        "future_occupancy": record["occ"],
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    poses, target = leaves["future_poses"], record["target"]
    deviations = pose_losses.sigmas(leaves["uncertainty"])
    prediction = pose_losses.PosePrediction(poses, deviations, leaves["global_pose"], leaves["place_embedding"])
    parts = dict(
        pose_losses.pose_losses(prediction, target, record["global_target"], REFERENCE_POSES, places_by_embedding=True)
    )
    parts["occ"] = _total(
        losses.occupancy_losses(
            torch.logit(leaves["future_occupancy"]), record["occ_target"].double(), losses.REPOSITORY_WEIGHTS
        )
    )
    total = _total(parts)
    constant = pose_losses.PosePrediction(record["constant_prediction"])
    constant_loss = pose_losses.pose_losses(constant, target, record["global_target"], REFERENCE_POSES)["pose"]
    floors = [pose_losses.variance_floor(record["constant_prediction"][..., part]) for part in (slice(3), slice(7, 10))]
    got: dict[str, Tensor | float] = {
        **{f"repository.{name}": parts[name] for name in ("occ", "pose", "uncertainty", "place")},
        "repository.reloc": parts["relocalization"],
        "repository.total": total,
        "uncertainty_logit_bias": pose_losses.SIGMA_BIAS,
        "position_smooth_l1": torch.nn.functional.smooth_l1_loss(poses[..., :3], target[..., :3]),
        "quaternion_1_minus_abs_dot": pose_losses.rotation_loss(poses[..., 3:7], target[..., 3:7]),
        "velocity_smooth_l1": torch.nn.functional.smooth_l1_loss(poses[..., 7:], target[..., 7:]),
        "simple_model_smooth_l1_all13": torch.nn.functional.smooth_l1_loss(poses, target),
        "constant_prediction.pose": constant_loss,
        "constant_prediction.variance_penalty": floors[0] + floors[1],
    }
    planned, plan_gradients = _planning(record)
    got |= planned
    results = []
    for name, expected in values.items():
        value = got.get(name)
        if name.startswith("plan_metric."):
            results.append(compared(name, np.array(expected), _planning_metric(record, name), absolute=EXACT_TOLERANCE))
            continue
        results.append(_value(name, expected, value, absolute=QUATERNION_TOLERANCE, relative=VALUE_TOLERANCE))
    gradients = [
        _gradient(f"repository.total.d_{name}", record[f"repository.total.d_{name}"], _gradient_of(total, leaf))
        for name, leaf in leaves.items()
    ]
    gradients += [_gradient(name, record[name], found) for name, found in plan_gradients.items()]
    gradients.append(compared("sigma", record["sigma"].numpy(), deviations.detach().numpy(), relative=VALUE_TOLERANCE))
    return {"pose_losses.json": results, "pose_losses.npz": gradients}


def _planning(record: Tensors) -> tuple[Tensors, Tensors]:
    values, gradients = {}, {}
    for order in (1, 2):
        modes = record["plan.pred"].detach().requires_grad_()
        loss = pose_losses.planning_loss(modes, record["plan.gt_steps"], record["plan.mode"], order=order)
        values[f"plan.l{order}"], gradients[f"plan.l{order}.grad"] = loss, _gradient_of(loss, modes)
    return values, gradients


def _planning_metric(record: Tensors, name: str) -> np.ndarray:
    """`plan_metric.l2_prefix_mean_2s`: after four steps of 0.5 s."""
    kind, _, seconds = name.removeprefix("plan_metric.").rpartition("_")
    errors = planning_errors(record["plan.pred"], record["plan.gt_steps"], record["plan.mode"])
    return planning_l2(errors, 2 * int(seconds.removesuffix("s")))[kind].numpy()


def check_quantizer(folder: Path) -> dict[str, list[Comparison]]:
    """Loss, codes and gradients for three weights of the commitment."""
    record, values = _tensors(folder / "vq.npz"), _json(folder / "vq.json")
    sizes = values["config"]
    results, arrays = [], []
    for case, beta, is_legacy in (("beta1", 1.0, True), ("beta025_legacy", 0.25, True), ("beta025_fixed", 0.25, False)):
        quantizer = VectorQuantizer(
            sizes["n_e"], sizes["e_dim"], sizes["z_channels"], beta=beta, legacy_beta=is_legacy
        ).double()
        quantizer.load_state_dict({name[2:]: value for name, value in record.items() if name.startswith("w:")})
        z = record["z"].detach().requires_grad_()
        found = quantizer(z)
        objective = (found.features * record["cotangent"]).sum() + found.loss
        results.append(_value(f"{case}.loss", values[f"{case}.loss"], found.loss))
        arrays.append(_gradient(f"{case}.dz", record[f"{case}.dz"], _gradient_of(objective, z)))
        for name, parameter in quantizer.named_parameters():
            expected = record[f"{case}.d:{name}"]
            arrays.append(_gradient(f"{case}.d:{name}", expected, _gradient_of(objective, parameter)))
        if case == "beta1":
            use = code_use(found.codes, sizes["n_e"])
            results += [
                _value("usage", values["usage"], use.share),
                _value("perplexity", values["perplexity"], use.perplexity),
            ]
            arrays.append(compared("indices", record["indices"].numpy(), found.codes.numpy()))
            arrays.append(compared("get_codebook_index", record["get_codebook_index"].numpy(), found.codes.numpy()))
            arrays.append(compared("output", record["output"].numpy(), found.features.detach().numpy(), absolute=1e-6))
    return {"vq.json": results, "vq.npz": arrays}


def check_occworld(folder: Path) -> dict[str, list[Comparison]]:
    """Tokenizer, teacher forcing, roll-out and gradients of a network with recorded weights, loaded strictly."""
    plain = _json(folder / "config.json")
    model = OccWorld(OccWorldConfig.of_reference(plain))
    path = folder / "state_dict.safetensors"
    weights = load_file(path)
    require_fitting_weights(path, {name: tuple(value.shape) for name, value in weights.items()}, model.state_dict())
    model.load_state_dict(weights)
    model.double().eval()
    inputs, expected = _tensors(folder / "inputs.npz"), _tensors(folder / "outputs.npz")
    got, objectives = _occworld_outputs(model, inputs)
    results = []
    for name, value in expected.items():
        ours = None if name not in got else got[name].detach().numpy()
        exact = not value.is_floating_point()
        results.append(compared(name, value.numpy(), ours, absolute=0.0 if exact else LOGIT_TOLERANCE))
    gradients = []
    for name, value in _tensors(folder / "grads.npz").items():
        objective = objectives["tokenizer" if name.startswith("vae.") else "transformer"]
        found = _gradient_of(objective, model.get_parameter(name))
        gradients.append(_gradient(name, value, found, NETWORK_GRADIENT_TOLERANCE))
    return {"outputs.npz": results, "grads.npz": gradients}


def _occworld_outputs(model: OccWorld, inputs: Tensors) -> tuple[Tensors, Tensors]:
    """By recorded name; and both objectives."""
    labels, steps, command = inputs["semantics"], inputs["ego_steps"], inputs["command"].double()
    rebuilt, forced = model.vae(labels), model(labels, steps, command)
    reconstruction = losses.class_loss(rebuilt.logits, labels)
    lovasz = losses.lovasz_softmax_loss(rebuilt.logits, labels)
    codes = code_loss(forced)
    planning = pose_losses.planning_loss(forced.modes, steps[:, 1:], command[:, 1:])
    objectives = {
        "tokenizer": 10 * reconstruction + lovasz + rebuilt.quantizer_loss,
        "transformer": codes + 0.1 * planning,
    }
    observed = 2
    rolled = model.roll_out(labels[:, :observed], steps[:, :observed], command, labels.shape[1] - observed)
    outputs = {
        "encoder_z": model.vae.encode(labels)[0],
        "codes": rebuilt.codes,
        "vq_loss": rebuilt.quantizer_loss,
        "recon_logits": rebuilt.logits,
        "recon_ce": reconstruction,
        "lovasz": lovasz,
        "vae_objective_10_1_1": objectives["tokenizer"],
        "tf_code_logits": forced.code_logits,
        "tf_code_labels": forced.code_labels,
        "tf_pose": forced.modes,
        "ce": codes,
        "plan_l2": planning,
        "objective_1_01": objectives["transformer"],
        "ar_code_logits": rolled.code_logits,
        "ar_sem_logits": rolled.logits,
        "ar_sem_pred": rolled.logits.argmax(-1),
        "ar_pose_modes": rolled.modes,
        "ar_pose_selected": rolled.steps,
    }
    return outputs, objectives


def check_metrics(folder: Path) -> dict[str, list[Comparison]]:
    """Classes by both rules, strata, collisions and temporal consistency."""
    record, values = _read(folder / "metrics.npz"), _json(folder / "metrics.json")
    results = _semantic(record, values) + _strata(record, values["right"]) + _collisions(record, values["right"])
    shape = values["right"]["shape"]
    probability = torch.from_numpy(record["prob"]).double()
    target = torch.from_numpy(_unpacked(record["target"], shape)).double()
    consistency = temporal_consistency((probability > values["right"]["threshold"]).double(), target)
    for name, expected in (
        ("reference.temporal_consistency", values["reference"]["temporal_consistency"]),
        ("right.temporal_consistency", values["right"]["temporal_consistency_moving_pairs_only"]),
    ):
        results.append(_value(name, expected, consistency, absolute=COSINE_TOLERANCE))
    return {"metrics.json": results}


def _unpacked(bits: np.ndarray, shape: list[int]) -> np.ndarray:
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape)


def _semantic(record: dict[str, np.ndarray], values: dict[str, Any]) -> list[Comparison]:
    prediction, target = (torch.from_numpy(record[name]).long() for name in ("sem_pred", "sem_target"))
    right, empty = values["right"], values["right"]["empty_class"]
    classes = right["classes_averaged"]
    visible = torch.from_numpy(_unpacked(record["visible"], list(target.shape))).bool()
    got: dict[str, list[Any]] = {
        "per_class_iou": [],
        "miou_per_step_absent_in_both_skipped": [],
        "iou_per_step_visible_only": [],
        "miou_percent_per_step": [],
        "iou_percent_per_step": [],
    }
    for step in range(target.shape[1]):
        ours, theirs = prediction[:, step], target[:, step]
        counts = ClassCounts.of(ours, theirs, classes)
        occupied = (ours != empty).int(), (theirs != empty).int()
        got["per_class_iou"].append(class_ious(ours, theirs, classes))
        got["miou_per_step_absent_in_both_skipped"].append(counts.mean_iou())
        got["iou_per_step_visible_only"].append(class_ious(*occupied, [1], visible[:, step])[0])
        got["miou_percent_per_step"].append(100 * counts.reference_mean_iou())
        got["iou_percent_per_step"].append(100 * (class_ious(*occupied, [1])[0] or 0.0))
    return [
        compared(
            f"{rule}.{name}",
            np.array(values[rule][name], dtype=np.float64),
            np.array(found, dtype=np.float64),
            absolute=1e-3 if rule == "reference" else EXACT_TOLERANCE,  # computed in float32 there
        )
        for name, found in got.items()
        for rule in ("reference", "right")
        if name in values[rule]
    ]


def _strata(record: dict[str, np.ndarray], right: dict[str, Any]) -> list[Comparison]:
    shape = right["shape"]
    batch, _, x, y, z = shape
    target = torch.from_numpy(_unpacked(record["target"], shape)).bool()
    last = torch.from_numpy(_unpacked(record["last"], [batch, x, y, z])).bool()
    ground = torch.zeros_like(target)
    ground[..., 0] = True
    masks = strata_masks(last, target, ground)
    predictions = {
        "model": torch.from_numpy(record["prob"]) > right["threshold"],
        "persistence": last[:, None].expand_as(target),
        "all_empty": torch.zeros_like(target),
    }
    results = []
    for name, prediction in predictions.items():
        scores = OccupancyScores(shape[1])
        scores.add(prediction, target, masks)
        for stratum, expected in right[name].items():
            if stratum.endswith("_per_step"):
                part = stratum.removesuffix("_per_step")
                found: list[Any] = [scores.iou(part, step) for step in range(shape[1])]
            else:
                named = scores.of(stratum).named()
                found, expected = [named[key] for key in expected], list(expected.values())
            label = f"right.{name}.{stratum}"
            ours, theirs = (np.array(one, dtype=np.float64) for one in (found, expected))
            results.append(compared(label, theirs, ours, absolute=EXACT_TOLERANCE))
    return results


def _collisions(record: dict[str, np.ndarray], right: dict[str, Any]) -> list[Comparison]:
    plain = right["collision"]
    bounds = plain["range"]
    grid = VoxelGrid(tuple(bounds[:3]), tuple(bounds[3:]), tuple(plain["voxel_size"]))
    grids = torch.from_numpy(_unpacked(record["collision_grids"], plain["shape"])).bool()
    cases = plain["cases"]
    places = torch.tensor([case["offset"] for case in cases], dtype=torch.float64)
    found = collisions(grid, grids[[case["grid"] for case in cases]], places)
    rates = found.rates()
    results = [
        compared(f"right.collision.{name}", np.array([case[name] for case in cases]), getattr(found, name).numpy())
        for name in ("hit", "inside")
    ]
    results.append(_value("right.collision.rate_inside", plain["rate_inside"], rates["collision_rate_inside"]))
    results.append(_value("right.collision.outside_rate", plain["outside_rate"], rates["outside_rate"]))
    return results


def check_schedules(folder: Path) -> dict[str, list[Comparison]]:
    """Learning rates of OccWorld's updates and of the guide's epochs, as they are meant."""
    plain = _json(folder / "schedules.json")
    results = []
    if "occworld" in plain:
        one = plain["occworld"]
        sizes = {"peak": one["base"], "floor": one["minimum"], "warmup": one["warmup_steps"]}
        for step, rate in one["lr_used_at_update"].items():
            results.append(
                _value(f"occworld.{step}", rate, occworld_rate(int(step), one["total"], **sizes), relative=1e-9)
            )
    for name in ("right", "aerialworld_repository"):
        if name in plain:
            one = plain[name]
            # the reference's cosine spans all epochs: it ends as many epochs later as the warm-up is long
            total = one["epochs"] + (one["warmup"] if name == "aerialworld_repository" else 0)
            sizes = {"peak": 1e-4, "floor": 1e-6, "warmup": one["warmup"], "warmup_ratio": 0.01}
            rates = [guide_rate(epoch, total, **sizes) for epoch in range(one["epochs"])]
            results.append(
                compared(f"{name}.lr_of_epoch", np.array(one["lr_of_epoch"]), np.array(rates), relative=1e-9)
            )
    return {"schedules.json": results}


_KINDS: tuple[tuple[set[str], Check], ...] = (
    ({"pose_losses.npz", "pose_losses.json"}, check_pose_losses),
    ({"vq.npz", "vq.json"}, check_quantizer),
    ({"config.json", "state_dict.safetensors", "inputs.npz", "outputs.npz", "grads.npz"}, check_occworld),
    ({"metrics.npz", "metrics.json"}, check_metrics),
    ({"schedules.json"}, check_schedules),
)
