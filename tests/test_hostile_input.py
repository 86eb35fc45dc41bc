"""Damaged and hostile files: a readable line or a correct result, within time and memory, and nothing of them runs."""

import contextlib
import gzip
import io
import json
import os
import pickle
import random
import signal
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzzing
from benchmarks.hostile.cases import CORRECT, FAILED, REFUSED, Bench, TimeOut, limits
from benchmarks.hostile.formats import FORMATS, TOY
from benchmarks.hostile.mutations import DEEP, KINDS, damaged, of_png
from data.cache import CACHE_VARIABLE
from data.occupancy.citygml import read_city
from data.occupancy.occ3d import read_plain_pickle
from data.untrusted_files import read_archive, read_array, read_gzip
from data.wai.formats import load
from data.wai.split_lists import read_array_list
from geometry import InputError
from models.vggt.weights import read_tensors, weight_shapes
from training.checkpoint import AtomicCheckpointIO, read_checkpoint


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, "off")
        yield Bench(tmp_path_factory.mktemp("hostile") / "samples")


@pytest.mark.parametrize("name", FORMATS)
def test_whole_files_are_read_without_complaint(name: str, bench: Bench) -> None:
    outcomes = bench.whole(name)
    assert {outcome.verdict for outcome in outcomes} == {CORRECT}, outcomes


@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(list(FORMATS)), st.integers(0, 2**32))
def test_damaged_files_end_in_one_line(bench: Bench, name: str, index: int) -> None:
    outcome = bench.case(name, 7, index)
    assert outcome.verdict in (CORRECT, REFUSED), outcome.why


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_the_same_for_the_same_seed(kind: str) -> None:
    for seed in range(4):
        first, second = (damaged(b"1 2\n3 4\n", kind, random.Random(seed)) for _ in range(2))
        assert first == second


REGRESSIONS = {
    "a matrix that is no pose": ("Virtual KITTI", "extrinsic.txt", b" 0.0 1.0\n", b" 3.0 1.0\n"),
    "a number beyond float32": ("ScanNet", "pose/000002.txt", b"0.28", b"1e300"),
    "a focal length that float32 has not": ("Virtual KITTI", "intrinsic.txt", b"50.0", b"1e-320"),
    "400 digits": ("WAI", "scene_meta.json", b'"fl_x": 50.0', b'"fl_x": ' + b"9" * 400),
    "no size": ("LLFF", "poses_bounds.npy", np.float64(32).tobytes(), bytes(8)),
    "text instead of numbers": ("LLFF", "poses_bounds.npy", b"<f8", b"|S8"),
    "bytes that are no UTF-8": ("configs", "run.txt", b"# a run", b"# a r\xff"),
    "a line without end": ("BlendedMVS", "pair.txt", b"1.5\n", b"1.5" + b" 7" * 9000 + b"\n"),
    "a member of another kind": ("sessions", "000001_occupancy.npz", b"occupancy.npy", b"occupancy.abc"),
    "masks that are no list": ("sessions", "session.json", b'"masks": [', b'"masks": 0.5, "world": ['),
    "a box without corners": ("ARKitScenes", "41_3dod_annotation.json", b"[1.0, 0.1, 0.6]", b"1"),
    "a lens of infinite length": ("ARKitScenes", "41_7.000.pincam", b"50.0", b"inf"),
    "a packed byte that is wrong": ("WAI modalities", "tokens.ptz", b"\xff", b"\x00"),
    "records instead of numbers": ("WAI modalities", "map.npy", b"'<f4'", b"'|V4'"),
    "lists as sides of a voxel": ("checkpoints, weights", "forecaster.json", b"1.0,", b"[[]],"),
    "a null in the name of a class": ("Occ3D", "infos.pkl", b"numpy", b"nu\0\0y"),
}
"""What is found -> format, file, bytes there, bytes instead of them. All ended in a traceback, or in garbage."""


@pytest.mark.parametrize("what", REGRESSIONS)
def test_what_was_found_is_refused(what: str, bench: Bench) -> None:
    name, pattern, there, instead = REGRESSIONS[what]
    path = bench.path(name, pattern)
    content = path.read_bytes()
    assert there in content
    outcome = bench.with_content(name, path, content.replace(there, instead))
    assert outcome.verdict == REFUSED, outcome.why


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, pattern) for name, one in FORMATS.items() for pattern, kind in one.damaged.items() if kind == "json"],
)
@pytest.mark.parametrize("content", [b"[" * DEEP, b'{"a":' * DEEP], ids=["lists", "objects"])
def test_brackets_without_end(name: str, pattern: str, content: bytes, bench: Bench) -> None:
    outcome = bench.with_content(name, bench.path(name, pattern.removeprefix("**/")), content)
    assert outcome.verdict == REFUSED, outcome.why


@pytest.mark.parametrize("special", ["pipe", "device", "link to nothing"])
def test_what_is_no_file_is_not_waited_for(special: str, bench: Bench) -> None:
    """Opening a named pipe waits for somebody who writes, a device need not end."""

    def stop(*_: object) -> None:
        raise TimeOut

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for name, pattern in PLACES.items():
            path = bench.path(name, pattern)
            content = path.read_bytes()
            path.unlink()
            signal.alarm(20)
            try:
                if special == "pipe":
                    os.mkfifo(path)
                else:
                    path.symlink_to("/dev/zero" if special == "device" else "nowhere")
                outcome = bench.outcome(name, path)
            finally:
                signal.alarm(0)
                path.unlink()
                path.write_bytes(content)
            assert outcome.verdict in (CORRECT, REFUSED), outcome.why
    finally:
        signal.signal(signal.SIGALRM, before)


PLACES = {
    **{"DTU": "00000001_cam.txt", "BlendedMVS": "pair.txt", "LLFF": "poses_bounds.npy", "Co3D": "*.jgz"},
    **{
        "NeRF-synthetic": "transforms_train.json",
        "transforms.json": "transforms.json",
        "Virtual KITTI": "extrinsic.txt",
    },
    **{"ScanNet": "pose/000001.txt", "WAI": "scene_meta.json", "images, PFM": "depth.pfm", "sessions": "session.json"},
    **{"Occ3D": "infos.pkl", "trajectories": "drive.txt", "LiDAR": "sweep.bin", "meshes, CityGML": "city.gml"},
    **{"questions": "records.json", "ARKitScenes": "41_7.000.pincam", "camera paths": "path.json"},
    **{"checkpoints, weights": "weights.safetensors", "Virtual KITTI": "extrinsic.txt"},
}
"""A file of each format."""


def test_counts_of_colmap_are_not_believed(bench: Bench) -> None:
    for file in ("cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"):
        path = bench.path("COLMAP, binary", file)
        for count in (2**31, 2**63, 2**64 - 1):
            outcome = bench.with_content("COLMAP, binary", path, struct.pack("<Q", count) + path.read_bytes()[8:])
            assert outcome.verdict == REFUSED, outcome.why
            assert "cut off or damaged" in outcome.why


def test_bombs(bench: Bench, tmp_path: Path) -> None:
    png = bench.path("images, PFM", "photo.png")
    header = struct.pack(">II", 40_000, 40_000)
    body = png.read_bytes()[:16] + header + png.read_bytes()[24:29]
    bomb = body + struct.pack(">I", zlib.crc32(body[12:29])) + png.read_bytes()[33:]
    assert bench.with_content("images, PFM", png, bomb).verdict == REFUSED
    packed = gzip.compress(b" " * 2**20, 9) * 200
    path = tmp_path / "bomb.jgz"
    path.write_bytes(packed)
    with limits(memory=2**28), pytest.raises(InputError, match="more than 67108864 bytes"):
        read_gzip(path)
    assert bench.with_content("Co3D", bench.path("Co3D", "*.jgz"), packed).verdict == REFUSED
    exr = bench.path("WAI modalities", "depth.exr")
    at = exr.read_bytes().index(b"dataWindow\0box2i\0") + 21
    window = exr.read_bytes()[:at] + struct.pack("<4i", 0, 0, 2**30, 2**30) + exr.read_bytes()[at + 16 :]
    assert bench.with_content("WAI modalities", exr, window).verdict == REFUSED
    for size in (2**60, 2**64 - 1):
        weights = bench.path("checkpoints, weights", "weights.safetensors")
        content = struct.pack("<Q", size) + weights.read_bytes()[8:]
        assert bench.with_content("checkpoints, weights", weights, content).verdict == REFUSED


CITY = (
    '<c:CityModel xmlns:c="c" xmlns:g="g" xmlns:b="b"><c:cityObjectMember><b:Building name="{0}"><b:lod1Solid>'
    "<g:Polygon><g:exterior><g:LinearRing><g:posList>{1} 100 100 0 200 100 0 200 200 0 100 100 0</g:posList>"
    "</g:LinearRing></g:exterior></g:Polygon></b:lod1Solid></b:Building></c:cityObjectMember></c:CityModel>"
)


def test_entities_of_xml(tmp_path: Path) -> None:
    path, secret = tmp_path / "city.gml", tmp_path / "secret.txt"
    secret.write_text("300 300 0")
    path.write_text(CITY.format("", ""))
    assert len(read_city(path).mesh.faces) == 1
    laughs = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, 10))
    for name, ring in (("&e9;", ""), ("", "&e9;")):
        path.write_text(f'<!DOCTYPE x [<!ENTITY e0 "1 1 1 ">{laughs}]>' + CITY.format(name, ring))
        with limits(memory=2**28), pytest.raises(InputError, match=r"cannot be read: .*amplification"):
            read_city(path)
    path.write_text(f'<!DOCTYPE x [<!ENTITY file SYSTEM "file://{secret}">]>' + CITY.format("", "&file;"))
    with pytest.raises(InputError, match="expected gml:posList with three numbers per corner"):
        read_city(path)


@pytest.mark.parametrize(
    ("name", "number", "larger"),
    [
        ("vggt", b'"depth": 4', b'"depth": 1000000000'),
        ("vggt", b'"embed_dim": 16', b'"embed_dim": 16777216'),
        ("da3", b'"depth": 4', b'"depth": 1000000000'),
        ("mapanything", b'"blocks": 4', b'"blocks": 1000000000'),
    ],
)
def test_networks_are_no_larger_than_their_weights(name: str, number: bytes, larger: bytes, bench: Bench) -> None:
    path = bench.path("networks", f"{name}.json")
    assert number in path.read_bytes()
    outcome = bench.with_content("networks", path, path.read_bytes().replace(number, larger))
    assert outcome.verdict == REFUSED, outcome.why


def archive_of(content: bytes, name: str = "occupancy.npy") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


def test_arrays_that_promise_more_than_they_have(tmp_path: Path) -> None:
    path, content = tmp_path / "a.npy", io.BytesIO()
    np.save(content, np.zeros(4))
    huge = content.getvalue().replace(b"(4,)", b"(4611686018427387904,)")[: len(content.getvalue())]
    path.write_bytes(huge)
    with pytest.raises(InputError, match=r"shape \(4611686018427387904,\) and type float64 in \d+ bytes"):
        read_array(path)  # numpy's own refusal comes when it asks for the memory
    (tmp_path / "a.npz").write_bytes(archive_of(content.getvalue() + bytes(2**20), "a.npy"))
    with pytest.raises(InputError, match="where at most 32 can be"):
        read_archive(tmp_path / "a.npz", most=32)
    np.savez(tmp_path / "b.npz", a=np.arange(3), b=np.eye(2))
    assert read_archive(tmp_path / "b.npz", ("a", "c"))["a"].tolist() == [0, 1, 2]
    assert read_archive(tmp_path / "b.npz").keys() == {"a", "b"}


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\x00\x00\x00\x7f.",  # place 2^31 of the memo: 32 GB in C's unpickler
        b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",  # a string of 2^40 bytes
        b"cbuiltins\nbytes\n(I4294967296\ntR.",
        b"cnumpy\nndarray\n((I4294967296\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I4294967296\ntS'b'\ntR.",
    ],
    ids=["memo", "string", "bytes", "array", "reconstruct"],
)
def test_pickles_take_no_more_memory_than_they_have(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "infos.pkl"
    path.write_bytes(content)
    with limits(memory=2**28), contextlib.suppress(InputError):
        assert len(read_plain_pickle(path)) == 0


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.canary, "it ran")


def test_no_pickle_runs(tmp_path: Path) -> None:
    canary, evil = tmp_path / "canary", Hostile(tmp_path / "canary")
    pickle.loads(pickle.dumps(evil))
    assert canary.read_text() == "it ran"  # the trap works
    canary.unlink()
    content = {"toy": evil, "state_dict": {}, "callbacks": evil, "hyper_parameters": evil}
    for name in ("a.ckpt", "a.pt", "a.bin"):
        torch.save(content, tmp_path / name)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    (tmp_path / "a.ptz").write_bytes(gzip.compress((tmp_path / "a.pt").read_bytes()))
    np.save(tmp_path / "a.npy", np.array([evil], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", a=np.array([evil], dtype=object))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"infos": {"scene": [evil]}}))
    readers = [lambda name=name: read_checkpoint(tmp_path / name, TOY) for name in ("a.ckpt", "old.pt", "plain.pt")]
    readers += [lambda: AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", weights_only=False)]
    for name in ("a.pt", "a.bin", "old.pt", "plain.pt"):
        readers += [
            lambda name=name: weight_shapes(tmp_path / name),
            lambda name=name: read_tensors(tmp_path / name, ()),
        ]
    readers += [lambda: load(tmp_path / "a.ptz"), lambda: load(tmp_path / "a.npy"), lambda: load(tmp_path / "a.npz")]
    readers += [lambda: read_plain_pickle(tmp_path / "a.pkl"), lambda: read_array_list(tmp_path / "a.npy")]
    readers += [lambda: read_array(tmp_path / "a.npy"), lambda: read_archive(tmp_path / "a.npz")]
    before = sorted(tmp_path.iterdir())
    for read in readers:
        with pytest.raises(InputError):
            read()
    assert sorted(tmp_path.iterdir()) == before


def test_the_benchmark_counts_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "results_of", in_this_process(tmp_path / "samples"))
    command = ["--formats", "LiDAR", "camera paths", "--out", str(tmp_path / "out")]
    fuzzing.main([*command, "--cases", "4"])
    assert "| **all** | 4 |" in capsys.readouterr().out
    file = tmp_path / "out" / "seed0.jsonl"
    first = file.read_text().splitlines()
    fuzzing.main([*command, "--cases", "6"])
    assert "| LiDAR | 3 |" in capsys.readouterr().out
    assert file.read_text().splitlines()[:4] == first
    assert len(file.read_text().splitlines()) == 6
    row = json.loads(first[0]) | {"verdict": FAILED, "why": "a traceback"}
    file.write_text("\n".join([json.dumps(row), *first[1:]]) + "\n")
    with pytest.raises(SystemExit):
        fuzzing.main([*command, "--cases", "4"])
    assert "a traceback" in capsys.readouterr().out


def in_this_process(folder: Path):
    """Stands for `results_of`, whose processes would import everything again where they cannot be forked."""
    numbers = iter(range(9))

    def results_of(cases, seed: int, workers: int) -> Iterator[fuzzing.Result]:
        bench = Bench(folder / str(next(numbers)), ("LiDAR", "camera paths"))
        for case in cases:
            yield fuzzing.Result(case, bench.case(case.name, seed, case.index))

    return results_of


def test_a_process_that_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(pipe, cases, seed) -> None:
        for case in cases:
            if case.index == 1:
                raise SystemExit(3)
            pipe.send(fuzzing.Outcome(CORRECT, ""))

    monkeypatch.setattr(fuzzing, "_work", work)
    found = list(fuzzing.results_of([fuzzing.Case("LiDAR", index) for index in range(3)], 0, 1))
    assert [outcome.verdict for _, outcome in found] == [CORRECT, FAILED, CORRECT]


def test_headers_keep_their_checksums(bench: Bench) -> None:
    whole = bench.path("images, PFM", "photo.png").read_bytes()
    changed = of_png(whole, random.Random(1))
    assert changed != whole
    assert struct.unpack(">I", changed[29:33])[0] == zlib.crc32(changed[12:29])


def test_parts_of_packed_tensors_are_packed_once(tmp_path: Path) -> None:
    content, again = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(2**12), content)
    with zipfile.ZipFile(content) as file, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in file.namelist():
            packed.writestr(part, file.read(part))
    for name, one in (("a.ptz", content), ("b.ptz", again)):
        (tmp_path / name).write_bytes(gzip.compress(one.getvalue()))
    assert load(tmp_path / "a.ptz").shape == (2**12,)
    with pytest.raises(InputError, match="expected a tensor packed once"):
        load(tmp_path / "b.ptz")


def test_messages_are_one_readable_line() -> None:
    message = str(InputError("a\nb\0c " + "x" * 5000 + " end"))
    assert message.isprintable()
    assert message.startswith("a b\\x00c")
    assert message.endswith("end")
    assert len(message) < 1100
