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
    assert shape.height(0.8) == 128


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
