"""`_process_log.json` of a scene: which stages have run, with what end; and the lock of who is at work on it."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data.image_io import write_bytes
from data.wai.scene_meta import DATE_FORMAT
from geometry import InputError

LOG_NAME, LOCK_NAME = "_process_log.json", "_scene.lock"
RUNNING, FINISHED, FAILED = "running", "finished", "failed"


@dataclass(frozen=True)
class ProcessLog:
    """The log of one scene's folder."""

    root: Path

    def read(self) -> dict[str, Any]:
        """By stage; a log that cannot be read counts as empty, so that the stages run again."""
        try:
            content = json.loads((self.root / LOG_NAME).read_text())
        except (OSError, ValueError):
            return {}
        return {key: value for key, value in content.items() if isinstance(value, dict)} if _is_object(content) else {}

    def state(self, stage: str) -> str | None:
        """running (also of a process that died), finished, failed, or None: never begun."""
        return self.read().get(stage, {}).get("state")

    def settings(self, stage: str) -> Any:
        """What a stage was run with."""
        return self.read().get(stage, {}).get("settings")

    def record(self, stage: str, state: str, message: str = "", settings: Any = None) -> None:
        """Set the state of a stage; the log before is kept as `_process_log_backup.json`."""
        path, content = self.root / LOG_NAME, self.read()
        content[stage] = {
            "state": state,
            "message": message,
            "date": datetime.now().strftime(DATE_FORMAT),
            "wai_commit_hash": "",
            "wai_code_state_link": "",
            "script_path": sys.argv[0],
            "settings": settings,
        }
        if path.is_file():
            write_bytes(self.root / "_process_log_backup.json", path.read_bytes())
        write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())

    def forget_others(self, stage: str) -> None:
        """Drop all other stages: one that writes the scene anew names none of their results, so they run again."""
        content = self.read()
        if content.keys() - {stage}:
            kept = {stage: content[stage]} if stage in content else {}
            write_bytes(self.root / LOG_NAME, (json.dumps(kept, indent=2) + "\n").encode())

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the scene's lock, which a process that dies gives back.

        Raises:
            InputError: when another process is at work on the scene.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.root / LOCK_NAME), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"{self.root}: expected a scene that nobody works on, got one that is locked") from None
        try:
            yield
        finally:
            lock.release()


def _is_object(content: Any) -> bool:
    return isinstance(content, dict)
