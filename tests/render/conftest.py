"""Data and checkpoints are made once; tests only read them."""

from pathlib import Path

import pytest

from tests.render.tiny import SCAN, write_checkpoint, write_data


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "dtu")


@pytest.fixture(scope="session")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("general") / "last.ckpt")


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    options = {"dataset_name": "dtu", "datadir": str(data_root), "scans": [SCAN]}
    return write_checkpoint(tmp_path_factory.mktemp("finetuned") / "last.ckpt", task="finetune", options=options)
