"""Forks commands of the project from one process that has imported torch and Lightning already.

Most of a tiny run in a process of its own is imports (7 s). What runs here is as separate from the test as with
`subprocess`: own pid, environment, working directory and output; `__main__` is the script, signals end it alone.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    *("train_general", "train_finetune", "train_vggt", "train_vqa", "render.evaluate", "render.video"),
    *("tests.training.toy", "torch.distributed.fsdp", "torch.distributed.run"),
)


def next_request() -> dict[str, Any]:
    """Wait in the server; return once in each forked child, with what it is to run. Ends the server with its stdin."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            request = json.loads(line)
            folder = Path(request["folder"])
            child = os.fork()
            if child == 0:
                return request
            _, status = os.waitpid(child, 0)
            (folder / "ended").write_text(str(os.waitstatus_to_exitcode(status)))
            (folder / "ended").rename(folder / "status")
            os._exit(0)
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Take the request's environment, folder and output files."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(request["folder"]) / name, os.O_WRONLY | os.O_CREAT), number)


def execute(arguments: list[str]) -> None:
    """What `python ARGUMENTS` does, for a script, `-m MODULE` and `-c CODE`."""
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def end(stop: SystemExit | None) -> NoReturn:
    """As the interpreter does, without taking apart what was imported: that is seconds of a forked process."""
    if stop is not None and not isinstance(stop.code, int | None):
        print(stop.code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    code = None if stop is None else stop.code
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()
    one = next_request()
    become(one)
    try:
        execute(one["arguments"])
    except SystemExit as stop:
        end(stop)
    end(None)
