"""The epoch as a table on disk: pairs, cached log-probs and schedule, joined once before any worker starts.

Parts of pairs stream through; of all pairs only ids and row numbers are held. What a worker reads of it: epoch.py.

    tokens      of each pair that is needed its three lists of ids, each after its length: int32
    values      of each pair a checksum, and every column of values of both sides' tokens, where there are any: float32
    scheduled   a row a position of the schedule, in its order, without those of route drop
    held_out    a row a held-out pair, in the order of their ids
    features    where the objective looks at any: of each pair its sides' latents and values, as of `packed_features`
    features_at where each pair's begin in it, by the pair's number, and where the last one ends: int64
    once        the positions where a pair routed to preference stands for the first time: int64
    epoch.json  what it was made of, and what the other files must be

Of several streams, each of a line of its own, every stretch of `scheduled` holds them in proportion to their positions,
each in its own order; `held_out` and `once` have one stream after the other.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_bytes
from pipeline.results import tables
from pipeline.results.files import ASIDE, file_digest, write_aside
from pipeline.settings.streams import FIRST

TOKENS, VALUES, SCHEDULED, HELD_OUT, ONCE = "tokens", "values", "scheduled", "held_out", "once"
FEATURES, FEATURES_AT, ABOUT = "features", "features_at", "epoch.json"
LENGTHS = ("prompt", "chosen", "rejected")  # in tokens
SUMS = ("chosen_logps", "rejected_logps")  # as they are cached of the reference
STARTS = ("start_chosen_logps", "start_rejected_logps")  # and of the model that training starts from
LABELS = ("chosen_score", "rejected_score", "label_confidence")
FORMAT = 4  # raised when a table that was left by a killed run could not be read any more
MOST_SOURCES = 10_000  # whose names are kept; a column of more names no sources of labels, such as one of addresses
_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
_OF_FEATURES = ("chosen_latents", "rejected_latents", "chosen_values", "rejected_values")
_ROWS = "rows"  # while it is written: the rows of all pairs that are needed, in the order of the pairs table
_AT_A_TIME = 1 << 16  # rows

Numbers = npt.NDArray[np.integer[Any]]


class Line(NamedTuple):
    """The tables of a stream: of a line of its own up to its schedule.

    `start` holds log-probs as `reference` does, of the model that training starts from where that is another one.
    """

    pairs: Path
    reference: Path
    schedule: Path
    start: Path | None = None
    features: Path | None = None  # tables.FEATURES

    @property
    def scores(self) -> tuple[Path, Path]:
        return self.reference, self.start or self.reference


def row_type(id_bytes: int) -> np.dtype[np.void]:
    """A row of `scheduled` or `held_out`, pair ids of at most so many bytes. NaN: unknown.

    Everything is as the data says it; whoever reads a row exchanges the sides where it is flipped.
    """
    return np.dtype(
        [
            ("pair_id", f"S{max(1, id_bytes)}"),
            ("tokens_digest", "V32"),  # of its bytes in `tokens`, and of what the reference scored
            ("start", "<i8"),  # where these begin, in numbers
            ("values", "<i8"),  # where its values begin in `values`, in numbers
            *((name, "<i4") for name in LENGTHS),
            *((name, "<f8") for name in (*SUMS, *STARTS)),
            *((name, "<f8") for name in LABELS),
            ("mismatched", "<f8"),  # the cached log-prob of another pair's answer to its prompt; see mismatched.py
            ("source", "<i4"),  # its place in `sources` of ABOUT
            ("stream", "<i4"),
            ("number", "<i4"),  # of the pair, among all that are needed
            ("difficulty", "<f8"),
            ("preference", "?"),  # not sft
            ("flipped", "?"),
        ]
    )


@dataclass(frozen=True)
class More:
    """What some objectives read beside the three tables.

    `values`: columns of numbers a token by name, each the folder and the pattern of its files, of tables.TOKEN_VALUES;
    with a column `reference`, sums of log-probs are those of its tokens. `mismatched`: a folder of tables.REFERENCE,
    a row a position of the schedule.
    """

    values: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    mismatched: Path | None = None


def join(
    pairs: Path,
    reference: Path,
    schedule: Path,
    folder: Path,
    made_of: Mapping[str, str] | None = None,
    start: Path | None = None,
    streams: Mapping[str, Line] | None = None,
    features: Path | None = None,
    more: More = More(),
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
        values = {
            name: _Cached(folder, tables.TOKEN_VALUES, pattern) for name, (folder, pattern) in more.values.items()
        }
        sources = _write_pairs(lines, wanted, row, values, beside)
        about: dict[str, Any] = {"format": FORMAT, "made_of": dict(made_of or {})}
        about |= _write_rows(lines, wanted, row, beside, more.mismatched)
        if all(line.features for line in lines):
            _write_features(lines, wanted, row, beside)
        (beside / _ROWS).unlink()
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
            numbers += sum(c.num_values for c in columns if c.path_in_schema.split(".")[0] in _IDS) + 3 * group.num_rows
    rows += 2 * sum(pq.read_metadata(part).num_rows for part in line.schedule.glob("part-*.parquet"))
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


@dataclass(frozen=True)
class _Wanted:
    """Which pairs are needed, N of the P in the pairs table, numbered in its order; and where."""

    needed_P: npt.NDArray[np.bool_]
    scheduled: Numbers  # of each position, the number of its pair
    held_out: Numbers  # the same, in the order of their ids
    id_bytes: int


def _wanted(line: Line) -> _Wanted:
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
    return _Wanted(needed_P, number_P[scheduled], number_P[held_out], id_bytes)


def _found(pair_ids: pa.ChunkedArray, among: pa.ChunkedArray, table: str) -> Numbers:
    """The row of each pair. Raises UserError where one has none."""
    rows = pc.index_in(pair_ids, value_set=among)
    if rows.null_count:
        problem = f"pair {pair_ids.filter(rows.is_null())[0]} is scheduled but is not in the {table} table"
        raise UserError(problem, "run the line again: python -m jobs.run")
    return np.asarray(rows, dtype=np.int64)


class _Cached:
    """Rows by pair id. Those of a part of pairs are looked for in the part beside it, then everywhere."""

    def __init__(self, folder: Path, schema: pa.Schema = tables.REFERENCE, pattern: str = "part-*.parquet"):
        self.folder, self.schema, self.pattern = folder, schema, pattern
        self.whole: pa.Table | None = None

    def of(self, pair_ids: pa.ChunkedArray, part: str) -> pa.Table:
        """The rows of these pairs, which have one, in their order."""
        beside = self.pattern.replace("*", part.removeprefix("part-").removesuffix(".parquet"))
        found = tables.read(self.folder, self.schema, pattern=beside)  # none, or one
        rows = pc.index_in(pair_ids, value_set=found["pair_id"])
        if rows.null_count:
            if self.whole is None:
                self.whole = tables.read(self.folder, self.schema, pattern=self.pattern)
            found = self.whole
            rows = pc.index_in(pair_ids, value_set=found["pair_id"])
        return found.take(rows)


def _write_pairs(
    lines: Sequence[Line],
    wanted: Sequence[_Wanted],
    row: np.dtype[np.void],
    columns: Mapping[str, _Cached],
    folder: Path,
) -> list[tuple[int, str]]:
    """`tokens` and `values`; and in _ROWS a row a needed pair, without what the schedule says of it. Returns their
    sources, each of one stream. `columns` are those of values.
    """
    sources: dict[tuple[int, str], int] = {}
    start = at = number = 0
    with (
        open(folder / TOKENS, "wb") as tokens,
        open(folder / VALUES, "wb") as values,
        open(folder / _ROWS, "wb") as rows,
    ):
        for stream, (line, own) in enumerate(zip(lines, wanted, strict=True)):
            scores = [_Cached(each) for each in line.scores]
            for name, needed in _needed(line.pairs, own):
                made, written = _part(needed, [each.of(needed["pair_id"], name) for each in scores], row)
                numbers = _values(made, {key: each.of(needed["pair_id"], name) for key, each in columns.items()})
                made["start"] += start
                made["values"] += at
                made["stream"], made["number"] = stream, number + np.arange(len(made))
                made["source"] = [
                    sources.setdefault((stream, source), len(sources)) for source in needed["source"].to_pylist()
                ]
                start, at = start + sum(map(len, written)) // 4, at + sum(map(len, numbers)) // 4
                number += len(made)
                tokens.writelines(written)
                values.writelines(numbers)
                rows.write(made.tobytes())
    return list(sources)


def _needed(pairs: Path, own: _Wanted) -> Iterator[tuple[str, pa.Table]]:
    """The pairs of each part that are needed, with the part's name."""
    seen = 0
    for part in sorted(pairs.glob("part-*.parquet")):
        table = tables.read(pairs, tables.PAIRS, ["pair_id", *_IDS, *LABELS, "source"], part.name)
        yield part.name, table.filter(pa.array(own.needed_P[seen : seen + table.num_rows]))
        seen += table.num_rows


def _part(
    needed: pa.Table, cached: Sequence[pa.Table], row: np.dtype[np.void]
) -> tuple[npt.NDArray[np.void], list[bytes]]:
    """Rows of a part's pairs, `start` counted from the part's, and the bytes of their tokens; without their sources.

    `cached` are the log-probs that are SUMS, and those that are STARTS.
    """
    made = np.zeros(needed.num_rows, dtype=row)
    made["pair_id"] = needed["pair_id"].cast(pa.binary()).to_numpy()
    for name, ids in zip(LENGTHS, _IDS, strict=True):
        made[name] = pc.list_value_length(needed[ids]).to_numpy()
    for name in LABELS:
        made[name] = needed[name].to_numpy()
    for names, table in zip((SUMS, STARTS), cached, strict=True):
        for name, column in zip(names, SUMS, strict=True):
            made[name] = table[column].to_numpy()
    written = [tokens_bytes(*ids) for ids in zip(*(_lists(needed[name]) for name in _IDS), strict=True)]
    sizes = np.array([len(each) // 4 for each in written], dtype=np.int64)
    made["start"] = sizes.cumsum() - sizes
    scored = zip(*(table["tokens_digest"].to_pylist() for table in cached), strict=True)
    for i, (each, digests) in enumerate(zip(written, scored, strict=True)):
        digest = hashlib.sha256(each)
        made["tokens_digest"][i] = digest.digest()
        if {*digests} != {digest.hexdigest()}:
            raise UserError(
                f"pair {needed['pair_id'][i]}: the cached reference is of other tokens, as another template gives them",
                "make it anew: python -m jobs.run --force reference",
            )
    return made, written


def _values(made: npt.NDArray[np.void], columns: Mapping[str, pa.Table]) -> list[bytes]:
    """The bytes of a part's values; notes in `made` where they begin, counted from the part's, and the sums of what is
    the reference's. Raises UserError where they are of other tokens.
    """
    if not columns:
        return []
    for name, table in columns.items():
        for i, digest in enumerate(table["tokens_digest"].to_pylist()):
            if made["tokens_digest"][i].tobytes().hex() != digest:
                problem = f"pair {made['pair_id'][i].decode()}: its token values ({name}) are of other tokens"
                raise UserError(problem, "make them anew: python -m jobs.run --force weigh")
        if name == "reference":
            for side, sums, starts in zip(("chosen", "rejected"), SUMS, STARTS, strict=True):
                starts_there = made[starts] == made[sums]
                made[sums] = [values.sum(dtype=np.float64) for values in _lists(table[side])]
                made[starts] = np.where(starts_there, made[sums], made[starts])
    sides = [_lists(table[side]) for table in columns.values() for side in ("chosen", "rejected")]
    written = []
    for each in zip(*sides, strict=True):
        content = np.concatenate(each).astype("<f4").tobytes()
        written.append(zlib.crc32(content).to_bytes(4, "little") + content)
    sizes = np.array([len(each) // 4 for each in written], dtype=np.int64)
    made["values"] = sizes.cumsum() - sizes
    return written


def _lists(column: pa.ChunkedArray) -> Iterator[npt.NDArray[Any]]:
    """A column of lists of numbers, each as a view."""
    for chunk in column.chunks:
        offsets, values = np.asarray(chunk.offsets), np.asarray(chunk.values)
        yield from (values[begin:end] for begin, end in pairwise(offsets.tolist()))


def packed_features(chosen: Numbers, rejected: Numbers, *values: npt.NDArray[np.float32]) -> bytes:
    """A pair's features: how many each side has and a checksum of the rest, then both sides' latents and their values.

    Numbers are of four bytes each.
    """
    body = b"".join(each.tobytes() for each in (chosen, rejected, *values))
    return np.array([len(chosen), len(rejected), zlib.crc32(body)], dtype="<u4").tobytes() + body


def _write_features(lines: Sequence[Line], wanted: Sequence[_Wanted], row: np.dtype[np.void], folder: Path) -> None:
    """`features` and `features_at`. Raises UserError where a pair has none, or those of other tokens."""
    rows, at, number = _mapped(folder / _ROWS, row), [0], 0
    with open(folder / FEATURES, "wb") as file:
        for line, own in zip(lines, wanted, strict=True):
            assert line.features
            cached, seen = _Cached(line.features, tables.FEATURES), 0
            for part in sorted(line.pairs.glob("part-*.parquet")):
                pair_ids = tables.read(line.pairs, tables.PAIRS, ["pair_id"], part.name)["pair_id"]
                needed = pair_ids.filter(pa.array(own.needed_P[seen : seen + len(pair_ids)]))
                seen += len(pair_ids)
                found = cached.of(needed, part.name)
                lists = zip(*(_lists(found[name]) for name in _OF_FEATURES), strict=True)
                for pair_id, digest, each in zip(needed, found["tokens_digest"].to_pylist(), lists, strict=True):
                    if digest != rows["tokens_digest"][number].tobytes().hex():  # or there is none
                        raise UserError(
                            f"pair {pair_id}: the cached features are of other tokens, or there are none",
                            "make them anew: python -m jobs.run --force reference",
                        )
                    written = packed_features(*each)
                    file.write(written)
                    at.append(at[-1] + len(written))
                    number += 1
    (folder / FEATURES_AT).write_bytes(np.array(at, dtype="<i8").tobytes())


def _write_rows(
    lines: Sequence[Line],
    wanted: Sequence[_Wanted],
    row: np.dtype[np.void],
    folder: Path,
    mismatched: Path | None = None,
) -> dict[str, Any]:
    """`scheduled`, `held_out` and `once`. Returns of each stream its positions and how many of them are in `once`, and
    of each of LABELS the first pair of a preference that lacks it.
    """
    pairs = _mapped(folder / _ROWS, row)
    firsts = np.cumsum([0, *(np.count_nonzero(own.needed_P) for own in wanted)])
    for stream, (line, own) in enumerate(zip(lines, wanted, strict=True)):
        mismatched_P = _mismatched(mismatched, len(own.scheduled))
        to = folder / f"{_ROWS}-{stream}"
        _write_stream(pairs, own.scheduled + firsts[stream], mismatched_P, line.schedule, to)
    streams = [_mapped(folder / f"{_ROWS}-{stream}", row) for stream in range(len(lines))]
    lacking: dict[str, str | None] = dict.fromkeys(LABELS)
    met_N, once = np.zeros(len(pairs), dtype=bool), [list[Numbers]() for _ in lines]
    with open(folder / SCHEDULED, "wb") as scheduled:
        position = 0
        for rows in _in_proportion(streams, row):
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
    with open(folder / HELD_OUT, "wb") as file:
        for first, own in zip(firsts, wanted, strict=False):
            for begin in range(0, len(own.held_out), _AT_A_TIME):
                rows = pairs[first + own.held_out[begin : begin + _AT_A_TIME]]
                rows["difficulty"] = rows["mismatched"] = np.nan
                rows["preference"] = True
                file.write(rows.tobytes())
    positions = [len(own) for own in streams]
    for stream in range(len(lines)):
        (folder / f"{_ROWS}-{stream}").unlink()
    return {"lacking": lacking, "positions": positions, "once": [sum(map(len, found)) for found in once]}


def _write_stream(
    pairs: npt.NDArray[np.void],
    scheduled: Numbers,
    mismatched_P: npt.NDArray[np.float64],
    schedule: Path,
    file: Path,
) -> None:
    """A stream's rows, in the order of its own schedule."""
    position = 0
    with open(file, "wb") as opened:
        for batch in _scheduled(schedule):
            rows = pairs[scheduled[position : position + len(batch)]]
            rows["difficulty"] = batch["difficulty"].to_numpy(zero_copy_only=False)
            rows["preference"] = np.asarray(pc.equal(batch["route"], "preference"))
            rows["flipped"] = np.asarray(batch["flipped"])
            rows["mismatched"] = mismatched_P[position : position + len(batch)]
            opened.write(rows.tobytes())
            position += len(batch)


def _in_proportion(streams: Sequence[npt.NDArray[np.void]], row: np.dtype[np.void]) -> Iterator[npt.NDArray[np.void]]:
    """The rows of all streams, so many at a time: every stretch holds of each about its share of all."""
    if len(streams) == 1:
        yield from (streams[0][begin : begin + _AT_A_TIME] for begin in range(0, len(streams[0]), _AT_A_TIME))
        return
    places = np.concatenate([(np.arange(len(own)) + 0.5) / max(1, len(own)) for own in streams])
    of = np.repeat(np.arange(len(streams)), [len(own) for own in streams])
    of = of[np.argsort(places, kind="stable")]  # each stream's own order stays
    taken = [0] * len(streams)
    for begin in range(0, len(of), _AT_A_TIME):
        now = of[begin : begin + _AT_A_TIME]
        rows = np.empty(len(now), dtype=row)
        for stream, own in enumerate(streams):
            here = np.flatnonzero(now == stream)
            rows[here] = own[taken[stream] : taken[stream] + len(here)]
            taken[stream] += len(here)
        yield rows


def _mapped(file: Path, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.memmap(file, row, "r") if file.stat().st_size else np.zeros(0, row)


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
