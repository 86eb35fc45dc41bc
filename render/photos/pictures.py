"""Pictures of the report: panels of held-out views, thumbnails; everything as JPEG, which a page can hold."""

import base64
import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.image_io import read_image, write_image
from render.evaluate import Rendering
from render.scoring import nearest_source
from training.pictures import as_bytes, colored_depth

_QUALITY = 80
"""Of JPEG, where 95 is the file on disk: half the bytes, hardly visible at the size of a page."""
PANELS = ("truth", "general", "finetuned", "nearest", "depth")
"""Of a held-out view, as the report shows them from left to right."""


class PanelWriter:
    """Writes the panels of every rendered view: VIEW_PANEL.png."""

    def __init__(self, folder: Path, kind: str) -> None:
        """`kind`: panel that the rendered colors are."""
        self.folder = folder
        self.kind = kind

    def __call__(self, rendering: Rendering) -> None:
        """Truth, nearest source, rendered colors and depth, of which the latest wins."""
        near, far = rendering.truth.near[0].item(), rendering.truth.far[0].item()  # rays may start and end far outside
        panels = {
            "truth": rendering.truth.images[0].permute(1, 2, 0),
            "nearest": nearest_source(rendering.source, rendering.truth),
            self.kind: rendering.rendered.rgb,
            "depth": colored_depth(rendering.rendered.depth, near, far),
        }
        for name, panel in panels.items():
            write_image(panel_path(self.folder, rendering.target.view_id, name), as_bytes(panel))


def panel_path(folder: Path, view: int, panel: str) -> Path:
    """Where a panel of a view lies, if there is one."""
    return folder / f"{view:04d}_{panel}.png"


def embedded(path: Path, side: int) -> str:
    """An image file as the source of an `img` in a page, its longer side at most `side` pixels."""
    return data_uri(reduced(read_image(path), side))


def reduced(image: UInt8[np.ndarray, "height width 3"], side: int) -> UInt8[np.ndarray, "rows cols 3"]:
    """Its longer side at most `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def data_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """JPEG within the page itself."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
