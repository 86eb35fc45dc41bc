"""The render thread: everything in order, errors told, a clean end."""

import queue
import threading

import pytest

from geometry import InputError
from render.viewer.loop import RenderLoop

FULL = (64, 64)


def test_pictures_arrive_coarse_to_fine_and_equal_requests_once():
    shown: queue.Queue = queue.Queue()
    loop = RenderLoop(
        lambda task, is_outdated: task.size,
        lambda task, picture, seconds: shown.put((task.client, picture, task.is_last)),
        lambda task, message: shown.put(message),
    )
    loop.start()
    loop.submit("a", "here", FULL)
    assert shown.get(timeout=10) == ("a", FULL, True)
    loop.submit("a", "here", FULL)
    loop.submit("b", "here", FULL)
    assert shown.get(timeout=10) == ("b", FULL, True)
    loop.again("a")
    assert shown.get(timeout=10) == ("a", FULL, True)
    loop.remove("a")
    loop.again("a")
    loop.stop()
    assert shown.empty()
    assert not any(thread.name == "render" for thread in threading.enumerate())


def test_an_error_is_told_in_one_line_and_the_loop_goes_on():
    told: queue.Queue = queue.Queue()

    def render(task, is_outdated):
        if task.request == "bad":
            raise InputError("out of\nmemory")
        return task.request

    loop = RenderLoop(render, lambda task, picture, seconds: told.put(picture), lambda *said: told.put(said))
    loop.start()
    loop.submit("a", "bad", FULL)
    assert told.get(timeout=10) == ("a", "out of memory")
    loop.submit("a", "good", FULL)
    assert told.get(timeout=10) == "good"
    loop.stop()


def test_no_error_of_any_part_ends_the_thread(capsys: pytest.CaptureFixture[str]):
    told: queue.Queue = queue.Queue()
    new = threading.Event()

    def between() -> bool:
        if new.is_set():
            new.clear()
            raise InputError("another model")
        return False

    def show(task, picture, seconds):
        if task.request == "unseen":
            raise KeyError("gone")
        told.put(picture)

    loop = RenderLoop(lambda task, is_outdated: task.request, show, lambda *said: told.put(said), between)
    loop.start()
    loop.submit("a", "unseen", FULL)
    assert told.get(timeout=10) == ("a", "KeyError: 'gone'")
    assert "Traceback" in capsys.readouterr().err  # nobody's mistake but ours
    new.set()
    assert told.get(timeout=10) == ("a", "another model")
    loop.submit("a", "good", FULL)
    assert told.get(timeout=10) == "good"
    loop.stop()
    assert capsys.readouterr().err == ""


def test_a_new_model_makes_all_pictures_anew():
    shown: queue.Queue = queue.Queue()
    new = threading.Event()

    def between() -> bool:
        is_new = new.is_set()
        new.clear()
        return is_new

    loop = RenderLoop(
        lambda task, is_outdated: 1, lambda task, picture, seconds: shown.put(task.client), print, between
    )
    loop.start()
    loop.submit("a", "here", FULL)
    assert shown.get(timeout=10) == "a"
    new.set()
    assert shown.get(timeout=10) == "a"
    loop.stop()


def test_an_outdated_picture_is_abandoned_where_it_is():
    begun, shown = threading.Event(), queue.Queue()

    def render(task, is_outdated):
        if task.level == 1 and task.request == "first":
            begun.set()
            while not is_outdated():
                pass
            return None
        return task.size

    loop = RenderLoop(render, lambda task, picture, seconds: shown.put((task.request, task.level)), print)
    loop.start()
    loop.submit("a", "first", (480, 640))
    assert shown.get(timeout=10) == ("first", 0)
    assert begun.wait(timeout=10)
    loop.submit("a", "second", (480, 640))
    assert shown.get(timeout=10) == ("second", 0)
    loop.stop()
