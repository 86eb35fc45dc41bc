"""Pages are for this machine alone, and take no files."""

import contextlib
import http.client
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from viser import _messages

from data.private_server import PrivateServer


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
