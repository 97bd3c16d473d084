"""Locks: one that a process holds alone, and whose file goes away with it; and one on a file that is in use."""

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


@contextlib.contextmanager
def in_use(file: Path) -> Iterator[None]:
    """Within it `unused` refuses the file; any number of processes may be. Raises FileNotFoundError where it is gone.

    On a file system without such locks nothing is held.
    """
    with open(file, "rb") as held:
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_SH)  # waits for one who is about to remove it
        if not _is_at(file, held.fileno()):
            raise FileNotFoundError(file)
        yield


@contextlib.contextmanager
def unused(file: Path) -> Iterator[None]:
    """Within it nobody is `in_use` of the file. Raises OSError where somebody is, or nobody can tell."""
    with open(file, "rb+") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
