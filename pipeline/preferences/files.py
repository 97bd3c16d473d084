"""Rows out of one file of text: JSON, JSON Lines or CSV, also compressed.

What may be missing or damaged is said by row or by a UserError. Which kind of file one is: kinds.py.
"""

import bz2
import codecs
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
import shlex
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.rows import Row, Rows, Source, Unreadable, lots
from pipeline.preferences.splits import chosen

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_POINTER = b"version https://git-lfs.github.com/spec/v1"  # begins what Git LFS leaves in a file's place
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")  # begins a frame of zstd that holds no content (RFC 8878)
_TO_UTF8 = "convert the file to UTF-8, such as by iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"


ANEW = "fetch or write it again: it was cut or changed on its way"
_QUOTED = 'double the quotation marks within fields (""), and close each field that begins with one; or give JSON Lines'


def unusable(path: Path, reason: str, remedy: str = "check that it is there and may be read") -> UserError:
    """The error for a file that `reason` keeps from being read."""
    return UserError(f"the file {str(path)!r} {reason}", remedy)


def begins(path: Path) -> bytes:
    """A file's first bytes. Raises UserError where they are not the file's own: it is a pointer of Git LFS."""
    if path.exists() and not path.is_file():  # a file is read more than once
        raise unusable(path, "is no file but a pipe or a device", "write what comes out of it to a file, and give that")
    try:
        with path.open("rb") as file:
            found = file.read(len(_POINTER))
    except OSError as error:
        raise unusable(path, f"cannot be read: {error}") from error
    if found == _POINTER:
        remedy = f"fetch it: git -C {shlex.quote(str(path.parent))} lfs pull"
        raise UserError(f"the file {str(path)!r} is a Git LFS pointer: its content was never fetched", remedy)
    return found


def _opened(path: Path) -> Any:
    """A file's content, decompressed where its first bytes say that it is compressed."""
    start = begins(path)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"BZh"):
        return io.BufferedReader(_Streams(path, bz2.BZ2Decompressor))
    if start.startswith(b"\xfd7zXZ\x00"):
        return io.BufferedReader(_Streams(path, lzma.LZMADecompressor))
    if start.startswith(b"\x28\xb5\x2f\xfd") or _SKIPPED.match(start):
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


class _Streams(io.RawIOBase):
    """What compressed streams, one after another, hold. bz2.open and lzma.open end in silence at one that is spoilt."""

    def __init__(self, path: Path, stream: Callable[[], Any]):
        self._file, self._stream, self._now = path.open("rb"), stream, stream()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found:
            given = self._now.unused_data if self._now.eof else b""
            if self._now.eof:  # zeros may stand between streams
                while not (given := given.lstrip(b"\0")):
                    if not (given := self._file.read(io.DEFAULT_BUFFER_SIZE)):
                        return 0
                self._now = self._stream()
            elif self._now.needs_input and not (given := self._file.read(io.DEFAULT_BUFFER_SIZE)):
                raise EOFError("it ends within a compressed stream")
            found = self._now.decompress(given, len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(path: Path) -> Iterator[bytes]:
    """The file's lines. Split on newline only: U+2028 may stand in a string."""
    try:
        with _opened(path) as lines:
            yield next(iter(lines), b"").removeprefix(codecs.BOM_UTF8)
            yield from lines
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:  # damage is reported by any of them
        if isinstance(error, OSError) and error.errno:  # of the system
            raise unusable(path, f"cannot be read: {error}") from error
        raise unusable(path, f"is damaged: {error}", ANEW) from error


def _once(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object. Raises ValueError where a key stands in it twice, of which one would be lost."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return row


_decode = json.JSONDecoder(object_pairs_hook=_once).decode


def _not_utf8(error: UnicodeDecodeError) -> str:
    """Which byte of its line is not UTF-8."""
    place, byte = error.start - error.object.rfind(b"\n", 0, error.start), error.object[error.start : error.start + 1]
    perhaps = byte.decode("cp1252", "replace")
    return f"byte {place}, 0x{byte.hex()}, is not UTF-8 ({perhaps!r} in Windows-1252)"


def _parse(line: bytes) -> Row | Unreadable:
    try:
        return _as_row(_decode(line.decode("utf-8")))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested beyond reason
        why = (
            f"{_not_utf8(error)}: {_TO_UTF8}"
            if isinstance(error, UnicodeDecodeError)
            else f"{type(error).__name__}: {error}"
        )
        return Unreadable(why, line[:200].decode("utf-8", "replace").rstrip())


def _as_row(value: Any) -> Row | Unreadable:
    return value if isinstance(value, dict) else Unreadable(f"a JSON {type(value).__name__}, not an object")


def open_json(path: Path, row_keys: Collection[str], split: str | None = None) -> Source:
    """JSON or JSON Lines. An object that has one of `row_keys` is a row, whatever lists are in it.

    `split` chooses among several lists of rows in one object; the identity then has it.
    """
    lines = (line for line in _lines(path) if line.strip())
    first, more = next(lines, b""), next(lines, None) is not None
    identity: dict[str, str | None] = {"sha256": digest(path)}
    # A list, an object printed over several lines, or a single object around lists is one JSON document.
    start = _parse(first)
    unfinished = more and first.lstrip().startswith(b"{") and isinstance(start, Unreadable)
    if (
        first.lstrip().startswith(b"[")
        or unfinished
        or (not more and isinstance(start, dict) and _lists_of_rows(start, row_keys))
    ):
        value = _document(path, must_parse=not unfinished or first.strip() == b"{")
        if value is not None:
            values, chose = _rows_of(value, path, row_keys, split)
            rows = Rows.of(lambda: ((n, _as_row(value)) for n, value in enumerate(values, 1)))
            return Source(rows, "json", identity | chose)
    numbered = Rows(lambda: lots(((n, line) for n, line in enumerate(_lines(path), 1) if line.strip()), _parse))
    return Source(numbered, "jsonl", identity)


def _document(path: Path, must_parse: bool) -> Any:
    content = b"".join(_lines(path))
    try:
        return _decode(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if not must_parse:
            return None
        if isinstance(error, UnicodeDecodeError):
            line = content.count(b"\n", 0, error.start) + 1
            raise UserError(f"the file {str(path)!r}, line {line}: {_not_utf8(error)}", _TO_UTF8) from None
        raise unusable(path, f"is not valid JSON: {error}", "mend it at that place, or write it again") from error


def _rows_of(
    value: Any, path: Path, row_keys: Collection[str], split: str | None
) -> tuple[list[Any], dict[str, str | None]]:
    """The rows that a document holds: a list, the list within an object such as {"data": [...]}, or of several lists
    the one that `split` names."""
    lists = _lists_of_rows(value, row_keys) if isinstance(value, dict) else {}
    if len(lists) > 1 or (lists and split is not None):
        split = chosen("split", split, path, lists)
        return lists[split], {"split": split}
    return next(iter(lists.values()), value if isinstance(value, list) else [value]), {}


def _lists_of_rows(value: Row, row_keys: Collection[str]) -> dict[str, list[Any]]:
    """The lists of objects inside an object; none where it is itself a row.

    One of them holds an object that has one of `row_keys`. Others are parts of a row, such as its completions.
    """
    if not value.keys().isdisjoint(row_keys):
        return {}
    lists = {
        name: items
        for name, items in value.items()
        if isinstance(items, list) and any(isinstance(item, dict) for item in items)
    }
    items = (item for items in lists.values() for item in items if isinstance(item, dict))
    return lists if any(not item.keys().isdisjoint(row_keys) for item in items) else {}


def open_csv(path: Path) -> Source:
    """Comma, semicolon or tab between fields, by the header. An empty field is null; all others are texts."""
    return Source(Rows.of(lambda: enumerate(_csv_rows(path), 1)), "csv", {"sha256": digest(path)})


class _Texts(Iterator[str]):
    """Lines as texts. `fault` tells of the first that was not UTF-8 since it was last empty: the row is counted out,
    not the file."""

    def __init__(self, lines: Iterator[bytes]):
        self._lines, self.fault = enumerate(lines, 1), ""

    def __next__(self) -> str:
        number, line = next(self._lines)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.fault = self.fault or f"line {number}: {_not_utf8(error)}"
            return line.decode("utf-8", "replace")


def _csv_rows(path: Path) -> Iterator[Row | Unreadable]:
    csv.field_size_limit(sys.maxsize)
    lines = _Texts(_lines(path))
    header = next(lines, "")
    if lines.fault:
        raise UserError(f"the file {str(path)!r}, {lines.fault}", _TO_UTF8)
    delimiter = max(",;\t", key=header.count)
    try:
        names = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error as error:  # such as lines that end in a carriage return alone
        remedy = "end its lines with line feeds, and close its quotation marks"
        raise unusable(path, f"is not valid CSV: its first line has a fault ({error})", remedy) from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise unusable(path, f"names the column {twice[0]!r} twice", "give one of them another name in its first line")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, lines.fault = reader.line_num + 2, ""
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "expected after" in str(error) or "end of data" in str(error):  # other rows may stand within the quotes
                problem = (
                    f"is not valid CSV: in the row of line {number} a quotation mark is not closed at a field's end"
                )
                raise unusable(path, problem, _QUOTED) from error
            yield Unreadable(f"line {reader.line_num + 1}: {error}")
            continue
        if fields is None:
            return
        if lines.fault:
            yield Unreadable(f"{lines.fault}: {_TO_UTF8}", delimiter.join(fields)[:200])
        elif len(fields) == len(names):
            yield {name: field or None for name, field in zip(names, fields, strict=True)}
        elif fields:
            detail = f"line {reader.line_num + 1}: {len(fields)} fields, the header has {len(names)}"
            yield Unreadable(detail, delimiter.join(fields)[:200])


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
