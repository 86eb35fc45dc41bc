"""A page in the browser to fly through a scene.

python -m render.viewer --ckpt C --dataset_name dtu --datadir D --scan scan24
"""

import io
import ipaddress
import math
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import torch
import viser

from data.private_server import PrivateServer
from data.scene import PosedScene
from geometry import InputError, one_line_errors, require
from models.nerf.vggt_nerf import VGGTNeRF
from render.answering import NetworkAnswerer
from render.loading import load_for, precision_for, scenes_for, usable_device
from render.paths import read_path
from render.source_pool import SourcePool
from render.video import central_views, only_scene, pool_of
from render.viewer.editor import PathEditor, vertical_fov
from render.viewer.gauge import Gauge
from render.viewer.looks import rendered
from render.viewer.loop import RenderLoop
from render.viewer.options import ViewerOptions
from render.viewer.page import Page, thumbnails_of
from render.viewer.questions import Asking
from render.viewer.scene_renderer import SceneRenderer
from render.viewer.schedule import Size
from render.viewer.watch import WatchedRun
from training.checkpoint import Checkpoint
from training.cli import parse_options
from training.nerf.checkpoint import NerfRecord, read_nerf_checkpoint

_WAIT_SECONDS = 0.2
"""Between two looks at the clock, or at a run that has no checkpoint yet."""


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Parse options, serve the page until Ctrl-C."""
    options = parse_options(ViewerOptions, __doc__, argv)
    with served(options) as server:
        announce(options.host, server.get_port())
        is_over = _clock(options.seconds)
        try:
            while not is_over():
                time.sleep(_WAIT_SECONDS)
        except KeyboardInterrupt:
            sys.stdout.write("\n")


@contextmanager
def served(options: ViewerOptions) -> Iterator[viser.ViserServer]:
    """The page's server, up as long as the block runs.

    Raises:
        InputError: for anything the user can correct, before the server is up.
    """
    _require_free(options.host, options.port)
    device = usable_device(options.device)
    run = WatchedRun(Path(options.watch)) if options.watch else None
    checkpoint = read_nerf_checkpoint(Path(options.ckpt)) if run is None else _awaited(run, options.seconds)
    record = checkpoint.record
    scene = only_scene(scenes_for(record, options, (options.scan,) if options.scan else (), split="all"))
    pool = SourcePool.of(scene, pool_of(scene, options.source_views, options.n_views), options.imgScale_test)
    renderer = SceneRenderer(
        load_for(options, checkpoint, device, [scene]),
        scene,
        pool,
        device,
        scale=options.imgScale_test,
        chunk=options.chunk,
        precision=precision_for(options, record, device),
    )
    asking = _asking(options, scene, pool, device)
    gauge = Gauge.of(pool)
    pages: dict[int, Page] = {}

    def reloaded() -> bool:
        newest = None if run is None else run.newest()
        if newest is not None:
            renderer.use(load_for(options, newest, device, [scene]))
        return newest is not None

    loop = RenderLoop(
        render=lambda task, is_outdated: rendered(task, renderer, gauge, is_outdated),
        show=lambda task, picture, seconds: _to(
            pages, task.client, lambda page: page.show(task, picture, seconds, run.status if run else "")
        ),
        complain=lambda client, message: _to(pages, client, lambda page: page.say(message)),
        between=reloaded,
    )
    editor_of = partial(_editor, Path(options.path), scene.image_size(pool.ids[0]))
    editor_of()  # a file that cannot be read is refused before the server is up
    thumbnails = thumbnails_of(renderer)
    server = _server(options, gauge, pool, central_views(scene, pool.ids, options.n_views)[0])
    _add_points(server, scene, gauge)

    @server.on_client_connect
    def _(client: viser.ClientHandle) -> None:
        page = pages[client.client_id] = Page(
            client,
            renderer,
            gauge,
            loop,
            thumbnails,
            fov=server.initial_camera.fov,  # which the client may not have taken yet
            n_views=options.n_views,
            max_side=options.max_side,
            path_file=Path(options.path),
            editor=editor_of(lambda message: client.add_notification("Viewer", message)),
            asking=asking,
        )
        page.changed()
        if client.client_id not in server.get_clients():  # gone before the page was there
            gone(client)

    @server.on_client_disconnect
    def gone(client: viser.ClientHandle) -> None:
        page = pages.pop(client.client_id, None)
        if page is not None:
            page.close()

    loop.start()
    try:
        yield server
    finally:
        loop.stop()
        with redirect_stdout(io.StringIO()):
            server.stop()


def _asking(options: ViewerOptions, scene: PosedScene, pool: SourcePool, device: torch.device) -> Asking | None:
    """What questions are asked of, with --qa_ckpt."""
    if not options.qa_ckpt:
        return None
    answerer = NetworkAnswerer.load(
        options.qa_ckpt, device, language_model=options.qa_language_model, vggt_ckpt=options.qa_vggt_ckpt
    )
    return Asking.about(scene, pool, answerer, options.qa_views)


def _server(options: ViewerOptions, gauge: Gauge, pool: SourcePool, first: int) -> PrivateServer:
    """With the first camera where a view in the middle of the pool is."""
    with redirect_stdout(io.StringIO()):  # viser's box of addresses; ours are announced when all is ready
        server = PrivateServer(host=options.host, port=options.port, label="Radiance field")
    server.gui.configure_theme(show_logo=False, show_share_button=False, dark_mode=True)
    server.scene.set_up_direction(tuple(gauge.up.tolist()))
    index = pool.ids.index(first)
    position = gauge.to_page(pool.cameras.centers[index])
    forward, down = pool.cameras.w2c[index, 2, :3].double(), pool.cameras.w2c[index, 1, :3]
    server.initial_camera.position = tuple(position.tolist())
    server.initial_camera.look_at = tuple((position + forward).tolist())
    server.initial_camera.up = tuple((-down).tolist())
    server.initial_camera.fov = vertical_fov(pool.cameras, index)
    return server


def _add_points(server: viser.ViserServer, scene: PosedScene, gauge: Gauge) -> None:
    """Sparse points that came with the cameras, where there are any; hidden at first, for they lie in the picture."""
    points = getattr(scene, "points", None)
    if points is None or not len(points.points_world):
        return
    there = gauge.to_page(torch.from_numpy(np.asarray(points.points_world))).numpy().astype(np.float32)
    cloud = server.scene.add_point_cloud("/points", there, colors=(255, 220, 120), point_size=0.004, visible=False)
    with server.gui.add_folder("Scene"):
        shown = server.gui.add_checkbox("Sparse points", False)
    shown.on_update(lambda _: setattr(cloud, "visible", shown.value))


def _to(pages: dict[int, Page], client: int, act: Callable[[Page], None]) -> None:
    """Do something with the page of a client that is still there."""
    page = pages.get(client)
    if page is not None:
        act(page)


def _editor(file: Path, image_size: Size, complain: Callable[[str], object] | None = None) -> PathEditor:
    """With the path that is in the file now, if there is one; `complain` hears why it cannot be read.

    Sizes are those of the scene's images as they are: `render.video` scales them by its own `--imgScale_test`.
    """
    editor = PathEditor(image_size)
    try:
        if file.exists():
            editor.take(read_path(file, image_size))
    except InputError as error:
        if complain is None:
            raise
        complain(str(error))
    return editor


def _awaited(run: WatchedRun, seconds: float) -> Checkpoint[NerfRecord, VGGTNeRF]:
    """The first checkpoint of a run, within so many seconds; 0: however long it takes."""
    said, is_over = "", _clock(seconds)
    while (checkpoint := run.newest()) is None:
        if run.status != said:
            said = run.status
            sys.stdout.write(f"{said}\n")
            sys.stdout.flush()
        require(not is_over(), f"--watch: expected a checkpoint within --seconds {seconds:g}, got none: {run.status}")
        time.sleep(_WAIT_SECONDS)
    return checkpoint


def _clock(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds from now are over; 0: never."""
    end = time.monotonic() + (seconds or math.inf)
    return lambda: time.monotonic() >= end


def _require_free(host: str, port: int) -> None:
    """Before the model is loaded; viser would silently take another port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # Unicode: a part of the name that no name can have
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"--host {host} --port {port}: expected an address to listen on, got: {reason}") from None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Of a host that was listened on."""
    return ipaddress.ip_address(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


def announce(host: str, port: int) -> None:
    """Where the page is, and who can reach it."""
    here = _address(host)
    name = "localhost" if here.is_loopback or here.is_unspecified else f"[{here}]" if here.version == 6 else here
    lines = [f"open http://{name}:{port}"]
    if here.is_loopback:
        lines.append(f"from another machine: ssh -L {port}:localhost:{port} <this machine>, then the same address")
    else:
        lines.append("everybody who can reach this address can look and change the camera path")
    sys.stdout.write("\n".join([*lines, "Ctrl-C ends it", ""]))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
