"""The server in this process, over HTTP and in Debian's Chromium."""

import http.client
import io
import json
import math
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import viser
from PIL import Image

from geometry import InputError
from render.paths import read_path
from render.viewer import __main__ as module
from render.viewer.__main__ import announce, main, served
from render.viewer.editor import vertical_fov
from render.viewer.options import ViewerOptions
from tests.render.answering import BrightestView
from tests.render.tiny import HEIGHT, SCAN, WIDTH

SECONDS = 30
"""Until something is taken to never come."""


def options(general: Path, data_root: Path, folder: Path, **changes: object) -> ViewerOptions:
    values = {"scan": SCAN, "device": "cpu", "max_side": 40, "port": 0, "path": str(folder / "p.json"), **changes}
    return ViewerOptions(**{"ckpt": str(general), "datadir": str(data_root), **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("viewer")


@pytest.fixture(scope="module")
def server(general: Path, data_root: Path, folder: Path) -> Iterator[viser.ViserServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.NetworkAnswerer, "load", lambda *_, **__: BrightestView())
        with served(options(general, data_root, folder, imgScale_test=0.75, qa_ckpt="-", qa_views=3)) as up:
            yield up


def get(server: viser.ViserServer, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=SECONDS)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_page_is_there_on_this_machine_only(server: viser.ViserServer):
    status, content = get(server, "/")
    assert status == 200
    assert b"<html" in content
    assert server.get_host() == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets/..%5c..%5c..%5c..%5c..%5c..%5c..%5c..%5cetc%5cpasswd",
        "/%252e%252e/%252e%252e/%252e%252e/%252e%252e/%252e%252e/etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/?../../../../etc/passwd",
    ],
)
def test_no_file_of_the_machine_is_served(path: str, server: viser.ViserServer):
    _, content = get(server, path)
    assert b"root:" not in content


def test_the_page_cannot_be_made_public(server: viser.ViserServer):
    assert server.request_share_url() is None
    assert server._share_tunnel is None


class Left:
    """A page that nobody looks at."""

    closed: ClassVar[list[bool]] = []

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def changed(self) -> None:
        self.closed.append(False)

    def close(self) -> None:
        self.closed.append(True)


def test_the_page_of_a_visitor_who_left_while_it_was_made_is_closed(
    server: viser.ViserServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "Page", Left)
    *_, connected = server._client_connect_cb
    client = viser.ClientHandle.__new__(viser.ClientHandle)
    client.client_id = -1  # of no connection
    connected(client)
    assert Left.closed == [False, True]


def test_a_port_in_use(general: Path, data_root: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = f"--ckpt {general} --datadir {data_root} --scan {SCAN} --device cpu --port {port}"
        with pytest.raises(SystemExit) as stopped:
            main(words.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: --host 127.0.0.1 --port {port}: expected an address to listen on, got: address already in use\n"
    )


def test_the_command_ends_by_itself_and_shows_a_run(
    general: Path, data_root: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    (folder / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(general, folder / "run" / "checkpoints" / "last.ckpt")
    words = f"--watch {folder / 'run'} --datadir {data_root} --scan {SCAN} --device cpu --port 0 --seconds 0.1"
    main([*words.split(), "--path", str(folder / "other.json")])
    said = capsys.readouterr().out
    assert "open http://localhost:" in said
    assert "ssh -L" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "192.0.2.7", "2001:db8::7"])
def test_who_can_reach_the_page_is_said(host: str, capsys: pytest.CaptureFixture[str]):
    announce(host, 7)
    first, second, _ = capsys.readouterr().out.splitlines()
    names = {"192.0.2.7": "192.0.2.7", "2001:db8::7": "[2001:db8::7]"}
    assert first == f"open http://{names.get(host, 'localhost')}:7"
    assert second.startswith("from another machine: ssh" if host in ("127.0.0.1", "localhost", "::1") else "everybody")


@pytest.mark.parametrize("host", ["a" * 70, "."])
def test_what_cannot_be_a_host(host: str, general: Path, data_root: Path, folder: Path):
    with (
        pytest.raises(InputError, match=r"--host .*: expected an address to listen on, got: .*label"),
        served(options(general, data_root, folder, host=host)),
    ):
        pass


def test_a_run_is_waited_for_as_long_as_said(data_root: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "new").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(f"--watch {folder / 'new'} --datadir {data_root} --device cpu --port 0 --seconds 0.1".split())
    assert stopped.value.code == 2
    assert "--watch: expected a checkpoint within --seconds 0.1, got none: waiting for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ckpt": ""}, "--ckpt: expected a checkpoint file"),
        ({"watch": "runs"}, "--watch: expected no --ckpt beside it"),
        ({"ckpt": "", "watch": "nowhere"}, "--watch: expected a run folder, got 'nowhere'"),
        ({"port": 70000}, "--port: expected 0 to 65535, got 70000"),
        ({"max_side": 8}, "--max_side: expected 32 or more"),
        ({"path": "p.txt"}, r"--path: expected a name ending in \.json"),
        ({"seconds": -1.0}, "--seconds"),
    ],
)
def test_wrong_options(changes: dict, message: str, general: Path, data_root: Path, folder: Path):
    with pytest.raises(InputError, match=message):
        options(general, data_root, folder, **changes)


class Visitor:
    """A browser that looks at the page, and what it complained about."""

    def __init__(self, browser: Any, server: viser.ViserServer) -> None:
        self.page = browser.new_page(viewport={"width": 500, "height": 500})
        self.errors: list[str] = []
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{server.get_port()}")
        self.wait(lambda: "sources" in self.text() and "..." not in self.text())
        self.server = server

    @property
    def client(self) -> viser.ClientHandle:
        """Another one after every reload."""
        return max(self.server.get_clients().values(), key=lambda one: one.client_id)

    def text(self) -> str:
        return self.page.evaluate("document.body.innerText")

    def scene(self) -> np.ndarray:
        """The left edge, which no control covers."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))[150:450, :150].astype(int)

    def wait(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, f"it never came: {self.text()}"
            time.sleep(0.05)

    def wait_for_another_picture_than(self, before: np.ndarray) -> None:
        self.wait(lambda: np.abs(self.scene() - before).mean() > 3)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def download(self, name: str) -> bytes:
        with self.page.expect_download() as download:
            self.press(name)
        return Path(download.value.path()).read_bytes()


@pytest.fixture(scope="module")
def visitor(server: viser.ViserServer) -> Iterator[Visitor]:
    pytest.importorskip("playwright", reason="playwright is not installed (pip install -e .[browser])")
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=arguments)
        visitor = Visitor(browser, server)
        yield visitor
        browser.close()


def test_a_visitor_sees_the_scene_move_and_change_its_layer(visitor: Visitor):
    visitor.wait(lambda: visitor.scene().std() > 3)  # not one color
    first, before = visitor.scene(), visitor.client.camera.position
    mouse = visitor.page.mouse
    mouse.move(70, 300)
    mouse.down()
    mouse.move(140, 360, steps=3)
    mouse.up()
    visitor.wait_for_another_picture_than(first)
    assert np.abs(visitor.client.camera.position - before).max() > 1e-3
    moved = visitor.scene()
    visitor.page.locator('input[value="RGB"]').first.click()
    visitor.page.get_by_role("option", name="depth").click()
    visitor.wait_for_another_picture_than(moved)
    assert visitor.errors == []


def test_a_visitor_makes_a_path(visitor: Visitor, folder: Path):
    visitor.press("Add this view")
    visitor.wait(lambda: "1 key" in visitor.text())
    degrees = round(math.degrees(visitor.client.camera.fov))
    lens = visitor.page.locator(f'input[value="{degrees}"]:visible').first
    lens.fill("75")
    visitor.page.keyboard.press("Enter")  # the attribute that found the input has changed
    visitor.wait(lambda: abs(visitor.client.camera.fov - math.radians(75)) < 1e-3)
    visitor.press("Add this view")
    visitor.wait(lambda: "2 keys" in visitor.text())
    visitor.press("Delete key")  # number 1
    visitor.wait(lambda: "1 key" in visitor.text())
    visitor.press("Save as p.json")
    visitor.wait((folder / "p.json").exists)
    cameras = read_path(folder / "p.json", (1, 1)).cameras
    assert torch.isfinite(cameras.w2c[0]).all()
    assert vertical_fov(cameras) == pytest.approx(math.radians(75), abs=1e-3)
    assert (cameras.height, cameras.width) == (HEIGHT, WIDTH)  # render.video scales them by --imgScale_test
    assert json.loads(visitor.download("Download")) == json.loads((folder / "p.json").read_text())
    visitor.press("Delete last")
    visitor.wait(lambda: "0 keys" in visitor.text())
    visitor.page.reload()  # what was saved is there again
    visitor.wait(lambda: "1 key" in visitor.text())
    (folder / "p.json").write_text("{")
    visitor.page.reload()
    visitor.wait(lambda: "0 keys" in visitor.text())
    visitor.wait(lambda: "expected JSON" in visitor.text())
    assert visitor.errors == []


def test_a_visitor_asks_and_goes_to_the_view(visitor: Visitor):
    visitor.page.locator("input:visible").last.fill("which is brightest?")
    visitor.press("Ask")
    visitor.wait(lambda: "mostly from view" in visitor.text())
    assert "read of view 1" in visitor.text()
    before = visitor.client.camera.position
    visitor.press("Go to the view")
    visitor.wait(lambda: np.abs(visitor.client.camera.position - before).max() > 1e-3)
    assert visitor.errors == []


def test_a_visitor_takes_a_screenshot_and_leaves(visitor: Visitor, server: viser.ViserServer):
    with Image.open(io.BytesIO(visitor.download("Screenshot"))) as picture:
        assert picture.format == "PNG"
        assert max(picture.size) == 40
    assert visitor.errors == []
    visitor.page.goto("about:blank")
    visitor.wait(lambda: not server.get_clients())
