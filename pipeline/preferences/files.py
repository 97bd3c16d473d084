"""Rows out of one file: JSON, JSON Lines, CSV, Parquet or Arrow, the texts also compressed.

What a file is, is found out by its first bytes; only CSV by its name, as any text might be one. What may be missing or
damaged is said by row or by a UserError.
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

Row = dict[str, Any]

TABLES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".ipc", *TABLES)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_BATCH = 1024  # rows that Parquet and Arrow are read by


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
    loader: str  # jsonl | json | csv | parquet | arrow, several joined by +, or hub
    identity: dict[str, str | None]


def unusable(path: Path, reason: str) -> UserError:
    """The error for a file that `reason` keeps from being read."""
    return UserError(f"the file {str(path)!r} {reason}", "check the file and its permissions, or write it again")


def open_file(path: Path, row_keys: Collection[str]) -> Source:
    """Any file that can be read. `row_keys` are names of which a row has one; see `open_json`."""
    begins = _begins(path)
    if is_parquet(path):
        return open_parquet(path)
    if begins.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return open_arrow([path], path)
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"the file {str(path)!r} is text in UTF-16", "save it as UTF-8")
    if begins.startswith(b"PK\x03\x04"):
        raise UserError(f"the file {str(path)!r} is a ZIP archive (or a spreadsheet)", "unpack it, or save it as CSV")
    return open_csv(path) if bare(path.name).endswith(TABLES) else open_json(path, row_keys)


def bare(name: str) -> str:
    """A file's name in lower case, without what says that it is compressed."""
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise unusable(path, f"cannot be read: {error}") from error


def _opened(path: Path) -> Any:
    """A file's content, decompressed where its first bytes say that it is compressed."""
    begins = _begins(path)
    if begins.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if begins.startswith(b"BZh"):
        return bz2.open(path)
    if begins.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    if begins.startswith(b"\x28\xb5\x2f\xfd"):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines. Split on newline only: U+2028 may stand in a string."""
    try:
        with _opened(path) as lines:
            yield next(iter(lines), b"").removeprefix(codecs.BOM_UTF8)
            yield from lines
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # damage is reported by any of them
        raise unusable(path, f"cannot be read: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object. Raises ValueError where a key stands in it twice, of which one would be lost."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return row


def _parse(line: bytes) -> Row | Unreadable:
    try:
        return _as_row(json.loads(line.decode("utf-8"), object_pairs_hook=_once))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        return Unreadable(f"{type(error).__name__}: {error}", line[:200].decode("utf-8", "replace").rstrip())


def _as_row(value: Any) -> Row | Unreadable:
    return value if isinstance(value, dict) else Unreadable(f"a JSON {type(value).__name__}, not an object")


def open_json(path: Path, row_keys: Collection[str]) -> Source:
    """JSON or JSON Lines. An object that has one of `row_keys` is a row, whatever lists are in it."""
    lines = (line for line in _lines(path) if line.strip())
    first, more = next(lines, b""), next(lines, None) is not None
    identity: dict[str, str | None] = {"sha256": digest(path)}
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
    """The one list inside an object such as {"data": [...]}; None for an object that is itself a row.

    A list of rows holds an object that has one of `row_keys`. Any other is a part of a row, such as its completions.
    """
    lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) != 1 or not value.keys().isdisjoint(row_keys):
        return None
    rows = [item for item in lists[0] if isinstance(item, dict) and not item.keys().isdisjoint(row_keys)]
    return lists[0] if rows else None


def _document(path: Path, row_keys: Collection[str], must_parse: bool) -> list[Any] | None:
    try:
        value = json.loads(b"".join(_lines(path)).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        if not must_parse:
            return None
        raise unusable(path, f"is not valid JSON: {error}") from error
    rows = _wrapped_list(value, row_keys) if isinstance(value, dict) else value
    return rows if rows is not None else [value]


def open_csv(path: Path) -> Source:
    """Comma, semicolon or tab between fields, by the header. An empty field is null; all others are texts."""
    return Source(Rows(lambda: enumerate(_csv_rows(path), 1)), "csv", {"sha256": digest(path)})


def _csv_rows(path: Path) -> Iterator[Row | Unreadable]:
    csv.field_size_limit(sys.maxsize)
    # What is not UTF-8 becomes lone surrogates, which no text may have: the row is counted out, not the file.
    lines = (line.decode("utf-8", "surrogateescape") for line in _lines(path))
    header = next(lines, "")
    delimiter = max(",;\t", key=header.count)
    try:
        names = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as error:  # such as lines that end in a carriage return alone
        raise unusable(path, f"is not valid CSV: its first line has a fault ({error})") from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise unusable(path, f"names the column {twice[0]!r} twice")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        begins = reader.line_num + 2
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "expected after" in str(error) or "end of data" in str(error):  # other rows may stand within the quotes
                problem = (
                    f"is not valid CSV: in the row of line {begins} a quotation mark is not closed at a field's end"
                )
                raise unusable(path, problem) from error
            yield Unreadable(f"line {reader.line_num + 1}: {error}")
            continue
        if fields is None:
            return
        if len(fields) == len(names):
            yield {name: field or None for name, field in zip(names, fields, strict=True)}
        elif fields:
            detail = f"line {reader.line_num + 1}: {len(fields)} fields, the header has {len(names)}"
            yield Unreadable(detail, delimiter.join(fields)[:200])


def is_parquet(path: Path) -> bool:
    return path.is_file() and (path.suffix == ".parquet" or _begins(path).startswith(b"PAR1"))


def open_parquet(path: Path) -> Source:
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        return pq.ParquetFile(path).iter_batches(batch_size=_BATCH)

    rows = Rows(lambda: enumerate(_column_rows(path, "Parquet", batches), 1))
    return Source(rows, "parquet", {"sha256": digest(path)})


def open_arrow(parts: list[Path], path: Path) -> Source:
    """Arrow's IPC format, as a file (Feather) or a stream (which the datasets library saves), or a folder's parts."""

    def read() -> Iterator[tuple[int, Row | Unreadable]]:
        rows = (row for part in parts for row in _column_rows(part, "Arrow", partial(_arrow, part)))
        return enumerate(rows, 1)

    content = folder_digest(path, parts) if path.is_dir() else digest(path)
    return Source(Rows(read), "arrow", {"sha256": content})


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as content:
        if _begins(path).startswith(b"ARROW1"):
            file = pa.ipc.open_file(content)
            batches: Any = (file.get_batch(place) for place in range(file.num_record_batches))
        else:
            batches = pa.ipc.open_stream(content)
        for batch in batches:
            batch.validate(full=True)  # Arrow trusts offsets as they stand, and reads where there is no memory
            yield from (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))


def _column_rows(path: Path, kind: str, batches: Callable[[], Iterator[Any]]) -> Iterator[Row | Unreadable]:
    import pyarrow as pa

    try:
        for batch in batches():
            yield from _batch_rows(batch)
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a column whose name is not UTF-8
        raise unusable(path, f"is not valid {kind}: {error}") from error


def _batch_rows(batch: Any) -> list[Row | Unreadable]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as text that is not UTF-8
        if batch.num_rows == 1:
            return [Unreadable(f"{type(error).__name__}: {error}")]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]


def digest(path: Path) -> str:
    """sha256 of a file. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unusable(path, f"cannot be read: {error}") from error


def folder_digest(folder: Path, files: list[Path], known: Mapping[Path, str | None] | None = None) -> str:
    """One sha256 over the files' names within `folder` and their contents, of which `known` are digests."""
    known = known or {}
    listing = [[file.relative_to(folder).as_posix(), known.get(file) or digest(file)] for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()
