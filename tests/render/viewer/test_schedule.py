"""What is rendered next, by hand."""

import pytest

from render.viewer.schedule import FIRST_SECONDS, Pace, Scheduler, sizes

FULL = (480, 640)


def test_sizes_double_up_to_the_full_one():
    assert sizes(FULL, 4800) == [(60, 80), (120, 160), (240, 320), FULL]
    assert sizes(FULL, 4799) == [(30, 40), (60, 80), (120, 160), (240, 320), FULL]
    assert sizes(FULL, 480 * 640) == [FULL]
    assert sizes(FULL, 1e9) == [FULL]
    assert sizes(FULL, 1)[0] == (30, 40)  # no fewer than 16 rows
    assert sizes((10, 10), 1) == [(10, 10)]


def test_pace_follows_what_was_measured():
    pace = Pace(1000)
    pace.measured((20, 50), 2 * FIRST_SECONDS)
    assert pace.pixels == pytest.approx(500)
    pace.measured((20, 25), FIRST_SECONDS / 1.5)
    assert pace.pixels == pytest.approx(750)
    pace.measured((20, 25), FIRST_SECONDS / 100)
    assert pace.pixels == pytest.approx(1500)  # at most twice as many at a time
    for _ in range(20):
        pace.measured((20, 25), 10.0)
    assert pace.pixels == 256


def test_a_camera_that_stands_still_is_refined_to_the_end():
    scheduler = Scheduler()
    assert scheduler.next() is None
    scheduler.submit("a", "here", FULL)
    seen = []
    while (task := scheduler.next()) is not None:
        assert task.request == "here"
        assert scheduler.done(task, FIRST_SECONDS)
        seen.append((task.size, task.level, task.is_last))
    assert [size for size, _, _ in seen] == sizes(FULL, Pace().pixels)
    assert [level for _, level, _ in seen] == list(range(len(seen)))
    assert [last for _, _, last in seen] == [False] * (len(seen) - 1) + [True]


def test_what_is_outdated_is_abandoned_but_for_coarse_pictures():
    scheduler = Scheduler()
    scheduler.submit("a", "here", FULL)
    coarse = scheduler.next()
    scheduler.submit("a", "there", FULL)
    assert not scheduler.is_outdated(coarse)
    assert scheduler.done(coarse, FIRST_SECONDS)  # shown, though the camera has moved on
    following = scheduler.next()
    assert (following.request, following.level) == ("there", 0)
    scheduler.done(following, FIRST_SECONDS)
    finer = scheduler.next()
    assert finer.level == 1
    assert not scheduler.is_outdated(finer)
    scheduler.submit("a", "back", FULL)
    assert scheduler.is_outdated(finer)
    assert not scheduler.done(finer, 1.0)
    assert scheduler.next().request == "back"


def test_clients_take_turns_and_coarse_pictures_come_first():
    scheduler = Scheduler()
    scheduler.submit("a", 1, FULL)
    scheduler.submit("b", 2, FULL)
    order = []
    for _ in range(4):
        task = scheduler.next()
        order.append((task.client, task.level))
        scheduler.done(task, FIRST_SECONDS)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    finer = scheduler.next()
    scheduler.submit("c", 3, FULL)
    assert scheduler.is_outdated(finer)
    assert scheduler.next().client == "c"
    scheduler.done(scheduler.next(), FIRST_SECONDS)
    assert not scheduler.is_outdated(finer)
    assert scheduler.next().client == "a"


def test_a_client_that_moves_all_the_time_leaves_others_their_coarse_pictures():
    scheduler = Scheduler()
    scheduler.submit("still", 0, FULL)
    served = []
    for step in range(6):
        scheduler.submit("moving", step, FULL)
        task = scheduler.next()
        served.append(task.client)
        scheduler.done(task, FIRST_SECONDS)
    assert served.count("still") == 1
    assert served.index("still") <= 1


def test_who_is_gone_or_fails_is_left_alone():
    scheduler = Scheduler()
    scheduler.submit("a", 1, FULL)
    task = scheduler.next()
    scheduler.failed(task)
    assert scheduler.next() is None
    scheduler.submit("a", 2, FULL)
    task = scheduler.next()
    assert task.request == 2
    scheduler.remove("a")
    assert scheduler.next() is None
    assert not scheduler.done(task, 1.0)


def test_time_for_encoding_sources_does_not_count():
    scheduler = Scheduler()
    scheduler.submit("a", 1, FULL)
    before = scheduler.pace.pixels
    scheduler.done(scheduler.next(), 5.0, counts=False)
    assert scheduler.pace.pixels == before
