"""viser's server as every page here uses it: this machine alone, no public tunnel, no uploads, no other sites."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import viser
import websockets.asyncio.server
from viser import _messages

from geometry import require

LOCALHOST = "127.0.0.1"
_LOOPBACK = (LOCALHOST, "localhost", "::1")
_MOST_PORT = 2**16 - 1


class PrivateServer(viser.ViserServer):
    """Nothing leaves this machine unless somebody connects to it: viser's public tunnel cannot be asked for.

    No page has anything to upload to, and viser would keep the parts of a file sent to any control of a page until it
    is whole: they are not taken. Browsers let any site connect to what listens on their own machine: connections are
    taken from the page itself alone (`is_foreign`). What is sent in the place of a page has no bounds: a control takes
    values that its page could have set, and no others.

    Raises:
        InputError: for a port that there is not; viser would never return.
    """

    def __init__(self, host: str = LOCALHOST, port: int = 8080, label: str | None = None) -> None:
        require(0 <= port <= _MOST_PORT, f"--port: expected 0 (any) to {_MOST_PORT}, got {port}")
        with _asked_first(functools.partial(is_foreign, host)):
            super().__init__(host=host, port=port, label=label, verbose=False)
        _limit(self.gui)

        @self.on_client_connect
        async def _(client: viser.ClientHandle) -> None:  # at once, before a page has controls
            _limit(client.gui)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """There is none."""
        return None


def is_foreign(host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from another site than the one it is made to.

    `host`: what is listened on. If it is this machine alone, the name asked for is this machine's, too, and none that
    somebody else points here (DNS rebinding).
    """
    origin, asked = headers.get("Origin"), headers.get("Host", "")
    try:
        name = urlsplit(f"//{asked}").hostname
        return (host in _LOOPBACK and name not in _LOOPBACK) or (origin or "//" + asked).partition("//")[2] != asked
    except ValueError:  # no address
        return True


@contextlib.contextmanager
def _asked_first(is_refused: Callable[[Mapping[str, str]], bool]) -> Iterator[None]:
    """A server that is started in this block refuses requests by their headers; viser has no place for that."""
    serve = websockets.asyncio.server.serve

    def guarded(*args: Any, process_request: Callable[..., Any], **how: Any) -> Any:
        def process(connection: websockets.asyncio.server.ServerConnection, request: Any) -> Any:
            if is_refused(request.headers):
                return connection.respond(HTTPStatus.FORBIDDEN, "a request of another site\n")
            return process_request(connection, request)

        return serve(*args, process_request=process, **how)

    websockets.asyncio.server.serve = guarded  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        websockets.asyncio.server.serve = serve  # type: ignore[misc]


def _limit(gui: viser.GuiApi) -> None:
    """No uploads, no impossible values; viser has no public way to say either."""
    take = gui._handle_gui_updates

    async def take_possible(client: Any, message: _messages.GuiUpdateMessage) -> None:
        control = gui._gui_input_handle_from_uuid.get(message.uuid)
        if message.updates.keys() == {"value"} and is_possible(control, message.updates["value"]):
            await take(client, message)

    gui._websock_interface.unregister_handler(_messages.GuiUpdateMessage, take)
    gui._websock_interface.register_handler(_messages.GuiUpdateMessage, take_possible)
    handlers = {
        _messages.FileTransferStartUpload: gui._handle_file_transfer_start,
        _messages.FileTransferPart: gui._handle_file_transfer_part,
    }
    for message, handler in handlers.items():
        gui._websock_interface.unregister_handler(message, handler)


def is_possible(control: Any, value: object) -> bool:
    """Whether a control (a handle of viser's) can have a value: within its ends, one of its options."""
    low, high = (getattr(control, name, None) for name in ("min", "max"))
    options = getattr(control, "options", None)
    if isinstance(low, int | float) or isinstance(high, int | float):
        low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
        return isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
    return options is None or value in tuple(options)
