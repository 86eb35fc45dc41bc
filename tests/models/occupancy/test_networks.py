"""The networks: what alignment does, sizes, strict weights, roll-out, codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from geometry import InputError
from geometry.body_poses import continued, relative_to
from geometry.voxels import EgoGrid, GridFrame, VoxelGrid, warp_nearest, warp_trilinear
from models.occupancy import (
    AlignedConfig,
    AlignedForecaster,
    ForecastInputs,
    ForecastStream,
    NetworkPlan,
    build_network,
    load_forecaster,
    load_network,
)
from models.occupancy.alignment import aligned
from models.occupancy.bottleneck import BottleneckConfig, SimpleForecaster, SixDofForecaster
from models.occupancy.networks import save_network
from models.occupancy.occworld import OccWorld, OccWorldConfig
from models.occupancy.occworld.tokenizer import VectorQuantizer, code_use, restart_codes

GRID = VoxelGrid((-8, -8, -2), (8, 8, 6), (2, 2, 2))
LEVEL, TILTED = EgoGrid(GRID, GridFrame("yaw", "vehicle")), EgoGrid(GRID, GridFrame("full", "vehicle"))
CONFIG = AlignedConfig(history=3, future=2, width=8)


def poses(*shape: int, seed: int = 0) -> torch.Tensor:
    """Anywhere within a few voxels, turned at random."""
    found = torch.randn(*shape, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found[..., 3:7] = torch.nn.functional.normalize(found[..., 3:7], dim=-1)
    return found


def inputs(batch: int = 2, *, classes: int = 2, has_plan: bool = True) -> ForecastInputs:
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(classes, (batch, 3, *GRID.size), generator=generator, dtype=torch.uint8)
    plan = relative_to(torch.zeros(1, 1, 13).double() + torch.tensor([0.0] * 3 + [1.0] + [0.0] * 9), poses(batch, 2))
    return ForecastInputs(
        history, poses(batch, 3, seed=2), torch.zeros(batch, dtype=torch.long), plan if has_plan else None
    )


@pytest.mark.parametrize("space", [LEVEL, TILTED], ids=["level", "tilted"])
def test_alignment_is_the_trilinear_warp(space: EgoGrid) -> None:
    """Also where it takes the short cut of level grids."""
    volumes = torch.rand(2, 3, *GRID.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source, target = poses(2, 3), poses(2, seed=1)
    found, known = aligned(space, volumes, source, target)
    motion = space.frame.motion(source, target[:, None]).flatten(0, 1)
    expected, share = warp_trilinear(GRID, volumes.flatten(0, 1)[:, None], motion)
    torch.testing.assert_close(found.movedim(2, -1).flatten(0, 1), expected[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(known.movedim(2, -1).flatten(0, 1), share[:, 0], atol=1e-6, rtol=0)


def test_an_untrained_forecaster_is_the_aligned_last_grid() -> None:
    """Whole-voxel moves: exactly the nearest warp by the plan; without a plan by the motion that goes on."""
    given = inputs()
    start = torch.zeros(2, 3, 13, dtype=torch.float64)
    start[..., 3] = 1
    start[..., 0] = torch.tensor([-4.0, -2.0, 0.0])
    given = replace(given, history_poses=start, plan=continued(start, 2))
    model = AlignedForecaster(CONFIG, LEVEL)
    forecast = model(given)
    last = given.history[:, -1:].expand(-1, 2, -1, -1, -1)
    motion = LEVEL.frame.motion(start[:, -1:], continued(start, 2))
    expected, _ = warp_nearest(GRID, last, motion)
    assert torch.equal(forecast.logits > 0, expected.bool())
    without = model(replace(given, plan=None))
    assert torch.equal(without.logits > 0, expected.bool())
    torch.testing.assert_close(without.frames, continued(start, 2), atol=1e-5, rtol=0)


def test_the_plan_moves_the_forecast() -> None:
    """Seen from the same world pose, forecasts by two plans agree where both see: motion acts as geometry."""
    given, model = inputs(), AlignedForecaster(CONFIG, LEVEL)
    assert given.plan is not None
    upright = given.history_poses.clone()
    upright[..., 3:7] = upright.new_tensor([1.0, 0, 0, 0])
    given, shifted = replace(given, history_poses=upright), given.plan.clone()
    shifted[..., 2] += 2.0
    first, second = model(given), model(replace(given, plan=shifted))
    assert not torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.logits[:, :, :, :, 1:], second.logits[:, :, :, :, :-1], atol=1e-4, rtol=0)


def test_samples_and_steps_do_not_mix() -> None:
    model = AlignedForecaster(replace(CONFIG, num_classes=4, free_class=3), TILTED)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
    given = inputs(classes=4)
    both = model(given)
    assert both.logits.shape == (2, 2, *GRID.size, 4)
    alone = model(given[1:], (1,))
    torch.testing.assert_close(alone.logits[0, 0], both.logits[1, 1], atol=1e-5, rtol=1e-4)
    chosen = model(given, torch.tensor([[1], [0]]))
    torch.testing.assert_close(chosen.logits[:, 0], torch.stack([both.logits[0, 1], both.logits[1, 0]]))


def test_a_stream_forecasts_what_a_batch_does() -> None:
    given, model = inputs(1), AlignedForecaster(CONFIG, LEVEL)
    stream = ForecastStream(model, agent=0)
    stream.observe(given.history[0, 0], given.history_poses[0, 0])
    with pytest.raises(InputError, match="expected 3 grids before a forecast, got 1"):
        stream.forecast()
    for index in (0, 1, 2):  # the first one is forgotten
        stream.observe(given.history[0, index], given.history_poses[0, index])
    assert given.plan is not None
    torch.testing.assert_close(stream.forecast(given.plan[0]).logits, model(given, (0,)).logits)


def test_released_and_recorded_sizes() -> None:
    """Numbers of parameters of OccWorld and of the guide's models."""

    def count(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        occworld = OccWorld(OccWorldConfig())
        simple = SimpleForecaster(BottleneckConfig(), LEVEL)
        lstm, attention = (SixDofForecaster(BottleneckConfig(uses_transformer=one), LEVEL) for one in (False, True))
    assert (count(occworld.vae), count(occworld.transformer)) == (14_168_272, 58_182_740)
    assert (count(simple), count(lstm), count(attention)) == (13_851_923, 77_300_704, 79_407_072)


@pytest.mark.parametrize("kind", [SimpleForecaster, SixDofForecaster])
def test_bottlenecks(kind: type[SimpleForecaster] | type[SixDofForecaster]) -> None:
    """Shapes; a plan matters to the 6DoF model alone, and cannot move anything: it changes whole channels."""
    model = kind(BottleneckConfig(history=3, future=2, width=8, latent=16), LEVEL).eval()
    given = inputs()
    forecast, without = model(given), model(replace(given, plan=None))
    assert forecast.logits.shape == (2, 2, *GRID.size)
    assert forecast.poses.poses.shape == (2, 2, 13)
    torch.testing.assert_close(forecast.poses.poses[..., 3:7].norm(dim=-1), torch.ones(2, 2))
    assert torch.equal(forecast.logits, without.logits) == (kind is SimpleForecaster)
    torch.testing.assert_close(model(given, (1,)).logits[:, 0], forecast.logits[:, 1])
    if forecast.poses.place is not None:
        torch.testing.assert_close(forecast.poses.place.norm(dim=-1), torch.ones(2))


def test_weights_come_back_strictly(tmp_path: Path) -> None:
    plan = NetworkPlan("aligned", CONFIG, TILTED, history=3, future=2)
    model = build_network(plan)
    path = tmp_path / "a.safetensors"
    save_network(model, plan, path, path.with_suffix(".json"), {})
    loaded = load_forecaster(path)
    assert loaded.plan == plan
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.network.state_dict().items())
    weights = load_file(path)
    first = next(iter(weights))
    save_file({name: value for name, value in weights.items() if name != first}, path)
    with pytest.raises(InputError, match=first.replace(".", r"\.")):
        load_network(path)
    path.with_suffix(".json").write_text(json.dumps(plan.plain() | {"sizes": {"history": 3, "future": 2, "depth": 1}}))
    with pytest.raises(InputError, match="unknown key 'depth'"):
        load_network(path)


def test_unused_codes_restart_from_what_the_encoder_says() -> None:
    quantizer = VectorQuantizer(8, 2, 4)
    projected = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) + 5
    before = quantizer.embedding.weight.clone()
    codes = quantizer.nearest(projected)
    assert code_use(codes, 8).share < 0.5  # the usual start is far from what comes
    used = torch.bincount(codes.flatten(), minlength=8) > 0
    assert restart_codes(quantizer, projected, ~used, torch.Generator().manual_seed(0)) == int((~used).sum())
    after = quantizer.embedding.weight
    assert torch.equal(after[used], before[used])
    cells = projected.movedim(1, -1).flatten(0, 2)
    assert all(bool((cells == code).all(-1).any()) for code in after[~used])
    assert code_use(quantizer.nearest(projected), 8).share > 0.5


def test_even_use_has_as_great_a_perplexity_as_there_are_codes() -> None:
    use = code_use(torch.arange(6).repeat(4), 12)
    assert (use.share, use.perplexity) == (0.5, pytest.approx(6))
