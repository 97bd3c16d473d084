"""The epoch as a table on disk: pairs, cached log-probs and schedule, joined once before any worker starts.

Parts of pairs stream through; of all pairs only ids and row numbers are held. Its files: epoch_files.py.

Of several streams, each of a line of its own, every stretch of `scheduled` holds them in proportion to their positions,
each in its own order; `held_out` and `once` have one stream after the other.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.results.files import ASIDE, file_digest, write_aside
from pipeline.settings.streams import FIRST, in_proportion
from pipeline.training.epoch_files import (
    ABOUT,
    FEATURES,
    FEATURES_AT,
    FORMAT,
    HELD_OUT,
    LABELS,
    MOST_SOURCES,
    ONCE,
    SCHEDULED,
    TOKENS,
    VALUES,
    Line,
    More,
    Numbers,
    Wanted,
    row_type,
)
from pipeline.training.epoch_pairs import IDS, ROWS, Cached, mapped, write_features, write_pairs

_AT_A_TIME = 1 << 16  # rows


def join(
    pairs: Path,
    reference: Path,
    schedule: Path,
    folder: Path,
    made_of: Mapping[str, str] | None = None,
    start: Path | None = None,
    streams: Mapping[str, Line] | None = None,
    features: Path | None = None,
    more: More = More(),  # noqa: B008 - frozen
) -> Path:
    """Write the table of these committed tables into `folder`, whole or not at all; returns `folder`.

    `streams` are those beside the first, by name; then there is no `more`. `made_of` says what all of them are by
    content. A table of the same that a killed run left there is kept; without `made_of` it is written anew. Raises
    UserError where a pair that is needed is in no other table, or where its cached log-probs are of other tokens, as
    another template gives them.
    """
    if made_of and stands(folder, made_of):
        return folder
    beside = folder.with_name(folder.name + ASIDE)
    for old in (beside, folder):
        shutil.rmtree(old, ignore_errors=True)
    beside.mkdir(parents=True)
    lines = [Line(pairs, reference, schedule, start, features), *(streams or {}).values()]
    try:
        wanted = [_wanted(line) for line in lines]
        row = row_type(max(each.id_bytes for each in wanted))
        values = {name: Cached(folder, tables.TOKEN_VALUES, pattern) for name, (folder, pattern) in more.values.items()}
        sources = write_pairs(lines, wanted, row, values, beside)
        about: dict[str, Any] = {"format": FORMAT, "made_of": dict(made_of or {})}
        about |= _write_rows(lines, wanted, row, beside, more.mismatched)
        if all(line.features for line in lines):
            write_features(lines, wanted, row, beside)
        (beside / ROWS).unlink()
        about |= {"streams": [FIRST, *(streams or {})], "values": list(values)}
        named = [name if len(lines) == 1 else f"{about['streams'][stream]}: {name}" for stream, name in sources]
        about["sources"] = named if len(named) <= MOST_SOURCES else None
        about["id_bytes"] = row["pair_id"].itemsize
        write_aside(beside / ABOUT, json.dumps(about | {"files": _files(beside)}, indent=2))
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)  # the disk may be full
        raise
    beside.rename(folder)
    return folder


def stands(folder: Path, made_of: Mapping[str, str]) -> bool:
    """Whether the table of inputs of that content is there, and whole.

    Of `tokens` and `values` only the size is looked at: each pair's are checked whenever they are read.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        known = about["format"] == FORMAT and about["made_of"] == dict(made_of)
        return known and bool(about["files"] == _files(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def room(line: Line, values: int = 0) -> int:
    """Bytes that the table of a stream takes while it is written, at most, with so many columns of values: by the
    footers of the files.
    """
    numbers = rows = 0
    for part in sorted(line.pairs.glob("part-*.parquet")):
        footer = pq.read_metadata(part)
        rows += 2 * footer.num_rows
        for group in map(footer.row_group, range(footer.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            numbers += sum(c.num_values for c in columns if c.path_in_schema.split(".")[0] in IDS) + 3 * group.num_rows
    rows += sum(pq.read_metadata(part).num_rows for part in line.schedule.glob("part-*.parquet"))
    numbers *= 1 + values
    for part in sorted(line.features.glob("part-*.parquet")) if line.features else ():
        footer = pq.read_metadata(part)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            numbers += sum(group.column(place).num_values for place in range(group.num_columns)) + 5 * group.num_rows
    return 4 * numbers + row_type(64).itemsize * rows


def _files(folder: Path) -> dict[str, list[Any]]:
    digested = [name for name in (SCHEDULED, HELD_OUT, ONCE, FEATURES_AT) if (folder / name).exists()]
    digests = {name: file_digest(folder / name) for name in digested}
    large = [name for name in (TOKENS, VALUES, FEATURES) if (folder / name).exists()]
    return {name: [(folder / name).stat().st_size, digests.get(name)] for name in (*large, *digests)}


def _wanted(line: Line) -> Wanted:
    known = tables.read(line.pairs, tables.PAIRS, ["pair_id", "split"])
    trained = tables.read(line.schedule, tables.SCHEDULE, ["pair_id", "route"])
    trained_ids = trained.filter(pc.not_equal(trained["route"], "drop"))["pair_id"]
    scheduled = _found(trained_ids, known["pair_id"], "pairs")
    held_out = np.flatnonzero(np.asarray(pc.equal(known["split"], "dev")))
    held_out_ids = known["pair_id"].take(pa.array(held_out))
    for folder in dict.fromkeys(line.scores):
        scored = tables.read(folder, tables.REFERENCE, ["pair_id"])["pair_id"]
        _found(pa.chunked_array(trained_ids.chunks + held_out_ids.chunks, pa.string()), scored, "reference")
    held_out = held_out[np.asarray(pc.sort_indices(held_out_ids), dtype=np.int64)]
    needed_P = np.zeros(known.num_rows, dtype=bool)
    needed_P[scheduled] = needed_P[held_out] = True
    number_P = needed_P.cumsum() - 1
    id_bytes = pc.max(pc.binary_length(known["pair_id"])).as_py() or 0
    return Wanted(needed_P, number_P[scheduled], number_P[held_out], id_bytes)


def _found(pair_ids: pa.ChunkedArray, among: pa.ChunkedArray, table: str) -> Numbers:
    """The row of each pair. Raises UserError where one has none."""
    rows = pc.index_in(pair_ids, value_set=among)
    if rows.null_count:
        problem = f"pair {pair_ids.filter(rows.is_null())[0]} is scheduled but is not in the {table} table"
        raise UserError(problem, "run the line again: python -m jobs.run")
    return np.asarray(rows, dtype=np.int64)


def _write_rows(
    lines: Sequence[Line],
    wanted: Sequence[Wanted],
    row: np.dtype[np.void],
    folder: Path,
    mismatched: Path | None = None,
) -> dict[str, Any]:
    """`scheduled`, `held_out` and `once`. Returns of each stream its positions and how many of them are in `once`, and
    of each of LABELS the first pair of a preference that lacks it.
    """
    pairs = mapped(folder / ROWS, row)
    firsts = np.cumsum([0, *(np.count_nonzero(own.needed_P) for own in wanted)])
    streams = [
        _stream(pairs, own.scheduled + first, _mismatched(mismatched, len(own.scheduled)), line.schedule)
        for line, own, first in zip(lines, wanted, firsts.tolist(), strict=False)
    ]
    positions = [len(own.scheduled) for own in wanted]
    lacking: dict[str, str | None] = dict.fromkeys(LABELS)
    met_N, once = np.zeros(len(pairs), dtype=bool), [list[Numbers]() for _ in lines]
    with open(folder / SCHEDULED, "wb") as scheduled:
        position = 0
        for rows in _in_proportion(streams, positions, row):
            scheduled.write(rows.tobytes())
            preferred = np.flatnonzero(rows["preference"])
            for name in LABELS:
                without = preferred[np.isnan(rows[name][preferred])][:1]
                lacking[name] = lacking[name] or next((rows["pair_id"][i].decode() for i in without), None)
            pair, first = np.unique(rows["number"][preferred], return_index=True)
            first = preferred[np.sort(first[~met_N[pair]])]
            met_N[pair] = True
            for stream, found in enumerate(once):
                found.append(position + first[rows["stream"][first] == stream])
            position += len(rows)
    with open(folder / ONCE, "wb") as file:
        file.writelines(each.astype("<i8").tobytes() for found in once for each in found)
    _write_held_out(pairs, firsts, wanted, folder / HELD_OUT)
    return {"lacking": lacking, "positions": positions, "once": [sum(map(len, found)) for found in once]}


def _write_held_out(pairs: npt.NDArray[np.void], firsts: Numbers, wanted: Sequence[Wanted], path: Path) -> None:
    with open(path, "wb") as file:
        for first, own in zip(firsts, wanted, strict=False):
            for begin in range(0, len(own.held_out), _AT_A_TIME):
                rows = pairs[first + own.held_out[begin : begin + _AT_A_TIME]]
                rows["difficulty"] = rows["mismatched"] = np.nan
                rows["preference"] = True
                file.write(rows.tobytes())


def _stream(
    pairs: npt.NDArray[np.void], scheduled: Numbers, mismatched_P: npt.NDArray[np.float64], schedule: Path
) -> Iterator[npt.NDArray[np.void]]:
    """A stream's rows, in the order of its own schedule, some at a time."""
    position = 0
    for batch in _scheduled(schedule):
        rows = pairs[scheduled[position : position + len(batch)]]
        rows["difficulty"] = batch["difficulty"].to_numpy(zero_copy_only=False)
        rows["preference"] = np.asarray(pc.equal(batch["route"], "preference"))
        rows["flipped"] = np.asarray(batch["flipped"])
        rows["mismatched"] = mismatched_P[position : position + len(batch)]
        yield rows
        position += len(batch)


def _in_proportion(
    streams: Sequence[Iterator[npt.NDArray[np.void]]], positions: Sequence[int], row: np.dtype[np.void]
) -> Iterator[npt.NDArray[np.void]]:
    """The rows of all streams, so many at a time: every stretch holds of each about its share of all."""
    if len(streams) == 1:
        yield from streams[0]
        return
    of = in_proportion(positions)  # each stream's own order stays
    held = [np.empty(0, dtype=row) for _ in streams]
    for begin in range(0, len(of), _AT_A_TIME):
        now = of[begin : begin + _AT_A_TIME]
        rows = np.empty(len(now), dtype=row)
        for stream, own in enumerate(streams):
            here = np.flatnonzero(now == stream)
            while len(held[stream]) < len(here):
                held[stream] = np.concatenate([held[stream], next(own)])
            rows[here], held[stream] = held[stream][: len(here)], held[stream][len(here) :]
        yield rows


def _mismatched(folder: Path | None, positions: int) -> npt.NDArray[np.float64]:
    """Of each position the cached log-prob of the mismatched answer; NaN where it has none."""
    found_P = np.full(positions, np.nan)
    if folder is not None:
        table = tables.read(folder, tables.REFERENCE, ["pair_id", "chosen_logps"])
        found_P[table["pair_id"].cast(pa.int64()).to_numpy()] = table["chosen_logps"].to_numpy()
    return found_P


def _scheduled(schedule: Path) -> Iterator[pa.RecordBatch]:
    """What the schedule says of its positions, without those of route drop."""
    for part in sorted(schedule.glob("part-*.parquet")):
        with pq.ParquetFile(part) as file:
            for batch in file.iter_batches(_AT_A_TIME, columns=["difficulty", "route", "flipped"]):
                yield batch.filter(pc.not_equal(batch["route"], "drop"))
