"""viser's server as every page here uses it: this machine alone, no public tunnel, no uploads."""

import viser
from viser import _messages

LOCALHOST = "127.0.0.1"


class PrivateServer(viser.ViserServer):
    """Nothing leaves this machine unless somebody connects to it: viser's public tunnel cannot be asked for.

    No page has anything to upload to, and viser would keep the parts of a file sent to any control of a page until it
    is whole: they are not taken.
    """

    def __init__(self, host: str = LOCALHOST, port: int = 8080, label: str | None = None) -> None:
        super().__init__(host=host, port=port, label=label, verbose=False)
        _refuse_uploads(self.gui)

        @self.on_client_connect
        async def _(client: viser.ClientHandle) -> None:  # at once, before a page has controls
            _refuse_uploads(client.gui)

    def request_share_url(self, verbose: bool = True) -> str | None:
        """There is none."""
        return None


def _refuse_uploads(gui: viser.GuiApi) -> None:
    handlers = {
        _messages.FileTransferStartUpload: gui._handle_file_transfer_start,
        _messages.FileTransferPart: gui._handle_file_transfer_part,
    }
    for message, handler in handlers.items():
        gui._websock_interface.unregister_handler(message, handler)
