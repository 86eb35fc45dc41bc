"""Pages are for this machine alone, and take no files."""

import contextlib
import io
from collections.abc import Iterator

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


def test_uploads_are_not_taken(server: PrivateServer) -> None:
    handlers = server.gui._websock_interface._incoming_handlers
    assert not handlers.get(_messages.FileTransferStartUpload)
    assert not handlers.get(_messages.FileTransferPart)
    assert handlers.get(_messages.GuiUpdateMessage)
