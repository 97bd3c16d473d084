"""What the epoch's table holds of a pair itself: tokens, what is cached of it, its row without the schedule's part."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_bytes
from pipeline.results import tables
from pipeline.training.epoch_files import (
    FEATURES,
    FEATURES_AT,
    LABELS,
    LENGTHS,
    STARTS,
    SUMS,
    TOKENS,
    VALUES,
    Line,
    Numbers,
    Wanted,
)

IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
ROWS = "rows"  # while the table is written: the rows of all pairs that are needed, in the order of the pairs table
_READ = ("pair_id", *IDS, *LABELS, "source")
_OF_FEATURES = ("chosen_latents", "rejected_latents", "chosen_values", "rejected_values")


class Cached:
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


def write_pairs(
    lines: Sequence[Line],
    wanted: Sequence[Wanted],
    row: np.dtype[np.void],
    columns: Mapping[str, Cached],
    folder: Path,
) -> list[tuple[int, str]]:
    """`tokens` and `values`; and in ROWS a row a needed pair, without what the schedule says of it. Returns their
    sources, each of one stream. `columns` are those of values.
    """
    sources: dict[tuple[int, str], int] = {}
    start = at = number = 0
    with (
        open(folder / TOKENS, "wb") as tokens,
        open(folder / VALUES, "wb") as values,
        open(folder / ROWS, "wb") as rows,
    ):
        for stream, (line, own) in enumerate(zip(lines, wanted, strict=True)):
            scores = [Cached(each) for each in line.scores]
            for name, needed in _needed(line.pairs, own, _READ):
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


def _needed(pairs: Path, own: Wanted, columns: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The pairs of each part that are needed, with the part's name."""
    seen = 0
    for part in sorted(pairs.glob("part-*.parquet")):
        table = tables.read(pairs, tables.PAIRS, columns, part.name)
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
    for name, ids in zip(LENGTHS, IDS, strict=True):
        made[name] = pc.list_value_length(needed[ids]).to_numpy()
    for name in LABELS:
        made[name] = needed[name].to_numpy()
    for names, table in zip((SUMS, STARTS), cached, strict=True):
        for name, column in zip(names, SUMS, strict=True):
            made[name] = table[column].to_numpy()
    written = [tokens_bytes(*ids) for ids in zip(*(_lists(needed[name]) for name in IDS), strict=True)]
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


def write_features(lines: Sequence[Line], wanted: Sequence[Wanted], row: np.dtype[np.void], folder: Path) -> None:
    """`features` and `features_at`. Raises UserError where a pair has none, or those of other tokens."""
    rows, at, number = mapped(folder / ROWS, row), [0], 0
    with open(folder / FEATURES, "wb") as file:
        for line, own in zip(lines, wanted, strict=True):
            assert line.features
            cached = Cached(line.features, tables.FEATURES)
            for name, part in _needed(line.pairs, own, ["pair_id"]):
                found = cached.of(part["pair_id"], name)
                lists = zip(*(_lists(found[column]) for column in _OF_FEATURES), strict=True)
                for pair_id, digest, each in zip(
                    part["pair_id"], found["tokens_digest"].to_pylist(), lists, strict=True
                ):
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


def mapped(file: Path, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    return np.memmap(file, row, "r") if file.stat().st_size else np.zeros(0, row)
