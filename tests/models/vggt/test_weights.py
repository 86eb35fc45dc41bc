"""Every kind of weight source, and every way in which weights can fail to fit."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from geometry.errors import InputError
from models.vggt import load_vggt, weights
from models.vggt.config import MissingHeadError

FIXTURE = Path(__file__).parents[2] / "golden" / "conv_d32_group2"
TINY = Path(__file__).parents[3] / "models" / "vggt" / "configs" / "tiny.json"


def tensors() -> dict[str, Tensor]:
    return load_file(FIXTURE / "state_dict.safetensors")


def write(folder: Path, content: Any, name: str = "net.safetensors") -> Path:
    """A weight file with its configuration beside it."""
    path = folder / name
    shutil.copy(FIXTURE / "config.json", path.with_suffix(".json"))
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_file_with_its_configuration(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, tensors(), name)
    model, identity = load_vggt(path)
    assert model.state_dict().keys() == tensors().keys()
    written = tensors()
    assert all(torch.equal(value, written[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert identity == (str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def test_legacy_pickle_of_tensors(tmp_path: Path) -> None:
    path = write(tmp_path, {}, "net.pt")
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)
    assert load_vggt(path).model.config.heads == ("camera", "depth", "point")


@pytest.mark.parametrize("file", weights.WEIGHT_FILES)
def test_folder_in_hub_layout(tmp_path: Path, file: str) -> None:
    path = write(tmp_path, tensors(), file)
    path.with_suffix(".json").rename(tmp_path / "config.json")
    assert load_vggt(tmp_path).model.config.aggregator.embed_dim == 32
    path.unlink()
    with pytest.raises(InputError, match=r"holds no weights, expected one \.safetensors or \.pt or \.bin file"):
        load_vggt(tmp_path)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    path = write(tmp_path, {key: value.half() for key, value in tensors().items()})
    assert {value.dtype for value in load_vggt(path).model.state_dict().values()} == {torch.float32}


def test_only_wanted_heads_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, tensors())
    model, _ = load_vggt(path, heads=("depth",))
    assert model.config.heads == ("depth",)
    assert {key.split(".")[0] for key in model.state_dict()} == {"aggregator", "depth_head"}
    assert load_vggt(path, heads=()).model.config.heads == ()
    only_aggregator = {key: value for key, value in tensors().items() if key.startswith("aggregator.")}
    load_vggt(write(tmp_path, only_aggregator, "aggregator.safetensors"), heads=())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregator.camera_token": None}, r"1 missing: aggregator\.camera_token$"),
        ({"aggregator.extra": torch.zeros(1)}, r"1 unexpected: aggregator\.extra$"),
        ({"optimizer.step": torch.zeros(1)}, r"1 unexpected: optimizer\.step$"),
        ({"aggregator.camera_token": torch.zeros(3)}, r"camera_token \(expected \(1, 2, 1, 32\), got \(3,\)\)"),
        ({"aggregator.camera_token": torch.zeros(1, 2, 1, 32, dtype=torch.int64)}, "must be floating point"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, suffix: str, change: dict[str, Any], message: str) -> None:
    changed = {key: value for key, value in (tensors() | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        load_vggt(write(tmp_path, changed, f"net{suffix}"))


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    kept = {key: value for key, value in tensors().items() if not key.startswith("camera_head.")}
    with pytest.raises(InputError, match=r"\d\d missing: camera_head\.\S+, camera_head\.\S+, camera_head\.\S+, \.\.\."):
        load_vggt(write(tmp_path, kept))


def test_unknown_and_absent_heads(tmp_path: Path) -> None:
    path = write(tmp_path, tensors())
    with pytest.raises(InputError, match="head must be one of camera, depth, point, track, got 'color'"):
        load_vggt(path, heads=("color",))
    with pytest.raises(InputError, match="has no track head, it has: camera, depth, point"):
        load_vggt(path, heads=("track",))


class Attack:
    """Unpickling it creates a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("is_archive", [True, False])
def test_code_in_weights_is_refused_and_not_run(tmp_path: Path, is_archive: bool) -> None:
    target = tmp_path / "was_here"
    path = write(tmp_path, {}, "net.pt")
    if is_archive:
        torch.save({"aggregator.camera_token": Attack(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"aggregator.camera_token": Attack(target)}))
    with pytest.raises(InputError, match="hold more than tensors") as error:
        load_vggt(path)
    assert "\n" not in str(error.value)
    assert not target.exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize("content", [b"", b"broken", b"PK\x03\x04broken", b"\x80\x02broken"])
def test_unreadable_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = write(tmp_path, tensors(), name)
    path.write_bytes(content)
    with pytest.raises(InputError, match=str(path)) as error:
        load_vggt(path)
    assert "\n" not in str(error.value)


def test_truncated_files(tmp_path: Path) -> None:
    for name in ("net.safetensors", "net.pt"):
        path = write(tmp_path, tensors(), name)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(InputError, match=str(path)):
            load_vggt(path)


def test_content_that_is_no_flat_mapping(tmp_path: Path) -> None:
    for content in ([torch.zeros(1)], {"model": [1]}, {"model": {"a": 3}}, torch.zeros(1)):
        with pytest.raises(InputError, match="flat mapping"):
            load_vggt(write(tmp_path, content, "net.pt"))


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "net.ckpt").touch()
    for source, message in (
        (tmp_path / "net.safetensors", "not found"),
        ("three/part/name", "not found"),
        ("", "not found|holds no weights"),
        (tmp_path / "net.ckpt", r"must be a \.safetensors or \.pt or \.bin file, got '\.ckpt'"),
        ("random:", "cannot be read"),
        (f"random:{tmp_path}/none.json:3", "none.json cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            load_vggt(source)


class FakeHub:
    """Stands in for `hf_hub_download`."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def __call__(self, repository: str, file: str) -> str:
        if self.folder is None:
            raise LocalEntryNotFoundError("Cannot reach the hub.\nSecond line.")
        if not (self.folder / file).is_file():
            raise EntryNotFoundError(f"no {file} in {repository}")
        return str(self.folder / file)

    def files(self, repository: str) -> list[str]:
        return [path.name for path in self.folder.iterdir()]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "hf_hub_download", self)
        monkeypatch.setattr(weights, "list_repo_files", self.files)


def not_cached(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("not in the cache")


def test_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, tensors(), "model.pt")
    path.with_suffix(".json").rename(tmp_path / "config.json")
    FakeHub(tmp_path).install(monkeypatch)
    monkeypatch.setattr(weights, "snapshot_download", not_cached)
    model, identity = load_vggt("someone/network")
    assert model.config.aggregator.embed_dim == 32
    assert identity == ("someone/network", hashlib.sha256(path.read_bytes()).hexdigest())
    path.unlink()
    with pytest.raises(InputError, match="someone/network holds no weights"):
        load_vggt("someone/network")
    FakeHub(None).install(monkeypatch)
    with pytest.raises(InputError, match=r"neither in the hub's cache nor reachable online$"):
        load_vggt("someone/network")


def test_hub_configuration_of_vggt_1b_and_its_missing_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"img_size": 518, "patch_size": 14, "embed_dim": 1024}))
    save_file(tensors(), tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: .*unexpected: .*wrongly shaped: "):
        load_vggt(tmp_path)


def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (load_vggt(f"random:{TINY}{seed}") for seed in ("", ":0", ":1"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.identity.sha256 == again.identity.sha256 != other.identity.sha256
    assert first.identity.name == f"random:{TINY}"
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    torch.manual_seed(5)
    assert load_vggt(f"random:{TINY}").identity == first.identity


@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_checkpoint_of_upstream(tmp_path: Path, prefix: str) -> None:
    """Optimizer, scaler and counters lie beside the weights, whose keys may have DistributedDataParallel's prefix."""
    content = {
        "prev_epoch": 3,
        "model": {f"{prefix}{key}": value for key, value in tensors().items()},
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scaler": {"scale": 1.0},
        "steps": {"train": 5, "val": 1},
    }
    model, _ = load_vggt(write(tmp_path, content, "checkpoint.pt"))
    written = tensors()
    assert all(torch.equal(value, written[key]) for key, value in model.state_dict().items())
    del content["model"][f"{prefix}aggregator.camera_token"]
    with pytest.raises(InputError, match=r"1 missing: aggregator\.camera_token$"):
        load_vggt(write(tmp_path, content, "checkpoint.pt"))


def test_other_classes_in_a_checkpoint_are_named_with_the_way_out(tmp_path: Path) -> None:
    path = write(tmp_path, {"model": tensors(), "config": Path("x")}, "checkpoint.pt")
    with pytest.raises(InputError, match=r"extract the weights once: .*weights_only=False.*\"model\""):
        load_vggt(path)


def test_heads_of_weights_without_a_file_of_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes are VGGT-1B's (here the fixture's), the heads those that the file has."""
    sizes = weights.VGGTConfig.read(FIXTURE / "config.json")
    monkeypatch.setattr(weights, "VGGTConfig", lambda: sizes)
    kept = {key: value for key, value in tensors().items() if not key.startswith("point_head.")}
    for name in ("net.safetensors", "net.pt"):
        path = write(tmp_path, kept, name)
        path.with_suffix(".json").unlink()
        assert weights.available_heads(path) == ("camera", "depth")
        assert load_vggt(path).model.config.heads == ("camera", "depth")
        with pytest.raises(MissingHeadError, match="has no point head, it has: camera, depth"):
            load_vggt(path, heads=("point",))


@pytest.mark.parametrize("name", ["vggt_co3d.safetensors", "checkpoint.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("inside", ["", "snapshots/0a1b"])
def test_the_only_weight_file_of_a_folder(tmp_path: Path, name: str, inside: str) -> None:
    folder = tmp_path / "models--someone--network" / inside
    folder.mkdir(parents=True)
    write(folder, tensors(), name)
    (folder / "README.md").touch()
    source = tmp_path / "models--someone--network"
    assert load_vggt(source).model.config.aggregator.embed_dim == 32
    write(folder, tensors(), "other.pt")
    with pytest.raises(InputError, match=r"holds 2 weight files, expected one: .*other\.pt"):
        load_vggt(source)
    write(folder, tensors(), "model.safetensors")
    assert load_vggt(source).model.config.aggregator.embed_dim == 32


def test_a_folder_of_the_cache_is_read_at_its_reference(tmp_path: Path) -> None:
    for snapshot, size in (("old", 1), ("new", 2)):
        (tmp_path / "snapshots" / snapshot).mkdir(parents=True)
        content = {key: value * size for key, value in tensors().items()}
        write(tmp_path / "snapshots" / snapshot, content, "weights.safetensors")
    with pytest.raises(InputError, match="holds 2 weight files"):
        load_vggt(tmp_path)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("new")
    loaded = load_vggt(tmp_path).model.state_dict()["aggregator.camera_token"]
    assert torch.equal(loaded, 2 * tensors()["aggregator.camera_token"])


def test_hub_repository_with_another_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, tensors(), "vggt_commercial.pt")
    FakeHub(tmp_path).install(monkeypatch)
    assert load_vggt("someone/network").model.config.aggregator.embed_dim == 32
    FakeHub(None).install(monkeypatch)
    monkeypatch.setattr(weights, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert load_vggt("someone/network").model.config.aggregator.embed_dim == 32  # from the cache, offline


def test_gated_hub_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise GatedRepoError("403 Client Error", response=SimpleNamespace(headers={}, status_code=403, request=None))

    monkeypatch.setattr(weights, "hf_hub_download", refuse)
    with pytest.raises(InputError, match=r"facebook/VGGT-1B-Commercial are gated: accept their terms on https://"):
        load_vggt("facebook/VGGT-1B-Commercial")
