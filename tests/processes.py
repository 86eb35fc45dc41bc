"""Commands of the project in processes of their own, without paying for the imports each time (`process_server`)."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def _server() -> subprocess.Popen:
    """One per test process, started by the first test that needs it; it ends with the test process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "process_server.py")]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, text=True)


class Running:
    """A command that was started: `[python, script or -m or -c, arguments...]`."""

    def __init__(self, command: list[str], **more: str) -> None:
        self.command = command
        self.folder = Path(tempfile.mkdtemp(prefix="command_"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        request = {"arguments": command[1:], "folder": str(self.folder), "cwd": str(ROOT), "environment": environment}
        pipe = _server().stdin
        assert pipe is not None
        pipe.write(json.dumps(request) + "\n")
        pipe.flush()

    def result(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Wait for its end (seconds)."""
        for _ in range(int(timeout / 0.02)):
            if (self.folder / "status").is_file():
                status = int((self.folder / "status").read_text())
                texts = [(self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
                return subprocess.CompletedProcess(self.command, status, *texts)
            assert _server().poll() is None, "the server of processes has ended"
            time.sleep(0.02)
        raise subprocess.TimeoutExpired(self.command, timeout)


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def launched(command: list[str], *, nodes: int = 1) -> list[subprocess.CompletedProcess]:
    """The command as the two processes that torchrun would start, on one node or on two."""
    world = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(2 // nodes)}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    local, group = ((0, 1), (0, 0)) if nodes == 1 else ((0, 0), (0, 1))
    ranks = [{"RANK": str(k), "LOCAL_RANK": str(local[k]), "GROUP_RANK": str(group[k])} for k in (0, 1)]
    processes = [Running(command, **world, **rank) for rank in ranks]
    return [process.result() for process in processes]


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess:
    """Run to the end; with `check`, a failure shows what the command printed."""
    result = Running(command).result()
    if check and result.returncode != 0:
        raise AssertionError(f"{command} exited {result.returncode}:\n{result.stderr[-3000:]}")
    return result
