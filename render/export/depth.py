"""Depth per view as files: NAME.npy, NAME.png (16 bit), NAME_color.png, NAME_confidence.png, and the cameras beside."""

from pathlib import Path
from typing import Any

import numpy as np

from data.image_io import write_image, write_uint16
from render.export.renderings import Renderings
from training.files import write_json
from training.pictures import as_bytes, colored_depth

_LEVELS = 65535


def write_depth(folder: Path, renderings: Renderings) -> dict[str, Any]:
    """All views at their resolution; `depth.json` has the unit of the 16-bit files and the camera of every view.

    One unit for all views: the largest depth is 65535. Confidence has the unit 1 / 65535.
    """
    depth = renderings.depth.numpy()
    largest = float(depth.max())
    scale = largest / _LEVELS if largest > 0 else 1.0
    folder.mkdir(parents=True)
    views = []
    for index, name in enumerate(renderings.names):
        near, far = renderings.near[index].item(), renderings.far[index].item()
        np.save(folder / f"{name}.npy", depth[index].astype(np.float32))
        write_uint16(folder / f"{name}.png", np.rint(depth[index] / scale).astype(np.uint16))
        write_image(folder / f"{name}_color.png", as_bytes(colored_depth(renderings.depth[index], near, far)))
        confidence = np.rint(renderings.confidence[index].numpy() * _LEVELS).astype(np.uint16)
        write_uint16(folder / f"{name}_confidence.png", confidence)
        camera = renderings.cameras[index]
        views.append(
            {
                "name": name,
                "intrinsics": camera.intrinsics.tolist(),
                "w2c": camera.w2c.tolist(),
                "near": near,
                "far": far,
            }
        )
    height, width = depth.shape[1:]
    about = {
        "depth": "camera z in scene units; 0 = unknown",
        "png_scale": scale,
        "confidence_scale": 1 / _LEVELS,
        "width": width,
        "height": height,
    }
    write_json(folder / "depth.json", {**about, "views": views})
    return {"views": len(views), "width": width, "height": height, "png_scale": scale}
