"""One exception for a user's mistake, and the one place that turns it into one line and an exit status."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input from outside the program. The message names what, where, expected and got, in one line."""


def require(condition: bool, message: str) -> None:
    """Raise an `InputError` with this message unless the condition holds."""
    if not condition:
        raise InputError(message)


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: an `InputError` becomes `error: ...` on stderr and exit status 2, no traceback.

    Ctrl-C ends with status 130. An error from a data-loading process arrives with that process's traceback around its
    message; only the message is shown.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except InputError as error:
            message = str(error).rstrip().rpartition(f"{type(error).__name__}: ")[2]
            print(f"error: {message}", file=sys.stderr)  # noqa: T201
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)  # noqa: T201
            raise SystemExit(130) from None

    return wrapped
