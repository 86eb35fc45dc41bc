"""The processes of a run: those of a launcher (torchrun, Slurm, LSF, MPI) where there is one, else `--devices` many."""

import os
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from geometry import InputError, require
from training.options import RunOptions
from training.precision import device_of, resolved_precision

Options = TypeVar("Options", bound=RunOptions)

_LAUNCHERS: dict[type[ClusterEnvironment], str] = {  # in the order in which Lightning looks for them
    TorchElasticEnvironment: "torchrun",
    SLURMEnvironment: "Slurm",
    LSFEnvironment: "LSF",
    MPIEnvironment: "MPI",
}


@dataclass(frozen=True)
class World:
    """All processes of a run."""

    nodes: int
    devices: int
    """Processes per node."""

    @property
    def size(self) -> int:
        """How many they are."""
        return self.nodes * self.devices

    def __str__(self) -> str:
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        return f"processes: {self.size} ({nodes} x {self.devices})"


def launcher() -> ClusterEnvironment | None:
    """What has started this process, as Lightning recognizes it; None: the user, or Lightning itself.

    Raises:
        InputError: for a job that is not set up as Lightning needs it.
    """
    for kind, name in _LAUNCHERS.items():
        try:
            if kind.detect():
                return kind()
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise InputError(f"{name}: not usable for a run ({' '.join(str(error).split())[:200]})") from None
    return None


def world_of(devices: int | None, num_nodes: int | None) -> World:
    """The launcher's processes, without one `devices` of this machine (not given: 1).

    Raises:
        InputError: when `--devices` or `--num_nodes` contradicts the launcher, or asks for nodes without one.
    """
    environment = launcher()
    if environment is None:
        require(
            num_nodes in (None, 1),
            f"--num_nodes {num_nodes}: expected 1 without a launcher; torchrun or srun start processes on several",
        )
        require(
            devices is not None or local_rank() == 0,
            f"--devices: expected the number of processes, as LOCAL_RANK is {local_rank()} and no launcher is known",
        )
        return World(1, devices or 1)
    name = _LAUNCHERS[type(environment)]
    size, local = environment.world_size(), _local_size(environment)
    require(size % local == 0, f"{name}: expected equally many processes on every node, got {local} here of {size}")
    found = World(size // local, local)
    require(
        devices in (None, found.devices),
        f"--devices {devices}: {name} has started {found.devices} on this node; leave the option out or start as many",
    )
    require(
        num_nodes in (None, found.nodes),
        f"--num_nodes {num_nodes}: {name} runs on {found.nodes}; leave the option out or start as many",
    )
    return found


def local_rank() -> int:
    """Number of this process on its node."""
    return (launcher() or LightningEnvironment()).local_rank()


def global_rank() -> int:
    """Number of this process among all of the run."""
    environment = launcher()
    return LightningEnvironment().local_rank() if environment is None else environment.global_rank()


def resolved(options: Options) -> Options:
    """The options with the processes and the precision that the run will have, which is what a record holds.

    Raises:
        InputError: see `world_of`.
    """
    world = world_of(options.devices, options.num_nodes)
    precision = resolved_precision(options.precision, device_of(options.accelerator))
    return replace(options, devices=world.devices, num_nodes=world.nodes, precision=precision)


def require_one_process(what: str) -> None:
    """Refuse a launcher for what one process does: all of them would write the same files.

    Raises:
        InputError: naming `what`.
    """
    size = world_of(None, None).size
    require(size == 1, f"{what}: expected one process, got {size} of a launcher")


def _local_size(environment: Any) -> int:
    """Processes of the launcher on this node, which Lightning's environments do not tell."""
    if isinstance(environment, TorchElasticEnvironment):
        return int(os.environ["LOCAL_WORLD_SIZE"])
    if isinstance(environment, SLURMEnvironment):
        return max(1, environment.world_size() // int(os.environ.get("SLURM_NNODES", "1")))
    if isinstance(environment, LSFEnvironment):
        return max(1, environment.world_size() // len(set(environment._read_hosts())))
    environment.local_rank()  # makes the communicator of the node
    return environment._comm_local.Get_size()
