"""How long a fine-tuning of photographs is, and from how many views it renders."""

from pathlib import Path
from typing import Any

import pytest

from geometry import InputError
from render.photos.finetuning import require_usable, sized
from render.photos.options import PhotosOptions
from render.photos.pipeline import worse_than_general
from training.nerf.options import FinetuneOptions

ROOT = Path(__file__).parents[3]
RUN = FinetuneOptions(
    init_from="c.ckpt", n_views=(4, 6), scene_field=8, max_steps=1000, scene_field_steps=600, warmup_steps=50
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the shipped checkpoint and config lie."""
    monkeypatch.chdir(ROOT)


def options(**changes: Any) -> PhotosOptions:
    return PhotosOptions(source=str(ROOT), out="x", **changes)


def numbers(run: FinetuneOptions) -> tuple[int, int, int]:
    return run.max_steps, run.scene_field_steps, run.warmup_steps


def test_what_does_not_fit_stops_at_once(finetuned: Path, tmp_path: Path) -> None:
    require_usable(options(device="cpu"))
    config = tmp_path / "c.txt"
    config.write_text("max_stepz = 3\n")
    with pytest.raises(InputError, match="max_stepz"):
        require_usable(options(finetune=str(config)))
    require_usable(options(finetune=str(config), minutes=0.0))
    with pytest.raises(InputError, match="expected a general model, got one fine-tuned on a scene"):
        require_usable(options(ckpt=str(finetuned)))
    with pytest.raises(InputError, match="--device"):
        require_usable(options(device="abacus"))


def test_minutes_are_left_to_the_run() -> None:
    run = sized(RUN, options(minutes=2.0), 20)
    assert run.minutes == 2
    assert numbers(run) == (1000, 600, 50)


def test_so_many_steps_keep_their_proportions() -> None:
    assert numbers(sized(RUN, options(steps=100), 20)) == (100, 60, 5)
    assert numbers(sized(RUN, options(steps=2000), 20)) == (2000, 1200, 100)
    assert numbers(sized(RUN, options(steps=4), 20)) == (4, 2, 0)
    assert sized(RUN, options(steps=100), 20).minutes == 0


def test_views_beside_the_target_are_all_there_are() -> None:
    assert sized(RUN, options(), 20).n_views == (4, 6)
    assert sized(RUN, options(), 6).n_views == (4, 5)
    assert sized(RUN, options(), 4).n_views == (3,)


def test_steps_of_a_config_without_any_are_refused() -> None:
    run = FinetuneOptions(init_from="c.ckpt")
    with pytest.raises(InputError, match="--steps 5: expected --max_steps in"):
        sized(run, options(steps=5), 20)


def test_a_fine_tuning_that_made_it_worse_is_warned_of() -> None:
    assert worse_than_general(22.0, 22.0) == []
    (warning,) = worse_than_general(23.004, 22.21)
    assert warning.startswith("fine-tuning has made the held-out photographs worse (23.00 dB -> 22.21 dB)")
