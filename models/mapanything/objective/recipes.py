"""Which terms a loss has and what they weigh: one table for all recipes (docs/mapanything.md, "Losses")."""

from dataclasses import dataclass, fields, replace

from geometry.errors import InputError, require


@dataclass(frozen=True)
class LossRecipe:
    """Weights of the terms (0: not computed) and how they are compared."""

    points: float = 1.0
    """In the frame of view 0."""
    points_cam: float = 1.0
    depth: float = 1.0
    rays: float = 1.0
    quaternions: float = 1.0
    translations: float = 1.0
    scale: float = 1.0
    normals: float = 3.0
    """Of synthetic samples, as are `gradients`."""
    gradients: float = 3.0
    mask: float = 0.3
    absolute_poses: bool = True
    relative_poses: bool = False
    is_moved_to_first: bool = False
    """Predictions are moved into the frame of their own view 0: for networks without a reference view."""
    has_confidence: bool = True
    """World points are weighted by the confidence in training."""
    compares_camera_z: bool = False
    """Depth is camera z instead of the distance along the ray."""
    is_logarithmic: bool = True
    """Points, depth and scale are compared as x / |x| ln(1 + |x|)."""
    is_robust: bool = True
    """By `robust_error`, else by the plain distance."""
    is_entangled: bool = False
    """Predictions of metric samples are divided by the truth's unit: the network's lengths have to be meters."""

    def __post_init__(self) -> None:
        """Refuse negative weights and a loss without terms."""
        weights = [field.name for field in fields(self) if isinstance(getattr(self, field.name), float)]
        for name in weights:
            require(getattr(self, name) >= 0, f"loss weight {name}: expected at least 0, got {getattr(self, name)}")
        require(any(getattr(self, name) > 0 for name in weights), "loss: expected a term with a weight above 0")

    @property
    def divides_by_scale(self) -> bool:
        """Predictions are compared in the network's own unit: there is a term for the scale."""
        return self.scale > 0


_BASE = LossRecipe()
_V1 = replace(
    _BASE, points_cam=0.1, depth=0.1, rays=0.1, quaternions=0.1, translations=0.1, scale=0.1, normals=0.3,
    gradients=0.3, mask=0.03,
)  # fmt: skip
_V11 = replace(_V1, relative_poses=True)
_NO_REFERENCE = replace(_V11, absolute_poses=False, is_moved_to_first=True)
_FINETUNE = replace(_BASE, scale=0.0, mask=0.0, compares_camera_z=True)

RECIPES = {
    "v1.1": _V11,
    "v1.1_no_confidence": replace(_V11, has_confidence=False),
    "v1.1_no_reference": _NO_REFERENCE,
    "v1.1_no_reference_no_confidence": replace(_NO_REFERENCE, has_confidence=False),
    "v1": _V1,
    "base": _BASE,
    "vggt": _FINETUNE,
    "pi3": replace(_FINETUNE, relative_poses=True, is_moved_to_first=True, has_confidence=False),
    "moge": LossRecipe(
        points=0.0, depth=0.0, rays=0.0, quaternions=0.0, translations=0.0, scale=0.0, mask=0.0, absolute_poses=False,
        has_confidence=False,
    ),
    "entangled": replace(_BASE, scale=0.0, is_entangled=True),
    "no_log": replace(_BASE, is_logarithmic=False),
    "not_robust": replace(_BASE, is_robust=False, normals=1.0, gradients=1.0, mask=0.1),
    "points_only": replace(
        _BASE, points_cam=0.0, depth=0.0, rays=0.0, quaternions=0.0, translations=0.0, normals=0.0, gradients=0.0
    ),
}  # fmt: skip
"""By the name of `--loss`. v1.1 stages 1 and 3 train with `v1.1`, stage 2 with `v1.1_no_confidence`."""


def recipe_named(name: str) -> LossRecipe:
    """A recipe of the table.

    Raises:
        InputError: for a name that is none.
    """
    if name not in RECIPES:
        raise InputError(f"--loss: expected one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]
