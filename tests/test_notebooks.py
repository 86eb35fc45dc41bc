"""Notebooks run on tiny data and are kept without outputs."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from data.occupancy.convert import main as convert
from render.benchmark import run_benchmark
from render.evaluate import evaluate
from render.options import BenchmarkOptions, EvaluateOptions
from tests.render.answering import write_weights
from tests.render.forecast.test_forecast import write_network
from tests.render.tiny import SCAN, write_checkpoint, write_data

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ["ask", "cameras_and_rays", "forecast", "metrics", "render_video", "vggt_features"]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("notebooks")
    datadir, ckpt = write_data(folder / "dtu"), write_checkpoint(folder / "last.ckpt", with_depth=True)
    return {
        "DATADIR": str(datadir),
        "CKPT": str(ckpt),
        "OCCUPANCY_CKPT": str(write_network(folder)),
        "SESSION": str(write_worlds(folder / "sessions")),
        "BENCHMARK": str(write_benchmark(folder / "benchmark", datadir, ckpt)),
        "SCAN": SCAN,
        "FRAMES": "2",
        "IMG_SCALE": "0.5",
        "OUT": str(folder / "video.mp4"),
        "QA_CKPT": str(write_weights(folder / "qa.safetensors")),
        "QUESTIONS": "2",
    }


def write_worlds(out: Path) -> Path:
    convert(["--procedural", "1", "--frames", "7", "--out", str(out)])
    return out / "drone_20260101_000000"


def write_benchmark(out: Path, datadir: Path, ckpt: Path) -> Path:
    """Results as of `render.benchmark`, made in this process: what it would run has nothing left to do."""
    common = {"ckpt": str(ckpt), "datadir": str(datadir), "scans": (SCAN,), "imgScale_test": 0.5, "device": "cpu"}
    evaluate(EvaluateOptions(**common, protocol="dtu-nearest3", out=str(out / SCAN / "general")))
    run_benchmark(BenchmarkOptions(**common, protocol="dtu-nearest3", out=str(out)))
    return out


def test_all_notebooks_are_known():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_stripped(name: str):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


@pytest.fixture(scope="module")
def kernel(parameters: dict[str, str]) -> Iterator[KernelManager]:
    """One for all notebooks: importing torch and Lightning takes longer than running them."""
    manager = KernelManager(kernel_name="python3")
    environment = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", **parameters}
    manager.start_kernel(env={**os.environ, **environment})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name: str, parameters: dict[str, str], kernel: KernelManager):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # names of the notebook before are gone
    # seconds for the start and for each cell; a loaded machine needs minutes to import torch
    NotebookClient(notebook, km=kernel, timeout=600, startup_timeout=600).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.output_type == "error" for output in outputs)
    if name == "render_video":
        assert Path(parameters["OUT"]).stat().st_size > 500


def test_a_benchmark_of_which_no_scan_is_done_is_shown(
    parameters: dict[str, str], kernel: KernelManager, tmp_path: Path
):
    """Every fine-tuning has failed: nothing to average, and one scan has no result at all."""
    metrics = json.loads((Path(parameters["BENCHMARK"]) / "benchmark.json").read_text())
    metrics |= {"mean": {}, "baselines": {}, "averaged_scans": 0, "failed": {SCAN: "killed", "scan8": "killed"}}
    for scans in ({**metrics["scans"], "scan8": {}}, {SCAN: {}, "scan8": {}}):
        (tmp_path / "benchmark.json").write_text(json.dumps(metrics | {"scans": scans}))
        if not (tmp_path / SCAN).exists():
            (tmp_path / SCAN).symlink_to(Path(parameters["BENCHMARK"]) / SCAN)
        notebook = nbformat.read(FOLDER / "metrics.ipynb", as_version=4)
        start = f"%reset -f\nimport os\nos.environ['BENCHMARK'] = {str(tmp_path)!r}"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
        restore = f"os.environ['BENCHMARK'] = {parameters['BENCHMARK']!r}"
        notebook.cells.append(nbformat.v4.new_code_cell(restore))
        NotebookClient(notebook, km=kernel, timeout=600, startup_timeout=600).execute()
        printed = "".join(output.get("text", "") for output in notebook.cells[2].outputs)
        assert "means over 0 scans" in printed
        assert "failed: scan8 (killed)" in printed
