"""pycolmap, loaded so that Pillow goes on working: everything else takes it from here.

The system's libz, where pycolmap is the first in a process to load it, binds to symbols of another zlib, and Pillow's
PNG encoder then aborts the process. Python's own zlib module loads it before.
"""

import zlib  # noqa: F401 - before pycolmap

import pycolmap

__all__ = ["pycolmap"]
