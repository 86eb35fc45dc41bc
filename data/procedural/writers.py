"""One rendered view, one set of cameras -> files in DTU's or BlendedMVS's layout. Every file is whole or absent."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from data.image_io import write_image, write_pfm
from data.procedural.indoor import Subject, room_subject
from data.procedural.layout_parts import (
    GeneratorSettings,
    cached_scene,
    depth_range_of,
    intrinsics_in_files,
    orbit,
    photographs,
    to_bytes,
    write_text,
)
from data.procedural.qa_layout import RoomsQALayout
from data.procedural.rigs import DTU_INTERVAL, DTU_NEAR, dtu_rig, dtu_view_order, dtu_world, pair_list
from data.procedural.sequence_writers import Co3dLayout, VkittiLayout
from data.readers.dtu import EVALUATED_LIGHT
from geometry import Cameras

METRIC_LIST = "metric.txt"
"""Names of the rooms in meters, for `python -m data.wai.convert --meters 1 --scenes`."""
BLENDEDMVS_PLANES = 128
"""Depth planes named in a camera file's last line; the reader takes near and far from it alone."""


class DtuLayout:
    """`Cameras/`, `Rectified/`, `Depths/` as in MVSNeRF's DTU; one rig, millimeters, DTU's world frame."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(sorted(dtu_view_order(settings.views)))
        lights = tuple(range(settings.lights))
        self._lights = lights if settings.lights > 1 else (EVALUATED_LIGHT,)
        self._rig = dtu_rig(settings.height, settings.width)

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"scan{self._settings.first_scan + index}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it (infinity, 0 when nothing is seen)."""
        scene = cached_scene(self._settings.seed, index, has_backdrop=True)
        rendered = photographs(self._settings, scene, self._rig[view], self._lights)
        folder = self._root / "Rectified" / f"{self.scan(index)}_train"
        for light, one in zip(self._lights, rendered, strict=True):
            write_image(folder / f"rect_{view + 1:03d}_{light}_r5000.png", to_bytes(one))
        depth = rendered[0].depth
        raw = _raw_dtu_depth(depth) if _has_dtu_proportions(*depth.shape) else depth
        write_pfm(self._root / "Depths" / self.scan(index) / f"depth_map_{view:04d}.pfm", raw)
        return depth_range_of(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Cameras and pairs are the same for every scan; they are complete once one scan is."""
        cameras = dtu_world(self._rig)
        for view in self.view_ids:
            # the file holds K for a quarter of the image size, pixel centers at integers
            intrinsics = intrinsics_in_files(cameras[view])
            intrinsics[:2] /= 4
            text = _camera_text(cameras[view], intrinsics, f"{DTU_NEAR} {DTU_INTERVAL}")
            write_text(self._root / "Cameras" / "train" / f"{view:08d}_cam.txt", text)
        written = pair_list(self._rig[list(self.view_ids)], self.view_ids)
        write_text(self._root / "Cameras" / "pair.txt", written)


class BlendedMvsLayout:
    """`{scene}/blended_images, cams, rendered_depth_maps`; a rig, a lens and a unit of its own for every scene.

    Rooms have PNG images, and `metric.txt` in the root names those whose unit is the meter.
    """

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(range(settings.views))

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"{self._settings.rooms or 'procedural'}{self._settings.first_scan + index:04d}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it, in the scene's unit."""
        subject = self._subject(index)
        (rendered,) = photographs(self._settings, subject.scene, subject.rig[view], (EVALUATED_LIGHT,))
        depth = rendered.depth * np.float32(subject.unit)
        folder = self._root / self.scan(index)
        suffix = "png" if self._settings.rooms else "jpg"
        write_image(folder / "blended_images" / f"{view:08d}.{suffix}", to_bytes(rendered))
        write_pfm(folder / "rendered_depth_maps" / f"{view:08d}.pfm", depth)
        return depth_range_of(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Cameras last: their depth line needs the range over all views."""
        rig, unit, is_metric = self._subject(index)[1:]
        near, far = 0.95 * depth_range[0], 1.05 * depth_range[1]
        line = f"{near:.9g} {(far - near) / (BLENDEDMVS_PLANES - 1):.9g} {BLENDEDMVS_PLANES} {far:.9g}"
        folder = self._root / self.scan(index) / "cams"
        for view in self.view_ids:
            camera = rig[view].scaled(unit)
            text = _camera_text(camera, intrinsics_in_files(camera), line)
            write_text(folder / f"{view:08d}_cam.txt", text)
        write_text(folder / "pair.txt", pair_list(rig, self.view_ids))
        if self._settings.rooms:
            path = self._root / METRIC_LIST
            named = {*(path.read_text().split() if path.is_file() else ()), *([self.scan(index)] if is_metric else ())}
            write_text(path, "".join(f"{name}\n" for name in sorted(named)))

    def _subject(self, index: int) -> Subject:
        settings = self._settings
        if settings.rooms:
            size = (settings.height, settings.width)
            return room_subject(settings.rooms, settings.seed, index, settings.views, size)
        rig, unit = orbit(settings, index)
        return Subject(cached_scene(settings.seed, index, has_backdrop=False), rig, unit, is_metric=False)


Layout = DtuLayout | BlendedMvsLayout | Co3dLayout | VkittiLayout | RoomsQALayout
LAYOUTS: dict[str, type[Layout]] = {
    "dtu": DtuLayout,
    "blendedmvs": BlendedMvsLayout,
    "co3d": Co3dLayout,
    "vkitti": VkittiLayout,
    "rooms_qa": RoomsQALayout,
}


def _has_dtu_proportions(height: int, width: int) -> bool:
    return width * 4 == height * 5 and width % 32 == 0


def _raw_dtu_depth(depth: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "raw_height raw_width"]:
    """As DTU's 1600x1200 maps: halving them (nearest) and cutting out the middle gives the image-size map back."""
    height, width = depth.shape
    raw = np.zeros((height * 75 // 32, width * 5 // 2), dtype=np.float32)
    top, left = (raw.shape[0] - 2 * height) // 2, (raw.shape[1] - 2 * width) // 2
    raw[top : top + 2 * height, left : left + 2 * width] = depth.repeat(2, axis=0).repeat(2, axis=1)
    return raw


def _camera_text(camera: Cameras, intrinsics: Float[np.ndarray, "3 3"], depth_line: str) -> str:
    pose = "\n".join(" ".join(f"{value:.12g}" for value in row) for row in camera.w2c.double().tolist())
    lens = "\n".join(" ".join(f"{value:.12g}" for value in row) for row in intrinsics.tolist())
    return f"extrinsic\n{pose}\n\nintrinsic\n{lens}\n\n{depth_line}\n"
