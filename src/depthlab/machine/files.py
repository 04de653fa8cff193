"""Files that are whole or not there, and folders that one process uses at a time."""

import errno
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that knows no locks."""


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write which takes `path`'s place only when it is whole and on the disk.

    `keep`: where the file that was there goes; at any moment one of the two paths holds a whole file.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with half.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        half.replace(path)
        on_disk(path.parent)
    finally:
        half.unlink(missing_ok=True)


def on_disk(folder: Path) -> None:
    """Makes sure that a folder's names are on the disk, where its file system can tell."""
    if os.name != "posix":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(number)


def sweep(folder: Path) -> None:
    """Removes what `replacing` left in a folder when its process was killed. Only for the folder's one owner."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\d+", path.name):
            path.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process gets the lock on the file at `path`, which is made with its folder and stays.

    Raises BlockingIOError where another process has it; its text says which, on which host, since when. The system
    takes the lock back when the process ends, however it ends. It is a POSIX lock, which data workers do not inherit
    from the process that starts them, so that none outlives it; the threads of one process share it. On NFS the
    server keeps it for all hosts (version 3 needs its lock daemon); where the file system has no locks there is none.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    raise BlockingIOError(errno.EAGAIN, file.read().strip() or "another process") from None
                if error.errno not in NO_LOCKS:
                    raise
            if not _is(file.fileno(), path):  # its folder was moved away in the meantime
                continue
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            file.flush()
            yield
            return


def _is(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False
