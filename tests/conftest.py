"""Data that several test folders read, made once per session; random numbers that do not depend on the tests before."""

import gc
import os
from pathlib import Path

import pytest
import torch

from data.cache import CACHE_VARIABLE
from data.procedural.generate import generate
from data.procedural.writers import GeneratorSettings

gc.disable()  # what is imported is no garbage; see `pytest_collection_finish`
torch.set_num_threads(1)
os.environ[CACHE_VARIABLE] = "off"  # also of the processes that tests start; tests of the cache name a folder


def pytest_collection_finish() -> None:
    """What is imported by now stays: no collection of garbage in a test looks at it again."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Libraries that count what is left at the end find nothing."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Which tests share a process depends on how fast the machine is; what they draw must not."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small_dtu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three procedural scans of 20 views, 40x32, with depth, in the DTU layout."""
    folder = tmp_path_factory.mktemp("small_dtu") / "dtu"
    settings = GeneratorSettings(layout="dtu", width=40, height=32, views=20, seed=1, lights=1, first_scan=2)
    generate(folder, settings, 3, workers=1)
    return folder
