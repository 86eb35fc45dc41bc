"""Mixtures are exact and can go on anywhere; ablations show what they say; tokens are computed once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.image_io import write_image
from data.scene_qa.datamodule import SceneQADataModule, SceneQASpec, build_qa_data, with_readable_images
from data.scene_qa.dataset import QADataset, collate
from data.scene_qa.feature_cache import TokenCache, Wanted
from data.scene_qa.mixing import DrawSampler, Mixture, shares
from data.scene_qa.sources import RecordSource, RoomSource, square_image
from data.scene_qa.splits import split_by_scene
from data.scene_qa.types import QARecord, ViewGeometry
from geometry import InputError

SPEC = SceneQASpec(
    dataset_names=("rooms_qa", "rooms_captions"),
    datadirs=("-", "-"),
    weights=(0.7, 0.3),
    rooms=6,
    val_rooms=3,
    image_size=16,
    batch_size=4,
)


@pytest.fixture(scope="module")
def data() -> SceneQADataModule:
    return build_qa_data(SPEC)


def test_shares_are_exact_and_nothing_comes_twice_early():
    mixture = Mixture([37, 5], [0.7, 0.3], seed=1)
    draws = [mixture.draw(number) for number in range(300)]
    for block in range(3):
        assert Counter(draw.source for draw in draws[100 * block : 100 * block + 100]) == {0: 70, 1: 30}
    assert [draw.source for draw in draws[:100]] != [draw.source for draw in draws[100:200]]
    for source, length in ((0, 37), (1, 5)):
        items = [draw.item for draw in draws if draw.source == source]
        for start in range(0, len(items) - length, length):
            assert sorted(items[start : start + length]) == list(range(length))
        assert items[:length] != items[length : 2 * length]
    assert len({draw.seed for draw in draws}) == 300
    assert Mixture([37, 5], [0.7, 0.3], seed=1).draw(217) == draws[217]


def test_shares_of_other_weights():
    assert shares([1.0, 1.0, 1.0]) == (34, 33, 33)
    assert shares([7.0]) == (100,)
    with pytest.raises(InputError, match="at least 1 of 100 draws"):
        shares([1.0, 1000.0])
    with pytest.raises(InputError, match="expected positive numbers"):
        shares([1.0, 0.0])


def test_two_processes_see_what_one_sees_and_a_resumed_run_the_rest():
    mixture = Mixture([50, 50], [0.5, 0.5], seed=0)

    def sampler(size: int, rank: int, world: int, first: int = 0) -> DrawSampler:
        return DrawSampler(mixture, size, batches_per_epoch=5, rank=rank, world_size=world, next_batch=lambda: first)

    whole = list(sampler(6, 0, 1))
    parts = [list(sampler(3, rank, 2)) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch, key=lambda draw: draw.number) == sorted([*first, *second], key=lambda draw: draw.number)
    assert list(sampler(6, 0, 1, first=2)) == whole[2:]
    assert len(list(sampler(6, 0, 1, first=7))) == 3


def test_epochs_and_accumulation(data: SceneQADataModule):
    spec = replace(SPEC, batch_size=2, accumulate=3)
    module = SceneQADataModule(spec, data.train_sources, data.val_sources)
    total = sum(len(source.records) for source in data.train_sources)
    assert module.steps_per_epoch(2) == -(-total // 12)
    module.trainer = SimpleNamespace(global_step=2)
    sampler = module.sampler(1, 2)
    assert len(sampler) == 3 * module.steps_per_epoch(2)
    assert next(iter(sampler)) == sampler.draws_of(6)


def test_training_rooms_are_not_those_of_validation(data: SceneQADataModule):
    scenes = [
        {record.scene for source in part for record in source.records}
        for part in (data.train_sources, data.val_sources)
    ]
    assert not scenes[0] & scenes[1]
    assert [len(part) for part in scenes] == [6, 3]


def test_batches_and_ablations(data: SceneQADataModule):
    full = next(iter(data.evaluation_loader()))
    assert full.images is not None
    assert full.images.shape == (4, 3, 3, 16, 16)
    assert bool(full.geometry_mask.all())
    assert full.answers == tuple(references[0] for references in full.references)
    black = next(iter(data.evaluation_loader("zeroed")))
    assert black.images is not None
    assert (float(black.images.max()), bool(black.geometry_mask.any())) == (0.0, False)
    assert black.questions == full.questions
    others = next(iter(data.evaluation_loader("shuffled")))
    assert others.questions == full.questions
    assert not torch.equal(others.images, full.images)
    assert not torch.equal(others.geometry.translations, full.geometry.translations)
    first = next(iter(data.evaluation_loader("first_view")))
    assert torch.equal(first.images, full.images[:, :1])
    assert first.geometry.rotations.shape == (4, 1, 3, 3)


def test_shuffled_images_are_never_of_the_same_scene(data: SceneQADataModule):
    samples = data.val_samples("shuffled")
    for draw in samples.evaluation_draws():
        record = samples.sources[draw.source].records[draw.item]
        assert samples._shown(draw.source, record).scene != record.scene
    one = RoomSource(0, 0, 1, 16)
    with pytest.raises(InputError, match="two scenes or more"):
        QADataset([one], ablation="shuffled")


def test_view_dropout_hides_whole_views_but_never_all(data: SceneQADataModule):
    samples = QADataset(data.train_sources, view_dropout=0.8)
    masks = []
    for number in range(40):
        sample = samples[data.mixture.draw(number)].sample
        hidden = ~sample.view_mask
        assert sample.images is not None
        assert float(sample.images[hidden].sum()) == 0
        assert bool((sample.images[sample.view_mask].flatten(1).amax(1) > 0).all())
        masks.append(sample.view_mask)
    counts = torch.stack(masks).sum(1)
    assert int(counts.min()) == 1
    assert 0.2 < float(torch.stack(masks).float().mean()) < 0.6
    again = samples[data.mixture.draw(3)].sample
    assert torch.equal(again.view_mask, masks[3])
    assert bool(samples[samples.evaluation_draws()[0]].sample.view_mask.all())
    with pytest.raises(InputError, match="--view_dropout"):
        QADataset(data.train_sources, view_dropout=1.0)


def tokens_of(images: torch.Tensor) -> torch.Tensor:
    """A stand-in for a backbone that mixes views: their mean is added to each."""
    mixed = images + images.mean(1, keepdim=True)
    return mixed[:, :, None, :, ::4, ::4]


def test_tokens_are_computed_once(data: SceneQADataModule, tmp_path: Path):
    cache = TokenCache(tmp_path, "weights", (0,), torch.float32)
    module = SceneQADataModule(SPEC, data.train_sources, data.val_sources, cache)
    assert module.fill_cache(tokens_of) == 9  # of 9 rooms, not of each question
    assert module.fill_cache(tokens_of) == 0
    full, plain = next(iter(module.evaluation_loader())), next(iter(data.evaluation_loader()))
    assert full.images is None
    assert torch.equal(full.features, tokens_of(plain.images))
    first = module.val_samples("first_view")
    with pytest.raises(InputError, match="expected its tokens in"):
        first[first.evaluation_draws()[0]]
    cache.fill(first.wanted(), tokens_of)
    assert torch.equal(first[first.evaluation_draws()[0]].sample.features[0], 2 * plain.images[0, 0, None, :, ::4, ::4])
    black = module.val_samples("zeroed")
    assert cache.fill(black.wanted(), tokens_of) == 1  # all black rooms are one


def test_keys_depend_on_everything_and_damaged_files_are_none(tmp_path: Path):
    cache = TokenCache(tmp_path, "weights", (0, 3))
    keys = {
        cache.key(["a", "b"]),
        cache.key(["b", "a"]),
        cache.key(["ab"]),
        TokenCache(tmp_path, "others", (0, 3)).key(["a", "b"]),
        TokenCache(tmp_path, "weights", (3, 0)).key(["a", "b"]),
        TokenCache(tmp_path, "weights", (0, 3), torch.float32).key(["a", "b"]),
    }
    assert len(keys) == 6
    key = cache.key(["a"])
    wanted = Wanted(key, 1, lambda: torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert cache.fill([wanted, wanted], tokens_of) == 1
    assert cache.load(key).shape == (1, 1, 3, 2, 2)
    (path,) = tmp_path.glob("*/*.safetensors")
    path.write_bytes(path.read_bytes()[:50])
    assert cache.load(key) is None


def test_records_of_files(tmp_path: Path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 10:30] = 200
    write_image(tmp_path / "wide.png", pixels)
    assert torch.equal(square_image(tmp_path / "wide.png", 20), torch.full((3, 20, 20), 200 / 255))
    record = QARecord((tmp_path / "wide.png",) * 5, "q", ("a", "b"), geometry=ViewGeometry.none(5), scene="s", id="1")
    source = RecordSource("records", [record], 10, 3)
    assert source.num_limited == 1
    (kept,) = source.records
    assert (len(kept.images), kept.geometry.translations.shape) == (3, (3, 3))
    before = source.fingerprints(kept)
    write_image(tmp_path / "wide.png", pixels // 2)
    assert source.fingerprints(kept) != before
    samples = QADataset(
        [RecordSource("records", [record, replace(record, images=record.images[:1], geometry=None)], 10, 3)]
    )
    batch = collate([samples[draw] for draw in samples.evaluation_draws()])
    assert batch.view_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.geometry_mask.tolist() == [True, False]
    assert float(batch.images[1, 1:].sum()) == 0


def test_images_that_cannot_be_read_are_replaced_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_image(tmp_path / "a.png", np.full((8, 8, 3), 100, np.uint8))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    records = [QARecord((tmp_path / name,), name, ("x",), id=name) for name in ("a.png", "b.png")]
    source = RecordSource("x", records, 8, 1)
    cache = TokenCache(tmp_path / "tokens", "backbone", (0,))
    samples = QADataset([source], cache=cache)
    assert cache.fill(samples.wanted(), lambda images: images[:, :, None]) == 2
    mixture = Mixture([2], [1.0], 0)
    for one in (QADataset([source]), samples):
        assert {one[mixture.draw(number)].sample.record.id for number in range(6)} == {"a.png"}
        assert one.unreadable.count == 3
        with pytest.raises(InputError, match=r"b\.png: expected a complete image"):
            one[one.evaluation_draws()[1]]
    with pytest.raises(InputError, match="expected another record to take its place"):
        QADataset([RecordSource("x", records[1:], 8, 1)])[mixture.draw(0)._replace(item=0)]
    problems: list[InputError] = []
    assert with_readable_images(source.records, problems.append) == source.records[:1]
    assert "another target takes the place" in capsys.readouterr().err
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png: expected an image file, got No such file"):
        samples.wanted()


def test_references_to_train_on_are_drawn(data: SceneQADataModule, tmp_path: Path):
    write_image(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    samples = QADataset([RecordSource("x", [QARecord((tmp_path / "a.png",), "q", ("a", "b"))], 8, 1)])
    mixture = Mixture([1], [1.0], 0)
    assert {samples[mixture.draw(number)].sample.answer for number in range(20)} == {"a", "b"}


def test_splits_keep_scenes_together():
    records = [QARecord((), "q", ("a",), scene=f"s{number // 3}", id=str(number)) for number in range(60)]
    problems: list[InputError] = []
    train, val = split_by_scene([*records, QARecord((), "q", ("a",), id="lost")], problems.append)
    assert (len(train), len(val)) == (54, 6)
    assert not {record.scene for record in train} & {record.scene for record in val}
    assert len(problems) == 1
    assert split_by_scene(records, problems.append) == (train, val)
    assert split_by_scene(records[:3], problems.append) == (records[:3], [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset_names": ("rooms",), "datadirs": ("-",), "weights": ()}, "--dataset_name: expected some of rooms_qa"),
        ({"datadirs": ("-",)}, "--datadir: expected one per data set"),
        ({"weights": (1.0,)}, "--weights: expected one per data set"),
        ({"room_views": 5}, "--room_views"),
        ({"batch_size": 0}, "--batch_size"),
        ({"weights": (float("nan"), 1.0)}, "--weights: expected positive"),
        ({"view_dropout": 1.0}, "--view_dropout: expected 0 or more and less than 1"),
        ({"val_ratio": 5.0}, "--val_ratio: expected 0 or more and less than 1"),
    ],
)
def test_specs_that_cannot_work(changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        replace(SPEC, **changes)
