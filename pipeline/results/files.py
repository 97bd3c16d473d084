"""Files written whole or not at all, and their digests."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

MANIFEST = "manifest.json"  # in a folder of results, written last: it commits the others
ASIDE = ".tmp"  # ends the name of a file that is being written; one that is found was left by a killed run
_BLOCK = 1 << 20


def given_path(given: str, setting: str) -> Path:
    """A user's path, `~` expanded; whether it is there is not said. Raises UserError where none of that name can be."""
    try:
        path = Path(given).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be searched, a user who is none
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{setting}={given}: is no path that can be followed ({why})", "correct the path") from None
    return path


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The same of several, read by as many threads as there are cores: the sum is taken outside of Python."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(file_digest, paths))


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`: `path` is there whole or not at all, also where two write it at once, be they
    threads, or processes of two machines that have one number.

    Where that fails, as on a full disk, nothing of it stays.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{ASIDE}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_aside(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all."""
    with aside(path) as beside, open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class DigestMemory:
    """SHA-256 of files, remembered by path, size, mtime and inode, so that a plan need not read a model again.

    A stage that is about to use the bytes passes verify=True, which reads them in full.
    """

    def __init__(self, root: Path):
        self._file = root / ".digests.json"
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._known: dict[str, list[Any]] = known if isinstance(known, dict) else {}

    def knows(self, path: Path) -> bool:
        """Whether a digest of the file, as it is now, is remembered."""
        facts = path.stat()
        return self._known.get(str(path.resolve()), [])[:3] == [facts.st_size, facts.st_mtime_ns, facts.st_ino]

    def digest(self, path: Path, verify: bool = False) -> str:
        """SHA-256 (hex) of a file. With `verify`, raises UserError where its bytes are not those last digested."""
        key, facts = str(path.resolve()), path.stat()
        stamp = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
        known = self._known.get(key)
        if known and known[:3] == stamp and not verify:
            return str(known[3])
        value = file_digest(path)
        if known != [*stamp, value]:
            self._known[key] = [*stamp, value]
            with contextlib.suppress(OSError):  # a memory that cannot be kept costs time, not correctness
                self._file.parent.mkdir(parents=True, exist_ok=True)
                write_aside(self._file, json.dumps(self._known))
        if verify and known and known[3] != value:
            raise UserError(
                f"{path} changed since this run was planned, so its results would stand under a wrong address",
                "run the same command again: it plans with the new content",
            )
        return value
