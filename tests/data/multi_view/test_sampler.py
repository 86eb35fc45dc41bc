"""Which groups a batch holds: budget, equal shapes on all processes, mixing, resuming."""

from dataclasses import replace

import pytest

from data.multi_view.sampler import BatchShape, GroupSampler
from geometry import InputError

SHAPE = BatchShape(image_size=112, aspect=(0.33, 1.0), patch_size=14, n_views=(2, 24), max_img_per_gpu=48)


def sampler(rank: int = 0, world_size: int = 1, first: int = 0, **changes: object) -> GroupSampler:
    settings = {"lengths": (500, 300), "weights": (10_000, 2_000), "shape": SHAPE, "batches_per_epoch": 10, "seed": 3}
    settings |= changes
    lengths, weights, shape = (settings.pop(name) for name in ("lengths", "weights", "shape"))
    return GroupSampler(lengths, weights, shape, rank=rank, world_size=world_size, next_batch=lambda: first, **settings)


def test_every_batch_fits_the_budget_and_is_of_one_shape() -> None:
    counts, heights = set(), set()
    for batch in range(300):
        keys = sampler().keys_of(batch)
        ((num_frames, height, width),) = {(key.num_frames, key.height, key.width) for key in keys}
        assert len(keys) == 48 // num_frames
        assert len(keys) * num_frames <= 48
        assert (width, height % 14) == (112, 0)
        counts.add(num_frames)
        heights.add(height)
    assert counts == set(range(2, 25))
    assert heights == {28, 42, 56, 70, 84, 98, 112}


def test_processes_agree_on_the_shape_and_share_the_items() -> None:
    for batch in range(30):
        parts = [sampler(rank, 3).keys_of(batch) for rank in range(3)]
        assert len({(key.num_frames, key.height, key.width) for part in parts for key in part}) == 1
        assert len({len(part) for part in parts}) == 1
        items = [(key.source, key.item) for part in parts for key in part]
        assert len(set(items)) == len(items)
        assert len({key.seed for part in parts for key in part}) == len(items)


def test_two_processes_share_what_one_with_twice_the_budget_sees() -> None:
    small = replace(SHAPE, n_views=(4, 4), max_img_per_gpu=8)
    big = replace(small, max_img_per_gpu=16)
    for batch in range(20):
        alone = sampler(shape=big).keys_of(batch)
        shared = [key for rank in range(2) for key in sampler(rank, 2, shape=small).keys_of(batch)]
        assert sorted(alone, key=lambda key: key.seed) == sorted(shared, key=lambda key: key.seed)


def test_len_train_sets_the_mixing_ratio() -> None:
    keys = [key for batch in range(400) for key in sampler().keys_of(batch)]
    second = sum(key.source == 1 for key in keys)
    expected = len(keys) / 6
    spread = (len(keys) * 1 / 6 * 5 / 6) ** 0.5
    assert abs(second - expected) < 3 * spread
    # within a source all items are equally likely: chi square of 300 items, 99.9 % quantile 380
    counts = [0] * 300
    for key in keys:
        if key.source == 1:
            counts[key.item] += 1
    mean = second / 300
    assert sum((count - mean) ** 2 / mean for count in counts) < 380


def test_a_source_smaller_than_the_batch_repeats_its_items_evenly() -> None:
    keys = sampler(lengths=(3,), weights=(1,), shape=replace(SHAPE, n_views=(4, 4))).keys_of(0)
    counts = [sum(key.item == item for key in keys) for item in range(3)]
    assert counts == [4, 4, 4]


def test_an_epoch_has_exactly_its_batches_and_resumes_in_the_middle() -> None:
    whole = list(sampler())
    assert len(whole) == len(sampler()) == 10
    assert list(sampler(first=4)) == whole[4:]
    following = list(sampler(first=10))
    assert len(following) == 10
    assert following[0] == sampler().keys_of(10) != whole[0]
    assert list(sampler(seed=4)) != whole


def test_sizes_to_evaluate_at() -> None:
    shape = replace(SHAPE, image_size=160, patch_size=8)
    assert shape.fitted(512, 640) == (128, 160)
    assert shape.fitted(640, 512) == (160, 128)
    assert shape.fitted(30, 640) == (8, 160)
    assert replace(SHAPE, image_size=518).fitted(512, 640) == (420, 518)
    assert shape.size(0.8) == (128, 160)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 115}, r"^--image_size: expected a multiple of the patch size 14, got 115$"),
        ({"aspect": (0.0, 1.0)}, r"^--aspect: expected height / width as low high, above 0, got 0 1$"),
        ({"aspect": (0.1, 1.0)}, r"at least one patch \(14 pixels\) high, got 11.2 at aspect 0.1$"),
        ({"n_views": (5, 4)}, r"^--n_views: expected numbers of frames as low high, got 5 4$"),
        ({"max_img_per_gpu": 23}, r"^--max_img_per_gpu 23: expected at least the most frames of a group"),
    ],
)
def test_impossible_shapes_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SHAPE, **changes)


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"^--len_train: expected one positive number per data set \(2\), got \[1\]$"):
        sampler(weights=(1,))
    with pytest.raises(InputError, match="--len_train"):
        sampler(weights=(1, 0))


PUBLISHED = (1.0, 0.757, 0.649, 0.568, 0.486, 0.324, 1.321, 1.542, 1.762, 2.056)
"""Height / width of 518x518, 518x392, 518x336, 518x294, 518x252, 518x168, and upright 392, 336, 294 and 252 wide."""


def test_a_list_of_aspects_keeps_the_longer_side_and_the_budget() -> None:
    shape = BatchShape(image_size=518, aspect=PUBLISHED, patch_size=14, n_views=(4, 4), max_img_per_gpu=12)
    found: dict[tuple[int, int], int] = {}
    for batch in range(400):
        keys = sampler(shape=shape).keys_of(batch)
        assert len(keys) == 3  # whatever the aspect, also with one number of views
        ((height, width),) = {(key.height, key.width) for key in keys}
        found[height, width] = found.get((height, width), 0) + 1
    flat = [(short, 518) for short in (168, 252, 294, 336, 392, 518)]
    assert set(found) == {*flat, *((518, short) for short in (252, 294, 336, 392))}
    assert min(found.values()) > 40 - 4 * 6  # four standard deviations
    assert max(found.values()) < 40 + 4 * 6


def test_in_turn_every_group_of_an_epoch_is_seen_once_on_one_process_or_on_three() -> None:
    """The reference leaves 19 of 60 groups of such an epoch out."""
    shape = replace(SHAPE, n_views=(2, 4), max_img_per_gpu=12)
    settings = {"lengths": (20, 7), "weights": (40, 20), "shape": shape, "in_turn": True, "seed": 0}
    orders = []
    for seed in (0, 1):
        alone = sampler(**(settings | {"seed": seed}))
        seen = [(key.source, key.item) for batch in range(40) for key in alone.keys_of(batch)]
        for epoch in range(2):
            part = seen[60 * epoch : 60 * epoch + 60]
            assert all(part.count((0, item)) == 2 for item in range(20))
            assert all(part.count((1, item)) in (2, 3) for item in range(7))
        orders.append(seen[:60])
        assert seen[:60] != seen[60:120]
    assert orders[0] != orders[1]  # 0 is a seed like any other
    ranks = [sampler(rank, 3, **settings) for rank in range(3)]
    parts = [[one.keys_of(batch) for one in ranks] for batch in range(12)]
    assert all(len({len(keys) for keys in batch}) == 1 for batch in parts)
    together = [
        (batch[number % 3][number // 3].source, batch[number % 3][number // 3].item)
        for batch in parts
        for number in range(3 * len(batch[0]))
    ]
    assert sorted(together[:60]) == sorted(orders[0])
    assert sampler(**settings).keys_of(17) == [sampler(**settings).keys_of(at) for at in range(18)][17]  # resumed
