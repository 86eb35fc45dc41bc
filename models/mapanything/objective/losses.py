"""The factored geometry loss and its terms (MapAnything, Keetha et al. 2025, section 3.2; docs/mapanything.md).

Truth and prediction are both in the frame of view 0 and each divided by the mean distance of its own points, so that no
term of the geometry depends on the scale: the term `scale` alone teaches it, with a gradient into nothing else.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from geometry.errors import require
from geometry.precision import full_precision
from models.mapanything.inputs import log_length
from models.mapanything.objective.elementary import (
    Errors,
    confident_error,
    distance,
    masked_mean,
    mean_of_least,
    robust_error,
)
from models.mapanything.objective.pose import pose_errors
from models.mapanything.objective.recipes import LossRecipe
from models.mapanything.objective.surface import gradient_error, normal_error
from models.mapanything.objective.truth import (
    MIN_UNIT,
    GeometryTruth,
    Maps,
    Masks,
    NormalizedGeometry,
    in_unit,
    mean_distance,
)
from models.mapanything.output import Reconstruction

PIXEL_TERMS = ("points", "points_cam", "depth")


@dataclass(frozen=True)
class GeometryLosses:
    """What is minimized, and what it is made of."""

    total: Float[Tensor, ""]
    """Sum of the means of the views, and the scale's term."""
    terms: dict[str, Float[Tensor, " view"]]
    """Weighted contributions per view, by name; `scale` has one entry for all views."""
    plain: dict[str, Float[Tensor, " view"]]
    """Weighted means over all valid pixels of the terms that confidence or the choice of pixels changes."""

    @property
    def objective(self) -> Float[Tensor, ""]:
        """The total times 2 / views, where there are more than two: what the trainer minimizes."""
        views = max(len(values) for values in self.terms.values())
        return self.total * (2 / views if views > 2 else 1)

    def named(self) -> dict[str, Float[Tensor, ""]]:
        """Means over views, detached, for logs."""
        return {name: values.detach().mean() for name, values in self.terms.items()}


@full_precision
def geometry_losses(
    prediction: Reconstruction, truth: GeometryTruth, recipe: LossRecipe, *, is_training: bool = True
) -> GeometryLosses:
    """All terms of a recipe, outside autocast; in validation the confidence does not count.

    Raises:
        InputError: for a recipe that needs a scale, a confidence or a mask that the network does not predict.
    """
    return _Comparison(prediction, truth, recipe, is_training).losses()


class _Comparison:
    """A prediction and its truth in their units."""

    def __init__(self, prediction: Reconstruction, truth: GeometryTruth, recipe: LossRecipe, is_training: bool) -> None:
        for name, weight in (("scale", recipe.scale), ("mask_logits", recipe.mask)):
            require(
                not weight or getattr(prediction, name) is not None,
                f"--loss: this recipe has a term for {name}, which the network does not predict",
            )
        self.recipe = recipe
        self.error = robust_error if recipe.is_robust else distance
        self.uses_confidence = recipe.has_confidence and is_training and recipe.points > 0
        require(
            not self.uses_confidence or prediction.confidence is not None,
            "--loss: this recipe weights by a confidence, which the network does not predict",
        )
        self.prediction = prediction
        self.truth = truth.in_frame_of_first()
        raw = prediction.without_scale() if recipe.divides_by_scale else prediction
        self.raw = raw.in_frame_of_first() if recipe.is_moved_to_first else raw
        self.true_unit = mean_distance(self.truth.points, truth.valid)
        unit = mean_distance(self.raw.points, truth.valid)
        if recipe.is_entangled:
            unit = torch.where(truth.is_metric, self.true_unit, unit)
        self.ours: NormalizedGeometry = in_unit(self.raw, unit)
        self.theirs: NormalizedGeometry = in_unit(self.truth, self.true_unit)

    def losses(self) -> GeometryLosses:
        """See `geometry_losses`."""
        terms: dict[str, Tensor] = {}
        plain: dict[str, Tensor] = {}
        for name, errors in self._pixel_errors().items():
            plain[name] = masked_mean(errors, self.truth.valid, (0, 2, 3))
            terms[name] = self._reduced(name, errors)
        terms |= self._dense_terms() | self._pose_terms()
        total = torch.stack(list(terms.values())).sum() if terms else self.ours.points.new_zeros(())
        if self.recipe.scale:
            scale = self.recipe.scale * self._scale_error()
            terms["scale"] = scale[None]
            total = total + scale
        return GeometryLosses(total, terms, plain)

    def _compared(self, ours: Tensor, theirs: Tensor) -> Errors:
        """Of lengths or points."""
        if self.recipe.is_logarithmic:
            ours, theirs = log_length(ours), log_length(theirs)
        return self.error(ours, theirs)

    def _pixel_errors(self) -> dict[str, Maps]:
        recipe, ours, theirs = self.recipe, self.ours, self.theirs
        found = {}
        if recipe.points:
            found["points"] = recipe.points * self._compared(ours.points, theirs.points)
        if recipe.points_cam:
            found["points_cam"] = recipe.points_cam * self._compared(ours.points_cam, theirs.points_cam)
        if recipe.depth:
            pair = [
                one.points_cam[..., 2:] if recipe.compares_camera_z else one.depth_along_ray[..., None]
                for one in (ours, theirs)
            ]
            found["depth"] = recipe.depth * self._compared(*pair)
        return found

    def _reduced(self, name: str, errors: Maps) -> Float[Tensor, " view"]:
        """World points by confidence; everything else without its largest errors."""
        if name == "points" and self.uses_confidence and self.prediction.confidence is not None:
            return masked_mean(confident_error(errors, self.prediction.confidence), self.truth.valid, (0, 2, 3))
        return mean_of_least(errors, self.truth.valid, self.truth.is_synthetic)

    def _dense_terms(self) -> dict[str, Tensor]:
        recipe, ours, theirs = self.recipe, self.ours, self.theirs
        found: dict[str, Tensor] = {}
        if recipe.rays:
            found["rays"] = recipe.rays * self.error(ours.rays, theirs.rays).mean((0, 2, 3))
        synthetic: Masks = self.truth.valid & self.truth.is_synthetic[:, None, None, None]
        if recipe.normals:
            found["normals"] = recipe.normals * normal_error(ours.points_cam, theirs.points_cam, synthetic)
        if recipe.gradients:
            depths = (log_length(one.points_cam[..., 2:])[..., 0] for one in (ours, theirs))
            found["gradients"] = recipe.gradients * gradient_error(*depths, synthetic)
        if recipe.mask and self.prediction.mask_logits is not None:
            logits = self.prediction.mask_logits
            target = self.truth.unambiguous.to(logits.dtype)
            errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            found["mask"] = recipe.mask * errors.mean((0, 2, 3))
        return found

    def _pose_terms(self) -> dict[str, Tensor]:
        recipe = self.recipe
        if not (recipe.quaternions or recipe.translations):
            return {}
        has_points = self.truth.valid.flatten(2).any(-1)
        errors = pose_errors(
            self.ours,
            self.theirs,
            has_points,
            self.error,
            is_absolute=recipe.absolute_poses,
            is_relative=recipe.relative_poses,
        )
        weighted = {
            "quaternions": recipe.quaternions * errors.quaternions,
            "translations": recipe.translations * errors.translations,
        }
        return {name: value for name, value in weighted.items() if getattr(recipe, name)}

    def _scale_error(self) -> Float[Tensor, ""]:
        """Of the predicted mean distance in meters, over metric samples; the gradient reaches the scale only."""
        scale = self.prediction.scale
        if scale is None:
            return self.ours.points.new_zeros(())
        frozen = replace(self.raw, points=self.raw.points.detach())
        ours = mean_distance(frozen.points * scale[..., None, None, None], self.truth.valid)
        errors = self._compared(ours[:, None], self.true_unit[:, None])
        counts = self.truth.is_metric & (self.true_unit > MIN_UNIT)
        return masked_mean(errors, counts, (0,))
