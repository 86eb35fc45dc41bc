"""One exception for a user's mistake, and the one place that turns it into one line and an exit status."""

import contextlib
import functools
import re
import signal
import sys
from collections.abc import Callable, Iterator

_LONGEST = 1000
"""Characters of a message."""
_BREAK = re.compile(r"\s*[\r\n]\s*")
_FROM_PROCESS = re.compile(r"Caught \w+ in DataLoader worker process")
"""So begins what torch makes of an error of a data-loading process."""


class InputError(ValueError):
    """Bad input from outside the program. The message names what, where, expected and got, in one line.

    What it quotes from a file may be of any length and hold any character: the middle of a long message is left out,
    line breaks become spaces, and what cannot be printed is escaped.
    """

    def __str__(self) -> str:
        """The message in one readable line."""
        message = super().__str__()
        if _FROM_PROCESS.match(message):  # with a traceback: `one_line_errors` takes the message out of it
            return message
        return _shortened("".join(one if one.isprintable() else ascii(one)[1:-1] for one in _shortened(message)))


def _shortened(message: str) -> str:
    message = _BREAK.sub(" ", message)
    return message if len(message) <= _LONGEST else f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM): what ends well after Ctrl-C does so after this, too."""


def require(condition: bool, message: str) -> None:
    """Raise an `InputError` with this message unless the condition holds."""
    if not condition:
        raise InputError(message)


def _terminate(*_: object) -> None:
    raise Terminated


def is_sigterm_like_ctrl_c() -> bool:
    """Whether this is such a block (`sigterm_like_ctrl_c`): SIGTERM is to end more than what runs in it."""
    return signal.getsignal(signal.SIGTERM) is _terminate


@contextlib.contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """SIGTERM, which would end the process at once, raises `Terminated` in this block.

    Without effect in any but the main thread, which alone may set handlers.
    """

    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, TypeError):  # TypeError: a handler that Python has not set
            signal.signal(signal.SIGTERM, before)


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: an `InputError` becomes `error: ...` on stderr and exit status 2, no traceback.

    Ctrl-C ends with status 130, `Terminated` with 143. An error from a data-loading process arrives with that process's
    traceback around its message; only the message is shown.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except InputError as error:
            message = str(error).rstrip().rpartition(f"{type(error).__name__}: ")[2]
            print(f"error: {message}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
        except KeyboardInterrupt as stop:
            print("interrupted", file=sys.stderr)  # noqa: T201
            number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
            raise SystemExit(128 + number) from None

    return wrapped
