"""One process at a time trains in a run's folder: not two commands of one name, not two that resume one run."""

import errno
import fcntl
from pathlib import Path
from typing import IO


class FolderClaim:
    """A lock on a file in the folder, given up at the end of `with`.

    The system gives it up when the process ends, however that happens, and workers that it forked do not have it. On a
    file system without locks everybody may take it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".claim"
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Whether nobody else has it.

        Raises:
            OSError: when the folder cannot be written.
        """
        file = self.path.open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.close()
                return False
        self._file = file
        return True

    def __enter__(self) -> "FolderClaim":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
