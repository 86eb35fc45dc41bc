"""What the writers of all layouts share: settings, scenes and rigs, numbers as files hold them, whole files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data.image_io import write_bytes
from data.procedural.indoor import FAMILIES
from data.procedural.rigs import DTU_HELD_OUT_VIEWS, DTU_NUM_VIEWS, DTU_TRAIN_VIEWS, orbit_rig
from data.procedural.scene import NUM_LIGHTS, Scene, make_scene
from data.procedural.torch_tracer import render_views
from data.procedural.tracer import RenderedView, render_lights
from geometry import Cameras, InputError
from geometry.conversions import intrinsics_to_integer_centers

MIN_SIDE = 32
"""Pixels; chosen by hand."""
TRACERS = ("exact", "fast")


class Limits(NamedTuple):
    """What a layout can hold."""

    min_views: int
    max_views: int
    max_lights: int


# views: both lists of DTU and its rig; elsewhere 3 to 1000, chosen by hand
LIMITS = {
    "dtu": Limits(len(DTU_TRAIN_VIEWS + DTU_HELD_OUT_VIEWS), DTU_NUM_VIEWS, NUM_LIGHTS),
    "blendedmvs": Limits(3, 1000, 1),
    "co3d": Limits(24, 1000, 1),  # readers leave out shorter sequences
    "vkitti": Limits(3, 1000, 1),
    "rooms_qa": Limits(2, 4, 1),  # views of 75 degrees that do not overlap
}
DEFAULT_SHAPES = {"rooms_qa": (96, 96, 3)}
"""Width, height and views of a layout that nobody asks for; of others `DEFAULT_SHAPE`."""
DEFAULT_SHAPE = (640, 512, 49)


@dataclass(frozen=True)
class GeneratorSettings:
    """Everything that decides the bytes of a scene, besides its index."""

    layout: str
    """One of `LIMITS`."""
    width: int
    height: int
    views: int
    seed: int
    lights: int
    first_scan: int
    tracer: str = "exact"
    """One of `TRACERS`: exact in double precision, or fast in single, with 4 samples per pixel."""
    rooms: str = ""
    """blendedmvs: rooms of one of `FAMILIES` instead of things on a table."""

    def __post_init__(self) -> None:
        """Refuse what no layout can hold.

        Raises:
            InputError: naming the option.
        """
        _check("--layout", self.layout, self.layout in LIMITS, f"one of {', '.join(LIMITS)}")
        for name, side in (("--width", self.width), ("--height", self.height)):
            _check(name, side, side >= MIN_SIDE, f"at least {MIN_SIDE}")
        min_views, max_views, max_lights = LIMITS[self.layout]
        _check(
            "--views", self.views, min_views <= self.views <= max_views, f"{min_views} to {max_views} for {self.layout}"
        )
        _check("--lights", self.lights, 1 <= self.lights <= max_lights, f"1 to {max_lights} for {self.layout}")
        _check("--seed", self.seed, self.seed >= 0, "0 or more")
        _check("--first_scan", self.first_scan, self.first_scan >= 0, "0 or more")
        _check("--tracer", self.tracer, self.tracer in TRACERS, f"one of {', '.join(TRACERS)}")
        _check("--rooms", self.rooms, self.rooms in ("", *FAMILIES), f"one of {', '.join(FAMILIES)}, or none")
        _check(
            "--rooms", self.rooms, not self.rooms or self.layout == "blendedmvs", "none, but with --layout blendedmvs"
        )
        if self.layout == "rooms_qa":
            _check("--height", self.height, self.height == self.width, f"--width {self.width} for rooms_qa")
            _check("--tracer", self.tracer, self.tracer == "exact", "exact for rooms_qa, which has a tracer of its own")


def _check(option: str, value: object, is_good: bool, expected: str) -> None:
    if not is_good:
        raise InputError(f"{option}: expected {expected}, got {value}")


@lru_cache(maxsize=2)
def cached_scene(seed: int, index: int, has_backdrop: bool) -> Scene:
    """Scene `index`; consecutive views share it."""
    return make_scene((seed, index), has_backdrop=has_backdrop)


@lru_cache(maxsize=2)
def orbit(settings: GeneratorSettings, index: int) -> tuple[Cameras, float]:
    """Rig in millimeters, and how many of the scene's units one millimeter is."""
    rng = np.random.default_rng((settings.seed, index, 1))
    unit = float(rng.uniform(0.003, 0.02))
    return orbit_rig(rng, settings.views, settings.height, settings.width), unit


def photographs(
    settings: GeneratorSettings, scene: Scene, camera: Cameras, lights: tuple[int, ...]
) -> list[RenderedView]:
    """What one camera (no leading axes) sees of a scene in millimeters under each light."""
    if settings.tracer == "exact":
        return render_lights(scene, camera, lights)
    each = [render_views(scene, camera[None], light, samples=4) for light in lights]
    return [RenderedView(one.images[0].permute(1, 2, 0).numpy(), one.depth[0].numpy()) for one in each]


def to_bytes(view: RenderedView) -> UInt8[np.ndarray, "height width 3"]:
    """Its colors as files hold them."""
    return np.rint(view.rgb * 255).astype(np.uint8)


def depth_range_of(depth: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    """Least and greatest known depth (infinity, 0 when nothing is seen)."""
    seen = depth[depth > 0]
    return (float(seen.min()), float(seen.max())) if seen.size else (float("inf"), 0.0)


def intrinsics_in_files(camera: Cameras) -> Float[np.ndarray, "3 3"]:
    """K for integer pixel centers."""
    return intrinsics_to_integer_centers(camera.intrinsics.double()).numpy()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; folders are made."""
    write_bytes(path, text.encode())
