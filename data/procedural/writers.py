"""One rendered view, one set of cameras -> files in DTU's or BlendedMVS's layout. Every file is whole or absent."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from data.image_io import write_image, write_pfm
from data.procedural.rigs import (
    DTU_HELD_OUT_VIEWS,
    DTU_INTERVAL,
    DTU_NEAR,
    DTU_NUM_VIEWS,
    DTU_TRAIN_VIEWS,
    dtu_rig,
    dtu_view_order,
    dtu_world,
    orbit_rig,
    pair_list,
)
from data.procedural.scene import NUM_LIGHTS, Scene, make_scene
from data.procedural.tracer import RenderedView, render_lights
from geometry import Cameras, InputError

SMALLEST_SIDE = 32
BLENDEDMVS_PLANES = 128
DTU_EVALUATION_LIGHT = 3


@dataclass(frozen=True)
class GeneratorSettings:
    """Everything that decides the bytes of a scene, besides its index."""

    layout: str
    """`dtu` or `blendedmvs`."""
    width: int
    height: int
    views: int
    seed: int
    lights: int
    first_scan: int

    def __post_init__(self) -> None:
        """Refuse what no layout can hold.

        Raises:
            InputError: naming the option.
        """
        _check("--layout", self.layout, self.layout in LAYOUTS, f"one of {', '.join(LAYOUTS)}")
        for name, side in (("--width", self.width), ("--height", self.height)):
            _check(name, side, side >= SMALLEST_SIDE, f"at least {SMALLEST_SIDE}")
        is_dtu = self.layout == "dtu"
        most, most_lights = (DTU_NUM_VIEWS, NUM_LIGHTS) if is_dtu else (1000, 1)
        least = len(DTU_TRAIN_VIEWS + DTU_HELD_OUT_VIEWS) if is_dtu else 3
        _check("--views", self.views, least <= self.views <= most, f"{least} to {most} for {self.layout}")
        _check("--lights", self.lights, 1 <= self.lights <= most_lights, f"1 to {most_lights} for {self.layout}")
        _check("--seed", self.seed, self.seed >= 0, "0 or more")
        _check("--first_scan", self.first_scan, self.first_scan >= 0, "0 or more")


def _check(option: str, value: object, is_good: bool, expected: str) -> None:
    if not is_good:
        raise InputError(f"{option}: expected {expected}, got {value}")


class DtuLayout:
    """`Cameras/`, `Rectified/`, `Depths/` as in MVSNeRF's DTU; one rig, millimetres, DTU's world frame."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(sorted(dtu_view_order(settings.views)))
        lights = tuple(range(settings.lights))
        self._lights = lights if settings.lights > 1 else (DTU_EVALUATION_LIGHT,)
        self._rig = dtu_rig(settings.height, settings.width)

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"scan{self._settings.first_scan + index}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it (infinity, 0 when nothing is seen)."""
        scene = _cached_scene(self._settings.seed, index, has_backdrop=True)
        rendered = render_lights(scene, self._rig[view], self._lights)
        folder = self._root / "Rectified" / f"{self.scan(index)}_train"
        for light, one in zip(self._lights, rendered, strict=True):
            write_image(folder / f"rect_{view + 1:03d}_{light}_r5000.png", _to_bytes(one))
        depth = rendered[0].depth
        raw = _raw_dtu_depth(depth) if _has_dtu_proportions(*depth.shape) else depth
        write_pfm(self._root / "Depths" / self.scan(index) / f"depth_map_{view:04d}.pfm", raw)
        return _depth_range(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Cameras and pairs are the same for every scan; they are complete once one scan is."""
        cameras = dtu_world(self._rig)
        for view in self.view_ids:
            # the file holds K for a quarter of the image size, pixel centres at integers
            intrinsics = _integer_centers(cameras[view])
            intrinsics[:2] /= 4
            text = _camera_text(cameras[view], intrinsics, f"{DTU_NEAR} {DTU_INTERVAL}")
            write_text(self._root / "Cameras" / "train" / f"{view:08d}_cam.txt", text)
        written = pair_list(self._rig[list(self.view_ids)], self.view_ids)
        write_text(self._root / "Cameras" / "pair.txt", written)


class BlendedMvsLayout:
    """`{scene}/blended_images, cams, rendered_depth_maps`; a rig, a lens and a unit of its own for every scene."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(range(settings.views))

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"procedural{self._settings.first_scan + index:04d}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it, in the scene's unit."""
        rig, unit = _orbit(self._settings, index)
        scene = _cached_scene(self._settings.seed, index, has_backdrop=False)
        (rendered,) = render_lights(scene, rig[view], (DTU_EVALUATION_LIGHT,))
        depth = rendered.depth * np.float32(unit)
        folder = self._root / self.scan(index)
        write_image(folder / "blended_images" / f"{view:08d}.jpg", _to_bytes(rendered))
        write_pfm(folder / "rendered_depth_maps" / f"{view:08d}.pfm", depth)
        return _depth_range(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Cameras last: their depth line needs the range over all views."""
        rig, unit = _orbit(self._settings, index)
        near, far = 0.95 * depth_range[0], 1.05 * depth_range[1]
        line = f"{near:.9g} {(far - near) / (BLENDEDMVS_PLANES - 1):.9g} {BLENDEDMVS_PLANES} {far:.9g}"
        folder = self._root / self.scan(index) / "cams"
        for view in self.view_ids:
            camera = rig[view].scaled(unit)
            text = _camera_text(camera, _integer_centers(camera), line)
            write_text(folder / f"{view:08d}_cam.txt", text)
        write_text(folder / "pair.txt", pair_list(rig, self.view_ids))


LAYOUTS: dict[str, type[DtuLayout] | type[BlendedMvsLayout]] = {"dtu": DtuLayout, "blendedmvs": BlendedMvsLayout}


@lru_cache(maxsize=2)
def _cached_scene(seed: int, index: int, has_backdrop: bool) -> Scene:
    return make_scene((seed, index), has_backdrop=has_backdrop)


@lru_cache(maxsize=2)
def _orbit(settings: GeneratorSettings, index: int) -> tuple[Cameras, float]:
    """Rig in millimetres, and how many of the scene's units one millimetre is."""
    rng = np.random.default_rng((settings.seed, index, 1))
    unit = float(rng.uniform(0.003, 0.02))
    return orbit_rig(rng, settings.views, settings.height, settings.width), unit


def _to_bytes(view: RenderedView) -> UInt8[np.ndarray, "height width 3"]:
    return np.rint(view.rgb * 255).astype(np.uint8)


def _depth_range(depth: Float[np.ndarray, "height width"]) -> tuple[float, float]:
    seen = depth[depth > 0]
    return (float(seen.min()), float(seen.max())) if seen.size else (float("inf"), 0.0)


def _has_dtu_proportions(height: int, width: int) -> bool:
    return width * 4 == height * 5 and width % 32 == 0


def _raw_dtu_depth(depth: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "raw_height raw_width"]:
    """As DTU's 1600x1200 maps: halving them (nearest) and cutting out the middle gives the image-size map back."""
    height, width = depth.shape
    raw = np.zeros((height * 75 // 32, width * 5 // 2), dtype=np.float32)
    top, left = (raw.shape[0] - 2 * height) // 2, (raw.shape[1] - 2 * width) // 2
    raw[top : top + 2 * height, left : left + 2 * width] = depth.repeat(2, axis=0).repeat(2, axis=1)
    return raw


def _integer_centers(camera: Cameras) -> Float[np.ndarray, "3 3"]:
    intrinsics = camera.intrinsics.double().numpy().copy()
    intrinsics[:2, 2] -= 0.5
    return intrinsics


def _camera_text(camera: Cameras, intrinsics: Float[np.ndarray, "3 3"], depth_line: str) -> str:
    pose = "\n".join(" ".join(f"{value:.12g}" for value in row) for row in camera.w2c.double().tolist())
    lens = "\n".join(" ".join(f"{value:.12g}" for value in row) for row in intrinsics.tolist())
    return f"extrinsic\n{pose}\n\nintrinsic\n{lens}\n\n{depth_line}\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
