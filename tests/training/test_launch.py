"""Processes that a launcher starts are one run; what contradicts it stops by name on all of them."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from pytorch_lightning.plugins.environments import MPIEnvironment

from geometry import InputError
from tests.processes import Running, free_port, launched
from tests.training.commands import tiny_arguments
from tests.training.inprocess import outcome_of_general, outcome_of_vggt
from tests.training.toy import TOY
from training.checkpoint import read_checkpoint
from training.launch import World, launcher, local_rank, resolved, world_of
from training.nerf.checkpoint import read_nerf_checkpoint
from training.options import RunOptions

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"},
    **{"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1"},
}
SLURM = {
    **{"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"},
    **{"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
}
LSF = {"LSB_JOBID": "7", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "4", "JSM_NAMESPACE_RANK": "3"}


@pytest.fixture(params=["torchrun", "Slurm", "LSF", "MPI"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Four processes on two nodes; this is the last."""
    (tmp_path / "ranks").write_text(f"login\nother\nother\n{socket.gethostname()}\n{socket.gethostname()}\n")
    environments = {"torchrun": TORCHRUN, "Slurm": SLURM, "LSF": LSF | {"LSB_DJOB_RANKFILE": str(tmp_path / "ranks")}}
    if request.param == "MPI":  # mpi4py is not installed here
        local = SimpleNamespace(Get_size=lambda: 2, Get_rank=lambda: 1)
        every = SimpleNamespace(Get_size=lambda: 4, Get_rank=lambda: 3)
        monkeypatch.setattr(MPIEnvironment, "detect", staticmethod(lambda: True))
        monkeypatch.setattr(
            MPIEnvironment, "__init__", lambda self: self.__dict__.update(_comm_world=every, _comm_local=local)
        )
    with patch.dict(os.environ, environments.get(request.param, {})):  # Lightning adds variables of its own for LSF
        yield request.param


def test_the_launchers_world_is_taken(name: str) -> None:
    assert world_of(None, None) == world_of(2, 2) == World(nodes=2, devices=2)
    assert str(world_of(None, None)) == "processes: 4 (2 nodes x 2)"
    assert local_rank() == 1
    options = resolved(RunOptions())
    assert (options.devices, options.num_nodes, options.num_processes) == (2, 2, 4)


def test_what_contradicts_the_launcher_stops_by_name(name: str) -> None:
    with pytest.raises(InputError, match=rf"^--devices 4: {name} has started 2 on this node"):
        world_of(4, None)
    with pytest.raises(InputError, match=rf"^--num_nodes 3: {name} runs on 2"):
        world_of(None, 3)


def test_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher() is None
    assert world_of(None, None) == World(1, 1)
    assert world_of(3, 1) == World(1, 3)
    with pytest.raises(InputError, match=r"^--num_nodes 2: expected 1 without a launcher"):
        world_of(None, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert world_of(2, None) == World(1, 2)  # Lightning's own process
    with pytest.raises(InputError, match=r"^--devices: .* LOCAL_RANK is 1 and no launcher is known"):
        world_of(None, None)


def test_a_job_that_lightning_cannot_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(InputError, match=r"^Slurm: not usable for a run \(.*--ntasks-per-node=4") as caught:
        world_of(None, None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "more", [["--eval_only", "--eval_ckpt", "a"], ["--export", "a.safetensors", "--init_from", "a"]]
)
def test_what_one_process_does_refuses_a_launcher(more: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in TORCHRUN.items():
        monkeypatch.setenv(key, value)
    status, errors = outcome_of_vggt(["python", "train_vggt.py", *more])
    assert status == 2
    assert errors == f"error: {more[0]}: expected one process, got 4 of a launcher\n"


def at_once(*commands: list[str], environments: tuple[dict[str, str], ...] = ({}, {})) -> list[tuple[int, str, str]]:
    """Exit status, stdout and stderr of two commands that run beside each other."""
    started = [Running(command, **more) for command, more in zip(commands, environments, strict=True)]
    results = [process.result() for process in started]
    return [(result.returncode, result.stdout, result.stderr) for result in results]


@contextmanager
def torchrun_on_two_nodes(folder: Path) -> Iterator[list[dict[str, str]]]:
    """The command of docs/launching.md, once for each node: the environments in which it starts processes.

    What it starts is a shell that waits for the end of the block; processes without imports of their own (`Running`)
    take its place in the block.
    """
    wait = 'env -0 > "$0/$RANK.partial" && mv "$0/$RANK.partial" "$0/$RANK"; until [ -e "$0/end" ]; do sleep 0.05; done'
    where = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", free_port()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no_python", *where]
    agents = [Running([*torchrun, "--node_rank", str(rank), "sh", "-c", wait, str(folder)]) for rank in (0, 1)]
    try:
        for _ in range(3000):
            if all((folder / str(rank)).is_file() for rank in (0, 1)):
                break
            time.sleep(0.02)
        texts = [(folder / str(rank)).read_text() for rank in (0, 1)]
        yield [dict(line.split("=", 1) for line in text.split("\0") if "=" in line) for text in texts]
    finally:
        (folder / "end").touch()
        results = [agent.result() for agent in agents]
    assert [result.returncode for result in results] == [0, 0], results


def test_torchrun_on_two_nodes_is_one_run(small_dtu: Path, tmp_path: Path) -> None:
    """And a folder that holds a run is refused on both, though the first process alone looks."""
    base = tmp_path / "runs"
    more = ("--max_steps", "3", "--save_every", "3", "--n_views", "2", "--expname")
    command = tiny_arguments("train_general.py", small_dtu, base, *more, "two")
    with torchrun_on_two_nodes(tmp_path) as environments:
        assert [one["TORCHELASTIC_USE_AGENT_STORE"] for one in environments] == ["True", "True"]
        first, second = environments
        results = at_once(command, command, environments=(first, second))
    assert [status for status, *_ in results] == [0, 0], results
    printed = "".join(output for _, output, _ in results)
    assert printed.count("processes: ") == printed.count("processes: 2 (2 nodes x 1), accelerator: cpu") == 1
    assert len(list((base / "two").rglob("events*"))) == 1
    alone = tiny_arguments("train_general.py", small_dtu, base, *more, "one", "--scenes_per_step", "2")
    assert outcome_of_general(alone)[0] == 0
    one, two = (read_nerf_checkpoint(base / name / "checkpoints" / "last.ckpt") for name in ("one", "two"))
    assert (two.record.options["devices"], two.record.options["num_nodes"]) == (1, 2)
    for key, expected in one.contents["state_dict"].items():
        torch.testing.assert_close(two.contents["state_dict"][key], expected, atol=2e-4, rtol=1e-3, msg=key)
    refused = launched(command, nodes=2)
    assert [result.returncode for result in refused] == [2, 2]
    assert all(result.stderr.count("error: --expname: ") == 1 for result in refused), refused


def test_slurm_tasks_skip_a_step_together(tmp_path: Path) -> None:
    """Task 1 meets nan; task 0 skips too, and both know how many."""
    job = SLURM | {"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "MASTER_PORT": free_port()}
    job |= {"MASTER_ADDR": "127.0.0.1"}
    tasks = [job | {"SLURM_PROCID": task, "SLURM_LOCALID": task} for task in ("0", "1")]
    command = [sys.executable, "-m", "tests.training.toy", "--basedir", str(tmp_path), "--max_steps", "3"]
    command += ["--accelerator", "cpu", "--num_workers", "0", "--lrate_final", "0"]
    first, second = at_once(*[[*command, "--skip_non_finite", "1"]] * 2, environments=(tasks[0], tasks[1]))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "processes: 2 (1 node x 2)" in first[1]
    assert "processes: " not in second[1]
    assert "step 1: expected a finite loss, got nan for number nan: skipped, 1 of at most 1" in second[1]
    assert "skipped, 1 of" not in first[1]
    contents = read_checkpoint(tmp_path / "experiment" / "checkpoints" / "last.ckpt", TOY).contents
    assert contents["skipped_steps"] == {"non_finite": 1, "by_scaler": 0}
    assert {int(state["step"]) for state in contents["optimizer_states"][0]["state"].values()} == {2}
    stopped = at_once(*[[*command, "--expname", "stops"]] * 2, environments=(tasks[0], tasks[1]))
    assert [status for status, *_ in stopped] == [2, 2], stopped
    assert "got nan for samples of another process (--skip_non_finite 0" in stopped[0][2]
    assert "got nan for number nan (--skip_non_finite 0" in stopped[1][2]
