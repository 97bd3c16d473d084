"""The parts of pairs: all that are kept, in the order of rows, or the lowest ids of each split, in that order."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.preferences.changes import changed
from pipeline.preferences.tokenise import tokens_digest
from pipeline.prepare.blocks import LZ4, ROWS, read
from pipeline.prepare.copies import SPLITS, Copies, codes, is_kept, keys_of
from pipeline.results.tables import PAIRS, TOKEN_VALUES, write, write_tables

Places = np.ndarray[Any, np.dtype[np.int64]]
CHANGED = "changed"  # begins the names of parts of TOKEN_VALUES, which lie beside those of the pairs
TOGETHER = 2 * ROWS  # pairs that are written by one call, about
_BINS = 1 << 16  # of ids, by their first bits
_FILES = 256  # of pairs that are brought into the order of their ids, at most
_WRITTEN = ["row", *PAIRS.names]
# What a train pair may lack, by the name that settings have for it.
_OPTIONAL = {"scores": "chosen_score", "label_confidence": "label_confidence", "difficulty": "difficulty"}


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, in this order."""

    file: Path
    places: Places


@dataclass(frozen=True)
class Job:
    """Parts that are written together: the number of the first, of `size` pairs each, and where their rows are."""

    number: int
    size: int
    pieces: Sequence[Piece]
    folder: Path
    changed: bool = False  # whether it is kept, too, which tokens differ between the sides
    firsts: Sequence[int] = ()  # where several results are joined: the row that the first pair of each is


@dataclass(frozen=True)
class Written:
    """The parts of a job, with their rows; its train pairs; of each optional column how many lack it, and the first's
    row; and how many pairs of each result are in them, where several are joined."""

    number: int
    rows: dict[str, int]
    train: int
    lacking: dict[str, tuple[int, int]]
    joined: Sequence[int]


def jobs(pieces: Iterable[Piece], size: int, folder: Path, changed: bool, firsts: Sequence[int]) -> Iterator[Job]:
    """The pieces one after the other, as jobs of whole parts."""
    full = size * max(1, TOGETHER // size)
    number, held, count = 0, list[Piece](), 0
    for piece in pieces:
        places = piece.places
        while len(places):
            held.append(Piece(piece.file, places[: full - count]))
            places, count = places[full - count :], count + len(held[-1].places)
            if count == full:
                yield Job(number, size, held, folder, changed, firsts)
                number, held, count = number + full // size, [], 0
    if held:
        yield Job(number, size, held, folder, changed, firsts)


def write_parts(job: Job) -> Written:
    pairs = pa.concat_tables(read(piece.file, _WRITTEN).take(piece.places) for piece in job.pieces).combine_chunks()
    rows = {}
    for number, start in enumerate(range(0, pairs.num_rows, job.size), job.number):
        name = f"part-{number:05d}.parquet"
        part = pairs.select(PAIRS.names).slice(start, job.size).combine_chunks().cast(PAIRS)
        if job.changed:
            write(map(_changed, part.to_pylist()), TOKEN_VALUES, job.folder / f"{CHANGED}-{number:05d}.parquet")
        rows[name] = write_tables([part], PAIRS, job.folder / name)
    train = pairs.filter(pc.equal(pairs["split"], "train"))
    lacking = {}
    for name, column in _OPTIONAL.items():
        if train[column].null_count:
            without = train["row"].filter(pc.is_null(train[column]))
            lacking[name] = len(without), without[0].as_py()
    return Written(job.number, rows, train.num_rows, lacking, _joined(pairs, job.firsts))


def _joined(pairs: pa.Table, firsts: Sequence[int]) -> list[int]:
    """How many of the pairs are of each of several results, whose first rows these are."""
    if not firsts:
        return []
    of = np.searchsorted(firsts, pairs["row"].to_numpy(), side="right") - 1
    found: list[int] = np.bincount(of, minlength=len(firsts)).tolist()
    return found


def _changed(pair: dict[str, Any]) -> dict[str, Any]:
    """A row of TOKEN_VALUES: 1 for each token that is not the other side's."""
    chosen, rejected = changed(pair["chosen_ids"], pair["rejected_ids"])
    digest = tokens_digest(pair["prompt_ids"], pair["chosen_ids"], pair["rejected_ids"])
    return {"pair_id": pair["pair_id"], "tokens_digest": digest, "chosen": chosen, "rejected": rejected}


def lacking(written: Sequence[Written]) -> dict[str, dict[str, int]]:
    """Of each column that some train pairs have not got: how many, of how many, and the first's row. In order."""
    found: dict[str, dict[str, int]] = {}
    for each in written:
        for name, (pairs, row) in each.lacking.items():
            found.setdefault(name, {"pairs": 0, "row": row})["pairs"] += pairs
    train = sum(each.train for each in written)
    return {name: one | {"of": train} for name, one in found.items()}


def by_row(blocks: Sequence[Path], copies: Copies) -> Iterator[Piece]:
    """The pairs that are kept, in order."""
    start = 0
    for path in blocks:
        outcomes = read(path, ["reason"])
        kept = is_kept(outcomes, copies.within(start, outcomes.num_rows))
        start += outcomes.num_rows
        yield Piece(path, np.flatnonzero(kept))


def lowest(blocks: Sequence[Path], copies: Copies, limit: int, folder: Path) -> Iterator[Piece]:
    """`limit` train pairs, those of the lowest ids, whatever the order of rows; other splits in proportion.

    Splits come one after the other, that of the lowest id first, each in the order of ids. The pairs go through files
    in `folder`, each of a range of ids, so that no more than one such file is in memory.
    """
    counts, first = np.zeros((len(SPLITS), _BINS), np.int64), dict[str, str]()
    for pairs in _kept(blocks, copies, ["pair_id", "split"]):
        np.add.at(counts, (codes(pairs["split"]), _bin_of(pairs["pair_id"])), 1)
        for split in pc.unique(pairs["split"]).to_pylist():
            lowest_id = pc.min(pairs["pair_id"].filter(pc.equal(pairs["split"], split))).as_py()
            first[split] = min(lowest_id, first.get(split, lowest_id))
    totals = dict(zip(SPLITS, counts.sum(axis=1).tolist(), strict=True))
    share = min(1.0, limit / max(1, totals["train"]))
    wanted = {split: round(share * totals[split]) for split in sorted(first, key=first.__getitem__)}
    files = _ranges(counts, wanted)
    _scatter(blocks, copies, files, folder)
    for split, want in wanted.items():
        code, left = SPLITS.index(split), want
        for number in np.unique(files[code][files[code] >= 0]).tolist():
            path = _range_file(folder, number)
            places = np.asarray(pc.sort_indices(read(path, ["pair_id"])["pair_id"])).astype(np.int64)[:left]
            left -= len(places)
            yield Piece(path, places)


def _ranges(counts: Any, wanted: dict[str, int]) -> Any:
    """For every split and bin of ids the number of the file that its pairs go to; -1 for those that are not wanted."""
    files = np.full(counts.shape, -1, np.int64)
    size = max(TOGETHER, -(-sum(wanted.values()) // (_FILES - len(SPLITS))))
    number = 0
    for split, want in wanted.items():
        code = SPLITS.index(split)
        before = np.cumsum(counts[code]) - counts[code]
        used = (before < want) & (counts[code] > 0)
        files[code][used] = number + before[used] // size
        number = int(files[code].max(initial=number - 1)) + 1
    return files


def _scatter(blocks: Sequence[Path], copies: Copies, files: Any, folder: Path) -> None:
    with contextlib.ExitStack() as opened:
        writers: dict[int, Any] = {}
        for pairs in _kept(blocks, copies, _WRITTEN):
            goes_to = files[codes(pairs["split"]), _bin_of(pairs["pair_id"])]
            pairs = pairs.take(np.argsort(goes_to, kind="stable")).combine_chunks()
            numbers, starts, counts = np.unique(np.sort(goes_to), return_index=True, return_counts=True)
            for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
                if number < 0:
                    continue
                if number not in writers:
                    file = pa.ipc.new_file(str(_range_file(folder, number)), pairs.schema, options=LZ4)
                    writers[number] = opened.enter_context(file)
                writers[number].write_table(pairs.slice(start, count))


def _kept(blocks: Sequence[Path], copies: Copies, columns: list[str]) -> Iterator[pa.Table]:
    for piece in by_row(blocks, copies):
        yield read(piece.file, columns).take(piece.places)


def _bin_of(ids: pa.ChunkedArray) -> Any:
    return (keys_of(ids)[:, 0] >> np.uint64(48)).astype(np.int64)


def _range_file(folder: Path, number: int) -> Path:
    return folder / f"range-{number:03d}.arrow"
