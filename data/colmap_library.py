"""pycolmap, loaded so that the rest of the process goes on working: everything else takes it from here.

The system's libz, where pycolmap is the first in a process to load it, binds to symbols of another zlib, and Pillow's
PNG encoder then aborts the process. Python's own zlib module loads it before. And pycolmap takes over SIGTERM, to print
a stack trace of C++ when a process is asked to end; what was there before is put back.
"""

import contextlib
import signal
import zlib  # noqa: F401 - before pycolmap

_before = signal.getsignal(signal.SIGTERM)

import pycolmap  # noqa: E402 - the handler before it

with contextlib.suppress(ValueError):  # not the main thread, which alone may set handlers
    signal.signal(signal.SIGTERM, _before)

__all__ = ["pycolmap"]
