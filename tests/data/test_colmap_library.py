"""pycolmap beside Pillow and signals."""

import signal
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


_ENDED_AFTER_PYCOLMAP = """
import data.colmap_library
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_is_asked_to_end_does_so_without_a_stack_trace():
    ended = subprocess.run([sys.executable, "-c", _ENDED_AFTER_PYCOLMAP], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")
