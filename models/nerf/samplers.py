"""The samplers by the name that `--sampler` takes, and which options belong to which of them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from geometry import InputError
from models.nerf.guided.network import GuidedNeRF
from models.nerf.hierarchical.network import HierarchicalNeRF
from models.nerf.renderer import NearFar, NetworkConfig, Renderer

SAMPLERS: dict[str, type[Renderer]] = {"hierarchical": HierarchicalNeRF, "guided": GuidedNeRF}


def _options_of(sampler: type[Renderer]) -> set[str]:
    """Names of options that a sampler understands."""
    shapes = {field.name for part in (sampler.Config, sampler.Samples) for field in fields(part)}
    return shapes | {f"{name}_loss" for name in sampler.loss_names}


SAMPLE_COUNTS = tuple(dict.fromkeys(field.name for one in SAMPLERS.values() for field in fields(one.Samples)))
"""Options that say how many samples a ray gets, of all samplers."""
LOSS_NAMES = tuple(dict.fromkeys(name for one in SAMPLERS.values() for name in one.loss_names))
"""Terms besides the photometric one, of all samplers; the options `<name>_loss` are their weights."""

SIZES_OF_MAPS = ("feature_pixels",)
"""Options in a sampler's config that its weights do not depend on."""


@dataclass(frozen=True)
class RendererSpec:
    """Everything that determines a renderer but its weights; stored in every checkpoint."""

    sampler: str
    config: NetworkConfig
    samples: Any
    """Of the sampler's class `Samples`."""
    background: float = 0.0
    """Gray level of what a ray does not hit."""
    near_far: NearFar = "data"
    """Where rays start and end: at the bounds of the data set, beyond them, or where VGGT sees something."""

    def build(self) -> Renderer:
        """The renderer, with random weights."""
        return SAMPLERS[self.sampler](self.config, self.samples, background=self.background, near_far=self.near_far)

    @classmethod
    def from_options(
        cls, sampler: str, options: Mapping[str, Any], background: float, near_far: NearFar
    ) -> "RendererSpec":
        """Shapes and sample counts from options of those names; None among them = the sampler's default."""
        kind = SAMPLERS[sampler]
        config, samples = (
            part(**{one.name: options[one.name] for one in fields(part) if options.get(one.name) is not None})
            for part in (kind.Config, kind.Samples)
        )
        return cls(sampler, config, samples, background, near_far)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "RendererSpec":
        """The inverse of `dataclasses.asdict`; KeyError or TypeError for another version's."""
        kind = SAMPLERS[plain["sampler"]]
        parts = {"config": kind.Config(**plain["config"]), "samples": kind.Samples(**plain["samples"])}
        return cls(**{**plain, **parts})

    def with_samples(self, counts: Mapping[str, int | None]) -> "RendererSpec":
        """With other sample counts or `SIZES_OF_MAPS`, on which no weight depends; None = as they are."""
        given = {name: count for name, count in counts.items() if count is not None}
        sizes = {name: given.pop(name) for name in SIZES_OF_MAPS if name in given}
        return replace(self, samples=replace(self.samples, **given), config=replace(self.config, **sizes))


def require_own_options(sampler: str, options: Any, what: str) -> None:
    """Refuse options that only other samplers understand; defaults and losses of weight 0 count as not given.

    `options` is a dataclass of options, `what` says where the sampler comes from.

    Raises:
        InputError: naming the option and the sampler it belongs to.
    """
    own = _options_of(SAMPLERS[sampler])
    for other, kind in SAMPLERS.items():
        for name in sorted(_options_of(kind) - own):
            field = type(options).__dataclass_fields__.get(name)
            value = getattr(options, name, None)
            is_off = name.endswith("_loss") and not value
            if field is not None and value != field.default and not is_off:
                raise InputError(
                    f"--{name} {value}: belongs to --sampler {other}; {what} has --sampler {sampler}, "
                    "which has no such thing"
                )
