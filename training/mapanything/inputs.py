"""Which geometry a network is given with its images: drawn in training, fixed by presets otherwise.

In each sample: does it get any geometry at all (`overall`), which kinds of it (`rays`, `depth`, `poses`), whether its
depth is sparse, whether the scale of its depth and of its poses is hidden. In each view: a share of the views gets
nothing (`dropout`). A kind that a view does not have is left out of that view only.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data.seeds import derived_seed, seeded_generator
from geometry import InputError, require
from models.mapanything.inputs import GeometricInputs

_STREAM = 41
"""Keeps these draws apart from others of the same group; the number itself is arbitrary."""


@dataclass(frozen=True)
class InputProbabilities:
    """Of giving geometry; 0 or 1 everywhere: nothing is random."""

    overall: float = 1.0
    """That a sample gets any geometry."""
    dropout: float = 0.0
    """That a view of it gets none."""
    rays: float = 0.0
    depth: float = 0.0
    poses: float = 0.0
    sparse: float = 0.0
    """That a sample's depth is sparse."""
    removed: float = 0.9
    """Share of the known pixels that sparse depth lacks."""
    hides_depth_scale: float = 0.0
    """That depth is given up to scale, though it is metric."""
    hides_pose_scale: float = 0.0
    hides_per_view: bool = False
    """The scale is hidden view by view, as upstream: of many views one nearly always shows it."""

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        for field in fields(self):
            value = getattr(self, field.name)
            require(0 <= value <= 1, f"input probability {field.name}: expected 0 to 1, got {value}")

    @property
    def gives_geometry(self) -> bool:
        """Anything but images may be given."""
        return self.overall > 0 and max(self.rays, self.depth, self.poses) > 0


_HIDDEN: dict[str, Any] = {"hides_depth_scale": 1.0, "hides_pose_scale": 1.0}
PRESETS = {
    "augmented": InputProbabilities(
        overall=0.9, dropout=0.05, rays=0.5, depth=0.5, poses=0.5, sparse=0.5,
        hides_depth_scale=0.05, hides_pose_scale=0.05,
    ),
    "images": InputProbabilities(overall=0.0),
    "calibrated": InputProbabilities(rays=1.0),
    "poses": InputProbabilities(poses=1.0),
    "posed": InputProbabilities(rays=1.0, poses=1.0),
    "depth": InputProbabilities(depth=1.0),
    "registration": InputProbabilities(rays=1.0, depth=1.0),
    "mvs": InputProbabilities(rays=1.0, poses=1.0, hides_pose_scale=1.0),
    "poses_depth": InputProbabilities(depth=1.0, poses=1.0),
    "depth_completion": InputProbabilities(rays=1.0, depth=1.0, poses=1.0, sparse=1.0),
    "everything": InputProbabilities(rays=1.0, depth=1.0, poses=1.0),
    "poses_up_to_scale": InputProbabilities(poses=1.0, **_HIDDEN),
    "depth_up_to_scale": InputProbabilities(depth=1.0, **_HIDDEN),
    "everything_up_to_scale": InputProbabilities(rays=1.0, depth=1.0, poses=1.0, **_HIDDEN),
}  # fmt: skip
"""By the name of `--inputs`. `posed`: cameras are known in meters; `mvs`: they come from structure from motion."""


def preset_named(name: str, option: str = "--inputs") -> InputProbabilities:
    """A preset of the table.

    Raises:
        InputError: naming the option.
    """
    if name not in PRESETS:
        raise InputError(f"{option}: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def drawn_inputs(
    inputs: GeometricInputs, is_metric: Bool[Tensor, " batch"], chances: InputProbabilities, seeds: Tensor
) -> GeometricInputs:
    """The part of what is known that each sample gets; a pure function of the sample's seed.

    `inputs.has_*` say what there is; sparse depth loses the same share of the known pixels in every view.
    """
    parts = [
        _drawn(inputs[index : index + 1], is_metric[index : index + 1], chances, int(seed))
        for index, seed in enumerate(seeds.tolist())
    ]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _drawn(
    one: GeometricInputs, is_metric: Bool[Tensor, " one"], chances: InputProbabilities, seed: int
) -> GeometricInputs:
    generator = seeded_generator(derived_seed(seed, _STREAM))
    views = one.has_rays.shape[1]
    device = one.images.device

    def draw(probability: float, count: int = 1) -> Tensor:
        return (torch.rand(count, generator=generator, dtype=torch.float64) < probability)[None].to(device)

    given = draw(chances.overall) & ~draw(chances.dropout, views)
    rays, depth, poses, sparse = (draw(one) for one in (chances.rays, chances.depth, chances.poses, chances.sparse))
    hidden_count = views if chances.hides_per_view else 1
    hides_depth, hides_pose = (draw(one, hidden_count) for one in (chances.hides_depth_scale, chances.hides_pose_scale))
    order = torch.rand(one.depth_along_ray.shape[1:], generator=generator)[None]
    has_depth = one.has_depth & given & depth
    has_pose = one.has_pose & given & poses
    metric = is_metric[:, None]
    return replace(
        one,
        depth_along_ray=torch.where(
            sparse[..., None, None], sparse_depth(one.depth_along_ray, order, chances.removed), one.depth_along_ray
        ),
        has_rays=one.has_rays & given & rays,
        has_depth=has_depth,
        has_pose=has_pose,
        shows_depth_scale=has_depth & metric & ~hides_depth,
        shows_pose_scale=has_pose & metric & ~hides_pose,
    )


def sparse_depth(
    depth: Float[Tensor, "batch view height width"], order: Tensor, removed: float
) -> Float[Tensor, "batch view height width"]:
    """Without int(removed * n) of the n known pixels of each view, those with the least `order`."""
    known = depth > 0
    ranked = torch.where(known, order.to(depth.device), torch.inf).flatten(2).argsort(dim=-1).argsort(dim=-1)
    lost = (removed * known.flatten(2).sum(-1).double()).long()
    return torch.where((ranked < lost[..., None]).unflatten(2, depth.shape[2:]), 0.0, depth)


def _joined(parts: list[GeometricInputs]) -> GeometricInputs:
    """One batch again."""
    values = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(GeometricInputs)}
    return GeometricInputs(**values)


def probabilities(chances: InputProbabilities, views: int) -> dict[str, float]:
    """What follows for `views` views that have everything; `rays`, `depth` and `poses` are taken as equally likely.

    The last entry is that of hiding view by view, as upstream does.
    """
    seen = 1 - chances.dropout
    one = chances.rays
    none_of_three = (1 - chances.rays) * (1 - chances.depth) * (1 - chances.poses)
    no_view = chances.dropout**views
    return {
        "per_view_probability_of_each_modality": chances.overall * seen * one,
        "probability_sample_sees_images_only": 1
        - chances.overall
        + chances.overall * (none_of_three + (1 - none_of_three) * no_view),
        "P_view_has_rays_and_depth_and_pose": chances.overall * seen * chances.rays * chances.depth * chances.poses,
        "P_all_V_views_have_rays": chances.overall * seen**views * one,
        "P_metric_depth_scale_hidden_in_every_view_given_depth_in_every_view": chances.hides_depth_scale**views,
    }
