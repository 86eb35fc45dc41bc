"""Which options belong to which sampler, and the record that a renderer is rebuilt from."""

import json
from dataclasses import asdict, field, fields, make_dataclass
from typing import Any

import pytest

from geometry import InputError
from models.nerf.guided.network import GuidedConfig, GuidedNeRF, GuidedSamples
from models.nerf.hierarchical.network import HierarchicalConfig, HierarchicalNeRF, HierarchicalSamples
from models.nerf.renderer import Renderer
from models.nerf.samplers import SAMPLERS, RendererSpec, require_own_options
from render.options import EvaluateOptions, VideoOptions
from training.nerf.options import FinetuneOptions, GeneralOptions

OWN = {
    "hierarchical": ("N_samples", "N_importance", "heads"),
    "guided": (
        *("N_guided", "sweep_planes", "scene_field", "feature_pixels", "color_loss", "fine_depth", "coarse_loss"),
        "sample_volume",
    ),
}
SHARED = (
    *("feature_channels", "hidden", "fused", "depth_prior", "residual_channels", "residual_resolution"),
    *("depth_loss", "near_far", "chunk", "token_layers", "token_channels", "vggt_layers"),
)
SPECS = {
    "hierarchical": RendererSpec(
        "hierarchical",
        HierarchicalConfig(token_layers=2, token_channels=6, feature_channels=8, hidden=12, fused=16, heads=3),
        HierarchicalSamples(5, 0),
        background=1.0,
    ),
    "guided": RendererSpec(
        "guided",
        GuidedConfig(
            **{
                "feature_channels": 8,
                "depth_prior": True,
                "residual_channels": 2,
                "sweep_planes": 12,
                "scene_field": 8,
            },
            **{"token_layers": 2, "token_channels": 6, "fine_depth": True, "sample_volume": True},
        ),
        GuidedSamples(3),
        near_far="auto",
    ),
}


def options_with(**given: Any) -> Any:
    """All options there are, at None unless given."""
    names = (*OWN["hierarchical"], *OWN["guided"], *SHARED)
    return make_dataclass("AllOptions", [(name, Any, field(default=None)) for name in names])(**given)


@pytest.mark.parametrize(
    ("sampler", "other", "name"),
    [(sampler, other, name) for sampler in OWN for other in OWN if other != sampler for name in OWN[other]],
)
def test_options_of_the_other_sampler_are_refused_by_name(sampler: str, other: str, name: str) -> None:
    message = f"--{name} 7: belongs to --sampler {other}; this run has --sampler {sampler}"
    with pytest.raises(InputError, match=message):
        require_own_options(sampler, options_with(**{name: 7}), "this run")
    require_own_options(other, options_with(**{name: 7}), "this run")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_both_samplers_understand_is_refused_by_none(sampler: str) -> None:
    require_own_options(sampler, options_with(**dict.fromkeys(SHARED, 7)), "this run")


@pytest.mark.parametrize("options", [GeneralOptions, FinetuneOptions, EvaluateOptions, VideoOptions])
def test_help_says_which_sampler_an_option_belongs_to(options: type) -> None:
    """`--help` names the sampler before exactly those options that the other one refuses."""
    for one in fields(options):
        owners = [sampler for sampler in SAMPLERS if one.name in OWN[sampler]]
        said = one.metadata["help"].split(":")[0]
        assert owners == ([said] if said in SAMPLERS else []), one.name


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_spec_comes_back_from_plain_values(sampler: str) -> None:
    spec = SPECS[sampler]
    assert RendererSpec.from_plain(asdict(spec)) == spec
    assert RendererSpec.from_plain(json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_plain_values_of_another_version_are_refused(sampler: str) -> None:
    plain = asdict(SPECS[sampler])
    with pytest.raises(TypeError, match="unexpected keyword argument 'rounds'"):
        RendererSpec.from_plain(plain | {"config": plain["config"] | {"rounds": 3}})
    with pytest.raises(KeyError, match="uniform"):
        RendererSpec.from_plain(plain | {"sampler": "uniform"})


@pytest.mark.parametrize(("sampler", "kind"), [("hierarchical", HierarchicalNeRF), ("guided", GuidedNeRF)])
def test_spec_builds_the_renderer_it_describes(sampler: str, kind: type[Renderer]) -> None:
    spec = SPECS[sampler]
    renderer = spec.build()
    assert type(renderer) is kind
    built = (renderer.config, renderer.samples, renderer.background, renderer.near_far)
    assert built == (spec.config, spec.samples, spec.background, spec.near_far)


def test_options_left_open_are_the_samplers_defaults() -> None:
    options = {"N_samples": None, "N_importance": 7, "N_guided": None, "hidden": 8, "fused": None, "lrate": 1.0}
    shapes = {"token_layers": 1, "token_channels": 4}
    spec = RendererSpec.from_options("hierarchical", options | shapes, 0.0, "data")
    assert spec.samples == HierarchicalSamples(N_importance=7)
    assert spec.config == HierarchicalConfig(token_layers=1, token_channels=4, hidden=8)
    assert RendererSpec.from_options("guided", options, 0.0, "data").samples == GuidedSamples()


def test_sample_counts_not_given_stay_as_they_are() -> None:
    spec = SPECS["hierarchical"]
    assert spec.with_samples({"N_samples": 9, "N_importance": None, "N_guided": None}).samples == HierarchicalSamples(
        9, 0
    )
    assert spec.with_samples({}) == spec


@pytest.mark.parametrize(
    ("sampler", "name", "count"),
    [("hierarchical", "N_samples", 0), ("hierarchical", "N_importance", -1), ("guided", "N_guided", 0)],
)
def test_impossible_sample_counts_are_refused_by_name(sampler: str, name: str, count: int) -> None:
    with pytest.raises(InputError, match=f"--{name}: expected .* got {count}"):
        SPECS[sampler].with_samples({name: count})


def test_sizes_of_maps_change_no_weight() -> None:
    spec = SPECS["guided"]
    finer = spec.with_samples({"feature_pixels": 1 << 20, "N_guided": 2})
    assert (finer.config.feature_pixels, finer.samples.N_guided) == (1 << 20, 2)
    finer.build().load_state_dict(spec.build().state_dict())
    with pytest.raises(InputError, match=r"--feature_pixels: expected at least 1024 .* got 10"):
        spec.with_samples({"feature_pixels": 10})
    older = asdict(spec)
    del older["config"]["feature_pixels"]
    assert RendererSpec.from_plain(older).config.feature_pixels == 1 << 17
