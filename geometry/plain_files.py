"""What lies under a name: a file, or something that may never end."""

import errno
import io
import os
import stat
import zipfile
from pathlib import Path


def plain_file(path: Path) -> Path:
    """The path itself, to be opened at once; links are followed.

    A folder of strangers can hold a named pipe, which is opened when somebody writes to it, and links to devices, which
    have no end.

    Raises:
        OSError: as `open` for a path of nothing or of a folder, and for anything else that is no file.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return path


def is_inflated(archive: Path | io.BytesIO) -> bool:
    """Whether an archive's parts are larger than the archive: torch writes them as they are, so that none of its are.

    torch would unpack compressed ones, of which 1 MB can hold a GB.

    Raises:
        zipfile.BadZipFile: for what is no whole archive.
    """
    size = archive.getbuffer().nbytes if isinstance(archive, io.BytesIO) else archive.stat().st_size
    with zipfile.ZipFile(archive) as file:
        return sum(one.file_size for one in file.infolist()) > size
