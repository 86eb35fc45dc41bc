"""Which geometry is drawn: probabilities, presets, sparse depth; the same for the same seed."""

from dataclasses import replace

import pytest
import torch

from geometry import InputError
from models.mapanything import GeometricInputs
from training.mapanything.inputs import (
    PRESETS,
    InputProbabilities,
    drawn_inputs,
    preset_named,
    probabilities,
    sparse_depth,
)

DRAWS, VIEWS = 200, 4


def everything(samples: int, views: int = VIEWS) -> GeometricInputs:
    blank = GeometricInputs.of_images(torch.zeros(samples, views, 3, 2, 5))
    yes = torch.ones(samples, views, dtype=torch.bool)
    return replace(
        blank, depth_along_ray=torch.ones(samples, views, 2, 5), has_rays=yes, has_depth=yes, has_pose=yes,
        shows_depth_scale=yes, shows_pose_scale=yes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> GeometricInputs:
    chances = replace(PRESETS["augmented"], hides_per_view=True)
    return drawn_inputs(everything(DRAWS), torch.ones(DRAWS, dtype=torch.bool), chances, torch.arange(DRAWS))


def test_frequencies_are_those_of_the_formula(drawn: GeometricInputs) -> None:
    """Within four standard deviations; view by view they are not independent, so the samples count."""
    expected = probabilities(PRESETS["augmented"], VIEWS)
    flags = {name: getattr(drawn, f"has_{name}") for name in ("rays", "depth", "pose")}
    images_only = ~torch.stack(list(flags.values())).any(0).any(-1)
    together = flags["rays"] & flags["depth"] & flags["pose"]
    found = {
        "per_view_probability_of_each_modality": flags["rays"][:, 0],
        "probability_sample_sees_images_only": images_only,
        "P_view_has_rays_and_depth_and_pose": together[:, 1],
        "P_all_V_views_have_rays": flags["rays"].all(-1),
    }
    for name, values in found.items():
        share = expected[name]
        assert values.double().mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / DRAWS) ** 0.5), name
    hidden = flags["depth"] & ~drawn.shows_depth_scale
    assert hidden.sum() / flags["depth"].sum() == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / DRAWS) ** 0.5)
    known = (drawn.depth_along_ray > 0).flatten(2).sum(-1)
    assert set(known.unique().tolist()) == {1, 10}  # 90 % of 10 pixels removed, or none
    assert (known == 1).all(-1).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / DRAWS**0.5)


def test_scale_is_hidden_of_whole_groups_by_default() -> None:
    chances = InputProbabilities(depth=1.0, hides_depth_scale=0.5)
    found = drawn_inputs(everything(40), torch.ones(40, dtype=torch.bool), chances, torch.arange(40))
    shown = found.shows_depth_scale.sum(-1)
    assert set(shown.tolist()) == {0, VIEWS}


def test_a_draw_depends_on_the_seed_of_its_group_only(drawn: GeometricInputs) -> None:
    chances = replace(PRESETS["augmented"], hides_per_view=True)
    alone = drawn_inputs(everything(1), torch.ones(1, dtype=torch.bool), chances, torch.tensor([17]))
    assert torch.equal(alone.depth_along_ray[0], drawn.depth_along_ray[17])
    assert torch.equal(alone.has_pose[0], drawn.has_pose[17])


def test_presets_give_what_they_say() -> None:
    metric = torch.tensor([True, False])
    for name, expected in {
        "images": (False, False, False),
        "posed": (True, False, True),
        "registration": (True, True, False),
        "poses_depth": (False, True, True),
        "everything": (True, True, True),
    }.items():
        found = drawn_inputs(everything(2), metric, PRESETS[name], torch.tensor([3, 4]))
        assert tuple(bool(getattr(found, f"has_{kind}").all()) for kind in ("rays", "depth", "pose")) == expected
        assert tuple(bool(getattr(found, f"has_{kind}").any()) for kind in ("rays", "depth", "pose")) == expected
        assert not found.shows_depth_scale[1].any()  # not metric
        assert bool(found.shows_depth_scale[0].all()) == expected[1]
    hidden = drawn_inputs(everything(2), metric, PRESETS["everything_up_to_scale"], torch.tensor([3, 4]))
    assert not (hidden.shows_depth_scale | hidden.shows_pose_scale).any()
    with pytest.raises(InputError, match="--inputs: expected one of"):
        preset_named("video")


def test_what_a_view_lacks_is_left_out_of_that_view() -> None:
    given = everything(1)
    has_depth = torch.tensor([[True, False, True, True]])
    found = drawn_inputs(
        replace(given, has_depth=has_depth), torch.tensor([True]), PRESETS["everything"], torch.tensor([0])
    )
    assert torch.equal(found.has_depth, has_depth)
    assert not found.shows_depth_scale[0, 1]


def test_sparse_depth_loses_a_share_of_each_view() -> None:
    depth = torch.zeros(1, 2, 4, 5)
    depth[0, 0] = 1
    depth[0, 1, 0, :3] = 2
    kept = sparse_depth(depth, torch.rand(1, 2, 4, 5), 0.9)
    assert (kept > 0).flatten(2).sum(-1).tolist() == [[2, 1]]
    assert (kept[depth == 0] == 0).all()
