"""pycolmap beside Pillow."""

import subprocess
import sys

_PNG_AFTER_PYCOLMAP = """
import data.colmap_library
import io
from PIL import Image
Image.effect_noise((64, 64), 50).save(io.BytesIO(), "png")
"""


def test_pillow_writes_png_in_a_process_that_loaded_pycolmap_first():
    """A process that imports pycolmap before anything with zlib aborts in Pillow's encoder."""
    ended = subprocess.run([sys.executable, "-c", _PNG_AFTER_PYCOLMAP], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
