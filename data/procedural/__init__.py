"""Ray-traced scenes with exact depth, written in the layouts of real data sets: `python -m data.procedural --help`.

`make_scene` draws a scene from a seed, `rigs` holds cameras, `motions` and `rooms` what else a stream of groups for
VGGT is seen by and made of (data/multi_view/procedural_stream.py), `render_view` photographs, `writers` and
`sequence_writers` know the layouts, `generate` fills a folder in parallel. A scene depends on (seed, index) only.
"""

from data.procedural.rigs import dtu_rig, orbit_rig
from data.procedural.scene import Scene, make_scene
from data.procedural.tracer import RenderedView, render_view

__all__ = ["RenderedView", "Scene", "dtu_rig", "make_scene", "orbit_rig", "render_view"]
