"""Weights of the losses beside the photometric one that a run leaves open, chosen from its data."""

from dataclasses import replace
from typing import TypeVar

from data.problems import announce
from geometry import require
from models.nerf.renderer import Renderer
from models.nerf.samplers import LOSS_NAMES
from training.nerf.options import TrainOptions

Options = TypeVar("Options", bound=TrainOptions)

_DEFAULT_WEIGHT = 0.1
"""Of the term that is chosen; what the shipped configs have, for depth and for color."""


def with_loss_weights(
    options: Options, renderer: type[Renderer], *, has_depth: bool, is_per_scene: bool, is_depth_partial: bool = False
) -> Options:
    """The same options with every weight decided; one that is not given is 0, unless the renderer needs it.

    Of the terms of which a renderer needs one (`Renderer.needs_one_of`) depth is taken where a training target has it
    (`has_depth`), else color. Within one scene color comes first: published fine-tunings see photographs alone. Where
    one of several data sets has no depth at all (`is_depth_partial`), all of them, as each teaches on its own steps.

    Raises:
        InputError: when all such terms are switched off, or those left need depth maps that nobody has.
    """
    given = {name: getattr(options, f"{name}_loss") for name in LOSS_NAMES}
    weights = {name: weight or 0.0 for name, weight in given.items()}
    needed = renderer.needs_one_of
    if needed and not any(weights[name] for name in needed):
        possible = [name for name in needed if given[name] is None and (has_depth or name != "depth")]
        known = "with depth maps" if has_depth else "without depth maps"
        got = ", ".join(f"--{name}_loss {'not given' if given[name] is None else '0'}" for name in needed)
        require(
            bool(possible),
            f"expected a weight above 0 of one of {', '.join(f'--{name}_loss' for name in needed)}, from which alone "
            f"parts of this network learn, got {got} for data {known}",
        )
        chosen = possible if is_depth_partial else [possible[-1 if is_per_scene else 0]]
        weights |= dict.fromkeys(chosen, _DEFAULT_WEIGHT)
        options_needed = " or ".join(f"--{name}_loss" for name in needed)
        named = ", ".join(f"--{name}_loss {_DEFAULT_WEIGHT}" for name in chosen)
        announce(f"{named}: chosen for training targets {known}, as no {options_needed} is given")
    return replace(options, **{f"{name}_loss": weight for name, weight in weights.items()})
