"""The training maths on a recorded scene: our values under the record's names, for `tests.goldens`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.vggt.objective.dense_losses import DenseLoss, DenseOptions, depth_loss, point_loss, quantile_filter
from models.vggt.objective.ground_truth import GroundTruth, normalize_scene
from models.vggt.objective.losses import CameraNorm, LossWeights, VGGTLosses, camera_loss, vggt_objective
from models.vggt.objective.surface_terms import MAX_ERROR, SurfaceTerm
from models.vggt.objective.track_loss import track_loss
from models.vggt.pose_encoding import encode_pose
from models.vggt.vggt import VGGTOutput
from training.schedules import linear_cosine

MAPS = ("depth", "depth_conf", "world_points", "world_points_conf")
INPUTS = ("raw_", "pred_", "track_", "quantile_in", "lr_where", "intrinsics", "point_masks")
"""Beginnings of the names of arrays that are given, not computed."""
PEAK_RATE = 5e-5
SMALL = 900
"""Of the values for the quantile filter: so few that it leaves them alone."""


class RecordedScene:
    """Inputs of losses.npz."""

    def __init__(self, record: dict[str, np.ndarray]) -> None:
        self.tensors = {name: torch.from_numpy(value) for name, value in record.items()}
        self.num_stages = sum(name.startswith("pred_pose_enc_") for name in record)

    def losses(self, task: str) -> dict[str, float]:
        """Parts of one task of losses.json; nothing for a task that we do not have."""
        kind, _, rest = task.partition("_")
        if kind == "camera":
            parts = self._camera(CameraNorm(rest))
        elif kind == "multitask":
            parts = ((n if n == "objective" else f"loss_{n}", v) for n, v in self._objective().named().items())
        elif kind == "track":
            parts = self._track()
        elif kind in ("depth", "point"):
            term, _, valid_range = rest.rpartition("_vr")
            loss = self._dense(kind, term.removesuffix("_"), float(valid_range))
            parts = zip((f"loss_{part}_{kind}" for part in ("conf", "reg", "grad")), loss, strict=True)
        else:
            return {}
        return {name: value.item() for name, value in parts}

    def arrays(self) -> dict[str, np.ndarray]:
        """The normalized scene, gradients of the objective, quantile filter and learning rates."""
        inputs = self.tensors
        raw = (inputs[f"raw_{name}"].double() for name in ("extrinsics", "depths", "world_points", "cam_points"))
        scene = normalize_scene(*raw, inputs["point_masks"])
        values, lr_where = inputs["quantile_in"], inputs["lr_where"].tolist()
        results = {
            "norm_extrinsics": scene.w2c,
            "norm_depths": scene.depth,
            "norm_world_points": scene.points,
            "norm_cam_points": scene.points_cam,
            "gt_pose_encoding": encode_pose(scene.w2c, inputs["intrinsics"], *scene.depth.shape[-2:]),
            "quantile_small_out": _filtered(values[:SMALL], 0.98),
            "lr_value": torch.tensor([linear_cosine(w, PEAK_RATE) for w in lr_where], dtype=torch.float64),
        }
        results |= {f"quantile_out_{q}": _filtered(values.clamp(max=MAX_ERROR), q) for q in (0.98, 0.5)}
        return {name: value.numpy() for name, value in (results | self._gradients()).items()}

    def _encodings(self) -> list[Tensor]:
        return [self.tensors[f"pred_pose_enc_{stage}"] for stage in range(self.num_stages)]

    def _camera(self, norm: CameraNorm) -> Iterator[tuple[str, Tensor]]:
        true, mask = self.tensors["gt_pose_encoding"], self.tensors["point_masks"]
        loss = camera_loss(torch.stack(self._encodings()), true, mask, LossWeights(camera_norm=norm))
        return ((f"loss_{part}", getattr(loss, part)) for part in ("camera", "T", "R", "FL"))

    def _dense(self, kind: str, term: str, valid_range: float) -> DenseLoss:
        predicted, true = {"depth": ("depth", "depths"), "point": ("world_points", "world_points")}[kind]
        options = DenseOptions(SurfaceTerm(term) if term else None, valid_range if valid_range > 0 else None)
        compute = depth_loss if kind == "depth" else point_loss
        maps = self.tensors[f"pred_{predicted}"], self.tensors[f"pred_{predicted}_conf"], self.tensors[f"norm_{true}"]
        return compute(*maps, self.tensors["point_masks"], options)

    def _track(self) -> Iterator[tuple[str, Tensor]]:
        """The variant "vis aware" multiplies weights by 1.1 that are divided out again."""
        inputs = self.tensors
        coords = torch.stack([inputs[f"track_pred_{iteration}"] for iteration in range(self.num_stages)])
        logits = inputs["track_vis_logits"], inputs["track_conf_logits"]
        loss = track_loss(coords, *logits, inputs["track_gt"], inputs["track_vis"])
        names = ("track", "vis", "conf", "track_vis_aware")
        return zip(names, (*loss, loss.coords), strict=True)

    def _objective(self, **predictions: Any) -> VGGTLosses:
        maps = {name: self.tensors[f"pred_{name}"] for name in MAPS}
        fields = (self.tensors[n] for n in ("gt_pose_encoding", "norm_depths", "norm_world_points", "point_masks"))
        truth = GroundTruth(*fields, torch.ones(len(self.tensors["norm_depths"])))
        return vggt_objective(VGGTOutput(**({"pose_enc_list": self._encodings()} | maps | predictions)), truth)

    def _gradients(self) -> dict[str, Tensor]:
        encodings = [value.clone().requires_grad_() for value in self._encodings()]
        maps = {name: self.tensors[f"pred_{name}"].clone().requires_grad_() for name in MAPS}
        self._objective(pose_enc_list=encodings, **maps).objective.backward()
        gradients = {f"grad_pose_enc_{stage}": value.grad for stage, value in enumerate(encodings)}
        return gradients | {f"grad_{name}": value.grad for name, value in maps.items()}


def _filtered(values: Tensor, quantile: float) -> Tensor:
    return values[quantile_filter(values, torch.ones_like(values, dtype=torch.bool), quantile)]
