"""Look at a session in a browser: `python -m data.occupancy.view SESSION`.

docs/occupancy_data.md, "Check and look at sessions".

Plays the grids of a session; with `--compare`, a folder of grids of the same frames (such as render.forecast writes),
also those, and the voxels in which they differ.
"""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.occupancy.grids import add_grid_options, grid_of_options, has_grid_options
from data.occupancy.sessions import Session, read_grid_file, read_session
from data.occupancy.voxel_mesh import error_colors, exposed_faces, height_colors
from data.problems import Problems
from geometry import InputError, one_line_errors, require
from geometry.voxels import EgoGrid

RECORDED, COMPARED, ERRORS = "recorded", "compared", "errors"
_FRAME = re.compile(r"(\d{6,})_occupancy\.npz")


class Grids:
    """What there is to see of each frame."""

    def __init__(self, session: Session, compared: Path | None) -> None:
        """Raises an `InputError` where `compared` has no frame of the session."""
        self.session = session
        self.files: dict[int, Path] = {}
        if compared is not None:
            require(compared.is_dir(), f"--compare: expected a folder, got {compared}")
            folder = compared / "occupancy" if (compared / "occupancy").is_dir() else compared
            found = {int(match[1]): path for path in folder.iterdir() if (match := _FRAME.fullmatch(path.name))}
            self.files = {number: path for number, path in found.items() if number in session.numbers}
            require(
                len(self.files) > 0, f"--compare {folder}: expected grids *_occupancy.npz of frames of {session.name}"
            )
        self.numbers = tuple(sorted(self.files)) or session.numbers

    @property
    def kinds(self) -> tuple[str, ...]:
        """Ways to look."""
        return (RECORDED, COMPARED, ERRORS) if self.files else (RECORDED,)

    def mesh(self, number: int, kind: str) -> tuple[np.ndarray, np.ndarray, str]:
        """Triangles in the grid frame, their colors, and a line of numbers."""
        space: EgoGrid = self.session.info.space
        truth = self.session.occupancy(number) > 0
        other = truth
        if number in self.files:
            other = read_grid_file(self.files[number], space, ("occupancy",))["occupancy"] > 0
        shown = {RECORDED: truth, COMPARED: other, ERRORS: truth | other}[kind]
        triangles, cells = exposed_faces(shown, space.grid)
        is_error = kind == ERRORS
        colors = error_colors(other, truth, cells) if is_error else height_colors(cells, space.grid)
        line = f"frame {number:06d}: {100 * truth.mean():.2f} % occupied"
        if self.files:
            either = (truth | other).sum()
            line += f", IoU {(truth & other).sum() / either:.3f}" if either else ", both empty"
        return triangles, colors, line


def serve(grids: Grids, *, port: int, period: float, seconds: float | None) -> None:
    """Serve the page until Ctrl-C, or for some seconds."""
    import trimesh

    from data.private_server import PrivateServer  # viser is slow to import, and nothing else here needs it

    server = PrivateServer(port=port)
    try:
        server.scene.set_up_direction("+z")
        last = len(grids.numbers) - 1
        frame = server.gui.add_slider("frame", min=0, max=max(last, 1), step=1, initial_value=0)
        kind = server.gui.add_dropdown("show", grids.kinds)
        plays = server.gui.add_checkbox("play", initial_value=False)
        line = server.gui.add_markdown("")
        server.scene.add_frame("/vehicle", axes_length=2.0, axes_radius=0.1)

        def show(*_: object) -> None:
            triangles, colors, text = grids.mesh(grids.numbers[min(int(frame.value), last)], kind.value)
            faces = np.arange(3 * len(triangles)).reshape(-1, 3)
            mesh = trimesh.Trimesh(triangles.reshape(-1, 3), faces, process=False)
            mesh.visual.face_colors = np.concatenate([255 * colors, np.full((len(colors), 1), 255)], axis=1)
            server.scene.add_mesh_trimesh("/grid", mesh)
            line.content = text

        frame.on_update(show)
        kind.on_update(show)
        show()
        sys.stdout.write(f"{grids.session.name}: {len(grids.numbers)} frames; http://localhost:{server.get_port()}\n")
        sys.stdout.flush()
        end = None if seconds is None else time.monotonic() + seconds
        while end is None or time.monotonic() < end:
            time.sleep(period if plays.value else 0.05)
            if plays.value:
                frame.value = (int(frame.value) + 1) % (last + 1)
    finally:
        server.stop()


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m data.occupancy.view", description=__doc__.splitlines()[0])
    parser.add_argument("session", type=Path, metavar="SESSION", help="folder drone_* or rover_*")
    parser.add_argument("--compare", type=Path, help="folder of grids of the same frames")
    parser.add_argument("--port", type=int, default=8080, help="of the page; 0: any that is free")
    parser.add_argument("--seconds", type=float, help="end after so long; default: on Ctrl-C")
    add_grid_options(parser)
    options = parser.parse_args(arguments)
    require(0 <= options.port <= 65535, f"--port: expected 0 to 65535, got {options.port}")
    if not options.session.is_dir():
        raise InputError(f"{options.session}: expected the folder of a session")
    problems = Problems()
    is_told = (options.session / "session.json").is_file() and not has_grid_options(options)
    session = read_session(options.session, None if is_told else grid_of_options(options), problems.add)
    problems.announce(str(options.session))
    serve(Grids(session, options.compare), port=options.port, period=session.info.period, seconds=options.seconds)


if __name__ == "__main__":
    main()
