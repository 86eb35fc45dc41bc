"""The one thread that renders, for all clients."""

import threading
import time
import traceback
from collections.abc import Callable, Hashable
from typing import Any

from geometry import InputError
from render.viewer.schedule import Scheduler, Size, Task

Render = Callable[[Task, Callable[[], bool]], Any]
"""The picture of a task; None where it was abandoned because the function said that it is outdated."""


class RenderLoop:
    """Renders what is submitted, from `start` to `stop`."""

    def __init__(
        self,
        render: Render,
        show: Callable[[Task, Any, float], None],
        complain: Callable[[Hashable, str], None],
        between: Callable[[], bool] = lambda: False,
    ) -> None:
        """`show` gets every picture that is wanted and its seconds, `complain` a client and what went wrong, one line.

        `between` runs between pictures and at least twice a second, and says whether all pictures are to be made anew.
        What goes wrong in it is told to all clients, and the pictures stay as they are. No error ends the thread, which
        all clients share; one that is no `InputError` is shown on stderr as well.
        """
        self._render, self._show, self._complain, self._between = render, show, complain, between
        self._scheduler = Scheduler()
        self._latest: dict[Hashable, tuple[Any, Size]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="render", daemon=True)

    def start(self) -> None:
        """Begin to render."""
        self._thread.start()

    def stop(self) -> None:
        """End; a picture that is being rendered is abandoned."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def submit(self, client: Hashable, request: Any, full: Size) -> None:
        """What a client wants to see; what it already sees is not rendered again."""
        with self._changed:
            if self._latest.get(client) != (request, full):
                self._latest[client] = (request, full)
                self._scheduler.submit(client, request, full)
                self._changed.notify_all()

    def again(self, client: Hashable) -> None:
        """Render what a client sees once more."""
        with self._changed:
            if client in self._latest:
                self._scheduler.submit(client, *self._latest[client])
                self._changed.notify_all()

    def remove(self, client: Hashable) -> None:
        """A client is gone."""
        with self._changed:
            self._latest.pop(client, None)
            self._scheduler.remove(client)

    def _run(self) -> None:
        while not self._stopped:
            self._renew()
            with self._changed:
                task = self._scheduler.next()
                if task is None:
                    self._changed.wait(timeout=0.5)
                    continue
            self._one(task)

    def _renew(self) -> None:
        try:
            if not self._between():
                return
        except Exception as error:
            with self._changed:
                clients = list(self._latest)
            for client in clients:
                self._complain(client, _told(error))
            return
        with self._changed:
            for client, (request, full) in self._latest.items():
                self._scheduler.submit(client, request, full)

    def _one(self, task: Task) -> None:
        def is_outdated() -> bool:
            with self._changed:
                return self._stopped or self._scheduler.is_outdated(task)

        begin = time.monotonic()
        try:
            picture = self._render(task, is_outdated)
            if picture is None:
                return
            seconds = time.monotonic() - begin
            with self._changed:
                # the time of a picture for which sources had to be encoded says nothing about those after it
                wanted = self._scheduler.done(task, seconds, counts=not getattr(picture, "is_slow", False))
            if wanted:
                self._show(task, picture, seconds)
        except Exception as error:
            with self._changed:
                self._scheduler.failed(task)
            self._complain(task.client, _told(error))


def _told(error: Exception) -> str:
    """One line for a client."""
    if not isinstance(error, InputError):
        traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].removeprefix("InputError: ")
