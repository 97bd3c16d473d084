"""Rows out of Parquet and Arrow files, batch by batch."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.preferences.files import ANEW, Row, Rows, Source, Unreadable, begins, digest, folder_digest, unusable

_BATCH = 1024  # rows that Parquet and Arrow are read by


def is_parquet(path: Path) -> bool:
    return path.is_file() and (begins(path).startswith(b"PAR1") or path.suffix == ".parquet")


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
        if begins(path).startswith(b"ARROW1"):
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
        raise unusable(path, f"is not valid {kind}: {str(error).strip()}", ANEW) from error


def _batch_rows(batch: Any) -> list[Row | Unreadable]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as text that is not UTF-8
        if batch.num_rows == 1:
            return [Unreadable(f"{type(error).__name__}: {error}")]
        return [row for i in range(batch.num_rows) for row in _batch_rows(batch.slice(i, 1))]
