"""All scans with one command: what is run for each, what is left out the next time, and what comes of it."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from geometry import InputError
from render import benchmark
from render.benchmark import run_benchmark
from render.evaluate import evaluate
from render.options import BenchmarkOptions, EvaluateOptions
from render.table import benchmark_table
from tests.render.tiny import write_data
from training.cli import parse_options
from training.nerf.checkpoint import read_nerf_checkpoint
from training.nerf.options import FinetuneOptions
from training.nerf.runs import finetune_run

CONFIG = """
rays_per_step = 8
num_workers = 0
warmup_steps = 1
max_steps = 3
save_every = 2
num_val = 1
N_samples = 4
N_importance = 2
residual_channels = 2
residual_resolution = 8
"""
COMMANDS = {
    "render.evaluate": lambda arguments: evaluate(parse_options(EvaluateOptions, "", arguments)),
    "train_finetune": lambda arguments: finetune_run(parse_options(FinetuneOptions, "", arguments)),
}


@pytest.fixture(scope="module")
def two_scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("two") / "dtu", scenes=2)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the benchmark runs, in this process, one after the other: random weights come from a global seed."""
    ran: list[list[str]] = []
    alone = threading.Lock()

    def run(command: Sequence[str], *others: object) -> None:
        with alone:
            ran.append(list(command))
            COMMANDS[command[0]](list(command[1:]))

    monkeypatch.setattr(benchmark, "_run", run)
    return ran


@pytest.fixture
def options(general: Path, two_scans: Path, tmp_path: Path) -> Callable[..., BenchmarkOptions]:
    config = tmp_path / "finetune.txt"
    config.write_text(CONFIG)

    def make(**changes: object) -> BenchmarkOptions:
        common = {"ckpt": str(general), "datadir": str(two_scans), "out": str(tmp_path / "out"), "imgScale_test": 0.25}
        own = {"protocol": "dtu-nearest3", "device": "cpu", "scans": ("scan7",), "finetune": str(config)}
        return BenchmarkOptions(**common | own | changes)

    return make


def names_of(commands: Sequence[Sequence[str]]) -> list[str]:
    return [command[0] for command in commands]


def test_general_and_fine_tuned_and_only_what_is_left(
    options: Callable[..., BenchmarkOptions], commands: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    whole = COMMANDS["render.evaluate"]

    def killed(arguments: list[str]) -> None:
        if "finetuned" in arguments[-1] or any("/run/" in one for one in arguments):
            raise InputError("killed")
        whole(arguments)

    with monkeypatch.context() as interrupted:
        interrupted.setitem(COMMANDS, "render.evaluate", killed)
        metrics = run_benchmark(options())
    assert names_of(commands) == ["render.evaluate", "train_finetune", "render.evaluate"]
    assert (metrics["failed"], metrics["averaged_scans"], metrics["mean"]) == ({"scan7": "killed"}, 0, {})
    last = out / "scan7" / "run" / "checkpoints" / "last.ckpt"
    record = read_nerf_checkpoint(last).record
    assert (record.task, record.options["scans"], record.options["imgScale_test"]) == ("finetune", ["scan7"], 1.0)

    commands.clear()
    metrics = run_benchmark(options())
    assert names_of(commands) == ["train_finetune", "render.evaluate"]
    assert commands[0][-2:] == ["--ckpt", str(last)]
    assert metrics == json.loads((out / "benchmark.json").read_text())
    assert (metrics["failed"], metrics["averaged_scans"]) == ({}, 1)
    for kind in ("general", "finetuned"):
        alone = json.loads((out / "scan7" / kind / "metrics.json").read_text())
        assert metrics["mean"][kind]["psnr"] == metrics["scans"]["scan7"][kind]["psnr"] == alone["mean"]["psnr"]
    assert metrics["mean"]["general"]["psnr"] != metrics["mean"]["finetuned"]["psnr"]
    assert metrics["baselines"].keys() == {"nearest_source", "mean_colour"}
    table = benchmark_table(metrics)
    for row in ("scan7 general", "scan7 fine-tuned", "mean general", "mean fine-tuned", "nearest source"):
        assert row in table

    commands.clear()
    assert run_benchmark(options())["mean"] == metrics["mean"]
    assert commands == []
    with pytest.raises(InputError, match=r"--out .*: holds a benchmark with imgScale_test 0.25; take another folder"):
        run_benchmark(options(imgScale_test=0.5))
    with pytest.raises(InputError, match=r"--out .*: holds a benchmark with vggt \w+; take another folder"):
        run_benchmark(options(vggt_ckpt="random:other.json"))
    config = Path(options().finetune)
    config.write_text(CONFIG + "lrate = 1e-3\n")
    with pytest.raises(InputError, match=r"--out .*: holds a benchmark with other --finetune options"):
        run_benchmark(options())


def test_a_benchmark_of_before_an_option_is_gone_on_with(
    options: Callable[..., BenchmarkOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "_do_scans", lambda *_: {})
    run_benchmark(options())
    path = tmp_path / "out" / "settings.json"
    before = json.loads(path.read_text())
    del before["quality"], before["finetuning"]["rolls"]
    path.write_text(json.dumps(before))
    with pytest.raises(InputError, match=r"--out .*: holds a benchmark with quality fast; take another folder"):
        run_benchmark(options(quality="full"))
    Path(options().finetune).write_text(f"{CONFIG}rolls = 0.5\n")
    with pytest.raises(InputError, match=r"--out .*: holds a benchmark with other --finetune options"):
        run_benchmark(options())
    Path(options().finetune).write_text(CONFIG)
    run_benchmark(options())


def test_a_scan_that_fails_stops_no_other(
    options: Callable[..., BenchmarkOptions], commands: list, general: Path, two_scans: Path, tmp_path: Path, capsys
) -> None:
    broken = write_data(tmp_path / "broken", scenes=2)
    (broken / "Rectified" / "scan7_train" / "rect_033_3_r5000.png").write_bytes(b"no image")
    arguments = f"--ckpt {general} --datadir {broken} --out {tmp_path / 'out'} --scans scan7 scan8 --device cpu"
    with pytest.raises(SystemExit) as stop:
        benchmark.main([*arguments.split(), "--protocol", "dtu-fixed3", "--imgScale_test", "0.25", "--devices", "2"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "failed: scan7 (" in printed.err
    assert "rect_033_3_r5000.png" in printed.err
    assert "Traceback" not in printed.err
    metrics = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert list(metrics["failed"]) == ["scan7"]
    assert metrics["mean"]["general"] == metrics["scans"]["scan8"]["general"]
    assert "dtu-fixed3: means over 1 scans" in printed.out


def test_fine_tuning_has_the_views_and_the_background_of_the_evaluation(
    options: Callable[..., BenchmarkOptions], tmp_path: Path
) -> None:
    """A config for black scenes, as the shipped guided_finetune.txt, would be refused for each of Blender's."""
    general = tmp_path / "out" / "lego" / "general"
    general.mkdir(parents=True)
    settings = {"view_split": {"lego": "mvsnerf"}, "white_bkgd": True}
    (general / "metrics.json").write_text(json.dumps({"settings": settings}))
    asked = options(dataset_name="blender", protocol="blender-fixed3", scans=("lego",))
    finetune, evaluation = benchmark.commands_of("lego", asked)
    assert "--white_bkgd" in finetune
    assert finetune[finetune.index("--view_split") + 1] == "mvsnerf"
    assert evaluation[0] == "render.evaluate"


def test_a_command_that_fails_leaves_its_last_line_and_a_log(tmp_path: Path) -> None:
    log = tmp_path / "scan1" / "log.txt"
    environment = benchmark._environments(BenchmarkOptions(ckpt=__file__, out="x"))[0]
    benchmark._run(["this"], log, environment, set())
    with pytest.raises(InputError, match=r"json.tool ended with status \d: .*nowhere"):
        benchmark._run(["json.tool", "nowhere"], log, environment, set())
    assert "Beautiful is better than ugly" in log.read_text()
    assert "$ python -m json.tool nowhere" in log.read_text()


def test_a_command_has_the_lock_too_and_keeps_it_when_the_benchmark_is_killed(tmp_path: Path) -> None:
    environment = benchmark._environments(BenchmarkOptions(ckpt=__file__, out="x"))[0]
    with benchmark._locked(tmp_path) as lock:
        (tmp_path / "lock").write_text("[1]")
        inherited = f"/dev/fd/{lock}"
        benchmark._run(["json.tool", inherited], tmp_path / "log.txt", environment, set(), (lock,))
        with pytest.raises(InputError, match=r"json\.tool ended with status"):
            benchmark._run(["json.tool", inherited], tmp_path / "log.txt", environment, set())


def test_a_backbone_that_has_moved_is_the_same(
    options: Callable[..., BenchmarkOptions], general: Path, tmp_path: Path
) -> None:
    trained_with = read_nerf_checkpoint(general).record.vggt
    files = [tmp_path / name for name in ("one.safetensors", "moved.safetensors", "other.safetensors")]
    for path, contents in zip(files, ("a", "a", "b"), strict=True):
        path.write_text(contents)
    one, moved, other = (benchmark._settings(options(vggt_ckpt=str(path)), trained_with)["vggt"] for path in files)
    assert one == moved != other
    for source in ("", trained_with.source):
        assert benchmark._settings(options(vggt_ckpt=source), trained_with)["vggt"] == trained_with.sha256


def test_a_scan_that_a_killed_benchmark_still_works_on_is_refused(
    options: Callable[..., BenchmarkOptions], commands: list, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "scan7"
    with benchmark._locked(folder):
        metrics = run_benchmark(options())
        assert commands == []
        assert list(metrics["failed"]) == ["scan7"]
        assert "still works on it" in metrics["failed"]["scan7"]
    run_benchmark(options(finetune=""))
    assert names_of(commands) == ["render.evaluate"]


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def environments(**changes: object) -> list[dict[str, str]]:
        return benchmark._environments(BenchmarkOptions(ckpt=__file__, out="x", **changes))

    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [one["OMP_NUM_THREADS"] for one in environments(devices=3, device="cpu")] == ["2"] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments(devices=2)] == ["5", "7"]
    with pytest.raises(InputError, match="--devices 3: expected at most the 2 GPUs"):
        environments(devices=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scans": ("scan1",)}, "expected scans that are there"),
        ({"protocol": "llff-fixed3"}, "expected --dataset_name llff"),
    ],
)
def test_nothing_is_begun_by_a_mistake(
    changes: dict, message: str, options: Callable[..., BenchmarkOptions], commands: list, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_benchmark(options(**changes))
    assert commands == []
    assert not (tmp_path / "out").exists()
    for name, value in (("finetune", "nowhere.txt"), ("devices", 0)):
        with pytest.raises(InputError, match=f"--{name}: expected"):
            options(**{name: value})
    with pytest.raises(InputError, match="--devices 2: expected --device auto or cpu beside it"):
        options(devices=2, device="cuda:1")


def test_a_fine_tuned_checkpoint_is_no_start(
    options: Callable[..., BenchmarkOptions], finetuned: Path, commands: list
) -> None:
    with pytest.raises(InputError, match="expected a general checkpoint, got a finetune one"):
        run_benchmark(options(ckpt=str(finetuned)))
