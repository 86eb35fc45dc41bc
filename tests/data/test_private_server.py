"""Pages are for this machine alone, and take no files."""

import asyncio
import base64
import contextlib
import http.client
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import viser
from viser import _messages

from data.private_server import PrivateServer, is_foreign
from geometry import InputError


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with contextlib.redirect_stdout(io.StringIO()):
        up = PrivateServer(port=0)
        yield up
        up.stop()


def test_it_listens_on_this_machine_alone(server: PrivateServer) -> None:
    assert server.get_host() == "127.0.0.1"
    assert server.request_share_url() is None


@pytest.mark.parametrize(
    "path",
    [
        f"/{'../' * 12}etc/passwd",
        f"/{'%2e%2e/' * 12}etc/passwd",
        f"/{'..%2f' * 12}etc%2fpasswd",
        f"/assets/{'..%5c' * 12}etc%5cpasswd",
        f"/{'%252e%252e/' * 12}etc/passwd",
        "//etc/passwd",
    ],
)
def test_no_file_of_this_machine_is_served(path: str, server: PrivateServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.get_port(), timeout=30)
    connection.request("GET", path)
    content = connection.getresponse().read()
    connection.close()
    assert Path("/etc/passwd").read_bytes()[:20] not in content


def test_uploads_are_not_taken(server: PrivateServer) -> None:
    handlers = server.gui._websock_interface._incoming_handlers
    assert not handlers.get(_messages.FileTransferStartUpload)
    assert not handlers.get(_messages.FileTransferPart)
    assert handlers.get(_messages.GuiUpdateMessage)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Host": "localhost:{port}", "Origin": "http://localhost:{port}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, 403),
        ({"Host": "evil.example:{port}"}, 403),
        ({"Host": "[evil"}, 403),
    ],
)
@pytest.mark.parametrize("upgrade", [False, True])
def test_other_sites_cannot_connect(headers: dict[str, str], status: int, upgrade: bool, server: PrivateServer) -> None:
    """A browser sends their name along, or the name by which it was led here."""
    port = server.get_port()
    sent = {name: value.format(port=port) for name, value in headers.items()}
    if upgrade:
        key = base64.b64encode(bytes(16)).decode()
        sent |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": key}
        sent |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Protocol": f"viser-v{viser.__version__}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers=sent)
    assert connection.getresponse().status == (101 if upgrade and status == 200 else status)
    connection.close()


@pytest.mark.parametrize(("host", "foreign"), [("0.0.0.0", False), ("localhost", True)])
def test_names_count_where_a_page_is_for_this_machine_alone(host: str, foreign: bool) -> None:
    assert is_foreign(host, {"Host": "lab.example:80"}) is foreign
    assert is_foreign(host, {"Host": "lab.example:80", "Origin": "https://other.example"})


@pytest.mark.parametrize("port", [-1, 2**16, 70_000])
def test_a_port_that_there_is_not(port: int) -> None:
    with pytest.raises(InputError, match="--port: expected 0 "):
        PrivateServer(port=port)


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        *[("slider", value, value == 8) for value in (8, 9, -1, 1e9, math.nan, "8", None)],
        *[("number", value, value == 1e9) for value in (1e9, 0, math.inf)],
        *[("choice", value, value == "b") for value in ("b", "../b", 3)],
        ("text", "b", True),
    ],
)
def test_controls_take_what_the_page_could_have_set(
    name: str, value: object, taken: bool, server: PrivateServer
) -> None:
    gui = server.gui
    controls: dict[str, Any] = {
        "slider": lambda: gui.add_slider("a", 2, 8, 1, 2),
        "number": lambda: gui.add_number("a", 1, min=1, step=1),
        "choice": lambda: gui.add_dropdown("a", ("a", "b")),
        "text": lambda: gui.add_text("a", "a"),
    }
    control = controls[name]()
    before = control.value
    handlers: Any = gui._websock_interface._incoming_handlers[_messages.GuiUpdateMessage]
    (handler,) = handlers
    asyncio.run(handler(0, _messages.GuiUpdateMessage(control._impl.uuid, {"value": value})))
    asyncio.run(handler(0, _messages.GuiUpdateMessage(control._impl.uuid, {"update_cb": []})))
    assert (control.value == value) is taken
    assert taken or control.value == before
    control.remove()
