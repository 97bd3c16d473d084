"""A lock that one process holds at a time, and whose file goes away with it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold the lock that `file` stands for. Raises BlockingIOError where another process holds it.

    The file is removed while the lock is held. Whoever opened it before that and locks it afterwards has a file that is
    no longer there, sees it, and opens anew. A killed process leaves the file, and with it no lock.
    """
    while True:
        with open(file, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, lock.fileno()):
                continue
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
            return


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
