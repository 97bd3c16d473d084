"""Rows out of files: JSON, JSON Lines and Parquet. What may be missing or damaged is said by row or by a UserError."""

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Row = dict[str, Any]

# A folder with such names in it is laid out for the hub: its files belong to different splits.
_SPLIT_NAMES = ("train", "dev", "valid", "test")


@dataclass(frozen=True)
class Unreadable:
    """A row that is there but cannot be parsed; `content` is how it begins."""

    detail: str
    content: str = ""


@dataclass(frozen=True)
class Rows:
    """Numbered rows, counted from 1 (in JSON Lines: the line's number). Every iteration reads the source anew."""

    read: Callable[[], Iterator[tuple[int, Row | Unreadable]]]

    def __iter__(self) -> Iterator[tuple[int, Row | Unreadable]]:
        return self.read()


@dataclass(frozen=True)
class Source:
    """An opened source. `identity` says what the content is: a sha256, or a hub name with its commit and split."""

    rows: Rows
    loader: str  # jsonl | json | parquet | hub
    identity: dict[str, str | None]


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(f"the file {str(path)!r} {reason}", "check the file and its permissions, or write it again")


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines, through gzip where its magic is seen. Split on newline only: U+2028 may stand in a string."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            lines = gzip.GzipFile(fileobj=file) if compressed else file
            yield next(iter(lines), b"").removeprefix(codecs.BOM_UTF8)
            yield from lines
    except (OSError, EOFError, zlib.error) as error:  # gzip reports damage by any of the three
        raise _unusable(path, f"cannot be read: {error}") from error


def _parse(line: bytes) -> Row | Unreadable:
    try:
        return _as_row(json.loads(line.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        return Unreadable(f"{type(error).__name__}: {error}", line[:200].decode("utf-8", "replace").rstrip())


def _as_row(value: Any) -> Row | Unreadable:
    return value if isinstance(value, dict) else Unreadable(f"a JSON {type(value).__name__}, not an object")


def open_json(path: Path, row_keys: Collection[str] = ("chosen", "rejected")) -> Source:
    """JSON or JSON Lines. An object that has one of `row_keys` is a row, whatever lists are in it."""
    lines = (line for line in _lines(path) if line.strip())
    first, more = next(lines, b""), next(lines, None) is not None
    identity: dict[str, str | None] = {"sha256": _digest(path)}
    # A list, an object printed over several lines, or a single object around a list is one JSON document.
    start = _parse(first)
    unfinished = more and first.lstrip().startswith(b"{") and isinstance(start, Unreadable)
    if (
        first.lstrip().startswith(b"[")
        or unfinished
        or (not more and isinstance(start, dict) and _wrapped_list(start, row_keys))
    ):
        values = _document(path, row_keys, must_parse=not unfinished)
        if values is not None:
            return Source(Rows(lambda: ((n, _as_row(value)) for n, value in enumerate(values, 1))), "json", identity)
    rows = Rows(lambda: ((n, _parse(line)) for n, line in enumerate(_lines(path), 1) if line.strip()))
    return Source(rows, "jsonl", identity)


def _wrapped_list(value: Row, row_keys: Collection[str]) -> list[Any] | None:
    """The one list inside an object such as {"data": [...]}; None for an object that is itself a pair."""
    lists = [item for item in value.values() if isinstance(item, list)]
    return lists[0] if len(lists) == 1 and value.keys().isdisjoint(row_keys) else None


def _document(path: Path, row_keys: Collection[str], must_parse: bool) -> list[Any] | None:
    try:
        value = json.loads(b"".join(_lines(path)).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if not must_parse:
            return None
        raise _unusable(path, f"is not valid JSON: {error}") from error
    rows = _wrapped_list(value, row_keys) if isinstance(value, dict) else value
    return rows if rows is not None else [value]


def is_parquet(path: Path) -> bool:
    if path.suffix == ".parquet" or not path.is_file():
        return path.is_file()
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error}") from error


def is_folder_of_parts(folder: Path) -> bool:
    """Parquet parts side by side. A card, or names that tell splits apart, make a folder one for the hub's loader."""
    names = [entry.name for entry in folder.iterdir()]
    hub_shaped = any(name == "README.md" or name.startswith(_SPLIT_NAMES) for name in names)
    return not hub_shaped and any(name.endswith(".parquet") for name in names)


def open_parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]

    def read() -> Iterator[tuple[int, Row | Unreadable]]:
        number = 0
        for part in parts:
            try:
                for batch in pq.ParquetFile(part).iter_batches(batch_size=1024):
                    for row in _batch_rows(batch):
                        number += 1
                        yield number, row
            except (OSError, pa.ArrowException) as error:
                raise _unusable(part, f"is not valid Parquet: {error}") from error

    digest = folder_digest(path, parts) if path.is_dir() else _digest(path)
    return Source(Rows(read), "parquet", {"sha256": digest})


def _batch_rows(batch: Any) -> list[Row | Unreadable]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as text that is not UTF-8
        if batch.num_rows == 1:
            return [Unreadable(f"{type(error).__name__}: {error}")]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error}") from error


def folder_digest(folder: Path, files: list[Path]) -> str:
    """One sha256 over the files' names within `folder` and their contents."""
    listing = [[file.relative_to(folder).as_posix(), _digest(file)] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
