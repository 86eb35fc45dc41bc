"""Notebooks run on tiny data and are kept without outputs."""

import os
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from tests.render.tiny import SCAN, write_checkpoint, write_data

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = ["cameras_and_rays", "render_video", "vggt_features"]


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("notebooks")
    return {
        "DATADIR": str(write_data(folder / "dtu")),
        "CKPT": str(write_checkpoint(folder / "last.ckpt", with_depth=True)),
        "SCAN": SCAN,
        "FRAMES": "2",
        "IMG_SCALE": "0.5",
        "OUT": str(folder / "video.mp4"),
    }


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
