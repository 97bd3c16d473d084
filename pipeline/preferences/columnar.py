"""Rows out of Parquet and Arrow files, batch by batch."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.preferences.files import ANEW, begins, digest, folder_digest, unusable
from pipeline.preferences.rows import LOT_BYTES, Held, Row, Rows, Source, Unreadable

_BATCH = 1024  # rows that Parquet and Arrow are read by; fewer are held together where they are long


def is_parquet(path: Path) -> bool:
    return path.is_file() and (begins(path).startswith(b"PAR1") or path.suffix == ".parquet")


def open_parquet(path: Path) -> Source:
    import pyarrow.parquet as pq

    def batches(path: Path) -> Iterator[Any]:
        return pq.ParquetFile(path).iter_batches(batch_size=_BATCH)

    return Source(Rows(partial(_held, [path], "Parquet", batches)), "parquet", {"sha256": digest(path)})


def open_arrow(parts: list[Path], path: Path) -> Source:
    """Arrow's IPC format, as a file (Feather) or a stream (which the datasets library saves), or a folder's parts."""
    content = folder_digest(path, parts) if path.is_dir() else digest(path)
    return Source(Rows(partial(_held, parts, "Arrow", _arrow)), "arrow", {"sha256": content})


def _arrow(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as content:
        if begins(path).startswith(b"ARROW1"):
            file = pa.ipc.open_file(content)
            batches: Any = (file.get_batch(place) for place in range(file.num_record_batches))
        else:
            batches = pa.ipc.open_stream(content)
        for batch in batches:
            batch.validate(full=True)  # Arrow trusts offsets as they stand, and reads where there is no memory
            yield from (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))


def _held(parts: list[Path], kind: str, batches: Callable[[Path], Iterator[Any]]) -> Iterator[Held]:
    """The rows of files, one after the other, as they stand in columns."""
    import pyarrow as pa

    number = 1
    for path in parts:
        try:
            for batch in batches(path):
                whole = pa.Table.from_batches([batch])  # of which Ray sends no more than its own rows
                step = max(1, min(_BATCH, whole.num_rows * LOT_BYTES // max(1, whole.nbytes)))
                for table in (whole.slice(start, step) for start in range(0, whole.num_rows, step)):
                    numbers = range(number, number + table.num_rows)
                    yield Held(numbers, table, partial(_parsed, path, kind), table.nbytes)
                    number += table.num_rows
        except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a column whose name is not UTF-8
            raise unusable(path, f"is not valid {kind}: {str(error).strip()}", ANEW) from error


def _parsed(path: Path, kind: str, table: Any) -> list[Row | Unreadable]:
    import pyarrow as pa

    try:
        return _batch_rows(table)
    except pa.ArrowException as error:
        raise unusable(path, f"is not valid {kind}: {str(error).strip()}", ANEW) from error


def _batch_rows(batch: Any) -> list[Row | Unreadable]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as text that is not UTF-8
        if batch.num_rows == 1:
            return [Unreadable(f"{type(error).__name__}: {error}")]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]
