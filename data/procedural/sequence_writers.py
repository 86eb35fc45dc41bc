"""Procedural scenes in the layouts of Co3D and Virtual KITTI 2, see their readers.

The rigs and scenes are those of the BlendedMVS layout.
"""

import gzip
import json
from pathlib import Path

import numpy as np

from data.image_io import write_bytes, write_image, write_uint16
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
from data.procedural.tracer import RenderedView
from data.readers.dtu import EVALUATED_LIGHT

CO3D_CATEGORY = "procedural"
CO3D_TEST_EVERY = 5
"""Every fifth sequence is listed in the test annotation; chosen by hand."""
VKITTI_UNIT = 0.05
"""Meters per millimeter of the scene: a table as large as a crossroads, so that centimeters resolve it."""
VKITTI_BASELINE = 0.5325
"""Meters from camera 0 to camera 1, to the right; that of Virtual KITTI 2."""
_NOTHING = np.iinfo(np.uint16).max
"""Centimeters where nothing is hit: 655.35 m, beyond the depth that the reader takes for known."""


class Co3dLayout:
    """`{category}/{sequence}/images, depths, depth_masks` and VGGT's annotations; every fifth sequence is for test."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(range(settings.views))

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"{CO3D_CATEGORY}/{self._settings.first_scan + index:04d}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it, in the scene's unit."""
        rendered, unit = _rendered(self._settings, index, view)
        depth = rendered.depth * np.float32(unit)
        folder, name = self._root / self.scan(index), f"frame{view + 1:06d}"
        write_image(folder / "images" / f"{name}.jpg", to_bytes(rendered))
        write_uint16(folder / "depths" / f"{name}.jpg.geometric.png", depth.astype(np.float16).view(np.uint16))
        write_image(folder / "depth_masks" / f"{name}.png", np.where(depth > 0, 255, 0).astype(np.uint8))
        return depth_range_of(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """Enter the sequence into its category's annotation."""
        rig, unit = orbit(self._settings, index)
        frames = [
            {
                "filepath": f"{self.scan(index)}/images/frame{view + 1:06d}.jpg",
                "extri": rig[view].scaled(unit).w2c[:3].double().tolist(),
                "intri": intrinsics_in_files(rig[view]).tolist(),
            }
            for view in self.view_ids
        ]
        kind = "train" if (index + 1) % CO3D_TEST_EVERY else "test"
        path = self._root / f"{CO3D_CATEGORY}_{kind}.jgz"
        content = json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else {}
        content[self.scan(index).partition("/")[2]] = frames
        # sorted and without a time stamp: the bytes do not depend on which scene was finished first
        write_bytes(path, gzip.compress(json.dumps(content, sort_keys=True).encode(), mtime=0))


class VkittiLayout:
    """`{Scene}/clone/frames/{rgb,depth}/Camera_0`; the text files also hold the stereo partner, camera 1."""

    def __init__(self, root: Path, settings: GeneratorSettings) -> None:
        self._root, self._settings = root, settings
        self.view_ids = tuple(range(settings.views))

    def scan(self, index: int) -> str:
        """Name of scene `index`."""
        return f"Scene{self._settings.first_scan + index:02d}"

    def write_view(self, index: int, view: int) -> tuple[float, float]:
        """Render and write one view; least and greatest depth in it, meters."""
        rendered, _ = _rendered(self._settings, index, view)
        depth = rendered.depth * np.float32(VKITTI_UNIT)
        frames = self._root / self.scan(index) / "clone" / "frames"
        write_image(frames / "rgb" / "Camera_0" / f"rgb_{view:05d}.jpg", to_bytes(rendered))
        centimeters = np.where(depth > 0, np.rint(depth * 100), _NOTHING).astype(np.uint16)
        write_uint16(frames / "depth" / "Camera_0" / f"depth_{view:05d}.png", centimeters)
        return depth_range_of(depth)

    def finish_scene(self, index: int, depth_range: tuple[float, float]) -> None:
        """The two camera files."""
        rig, _ = orbit(self._settings, index)
        poses = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
        lenses = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
        for view in self.view_ids:
            for camera in (0, 1):
                w2c = rig[view].scaled(VKITTI_UNIT).w2c.double().numpy().copy()
                w2c[0, 3] -= camera * VKITTI_BASELINE
                lens = intrinsics_in_files(rig[view])
                poses.append(_line(view, camera, w2c.reshape(-1)))
                lenses.append(_line(view, camera, lens[[0, 1, 0, 1], [0, 1, 2, 2]]))
        folder = self._root / self.scan(index) / "clone"
        write_text(folder / "extrinsic.txt", "\n".join(poses) + "\n")
        write_text(folder / "intrinsic.txt", "\n".join(lenses) + "\n")


def _rendered(settings: GeneratorSettings, index: int, view: int) -> tuple[RenderedView, float]:
    """The photograph, and how many of the scene's units one millimeter is."""
    rig, unit = orbit(settings, index)
    scene = cached_scene(settings.seed, index, has_backdrop=False)
    (rendered,) = photographs(settings, scene, rig[view], (EVALUATED_LIGHT,))
    return rendered, unit


def _line(view: int, camera: int, values: np.ndarray) -> str:
    return " ".join([str(view), str(camera), *(f"{value:.12g}" for value in values)])
