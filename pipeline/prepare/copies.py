"""Copies of a pair, and pairs that speak against each other, found by content over all blocks.

Of the copies of a pair the first of those that say most is kept, whatever the order in which blocks were made. Pairs
are brought together by a hash partition on disk, so that no more than a part of them is in memory at a time.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.prepare.blocks import read

TOGETHER = 1 << 16  # pairs that are looked at at a time, about
FILES = 256  # of a partition, at most

SPLITS = ("train", "dev", "test")
VALUES = ("chosen_score", "rejected_score", "label_confidence", "difficulty")
Records = np.ndarray[Any, np.dtype[np.void]]

# What a copy says beside its texts; numbers that it does not give are NaN, a split is -1.
_SAYS: list[Any] = [("values", "f8", (len(VALUES),)), ("split", "i1")]
COPY = np.dtype(
    [("key", "u8", (2,)), ("side", "u1"), ("rank", "u1"), ("usable", "?"), ("place", "i8"), ("row", "i8"), *_SAYS]
)
DUPLICATE = np.dtype([("place", "i8"), *_SAYS])  # a copy that is not kept, and what the kept one says
PROMPT = np.dtype([("key", "u8", (2,)), ("place", "i8"), ("row", "i8"), ("split", "i1")])


@dataclass(frozen=True)
class Found:
    """How many there are, and the two rows that show it first."""

    count: int = 0
    rows: tuple[int, int] | None = None
    place: int = 0  # of the second row

    def plus(self, firsts: Records, seconds: Records) -> "Found":
        """With more: of each its two records."""
        if not len(firsts):
            return self
        later = np.maximum(firsts["place"], seconds["place"])
        one = int(np.argmin(later))
        if self.rows and self.place < later[one]:
            return Found(self.count + len(firsts), self.rows, self.place)
        pair = sorted((int(firsts["row"][one]), int(seconds["row"][one])))
        return Found(self.count + len(firsts), (pair[0], pair[1]), int(later[one]))


@dataclass(frozen=True)
class Copies:
    """What is known of all pairs together. A place is that of an outcome among those of all blocks, in order."""

    pairs: int  # different ones
    duplicates: Records  # by place
    contradicting: Found  # pairs whose two answers stand there with the label the other way round, too

    def within(self, start: int, count: int) -> Records:
        """The duplicates among `count` outcomes from a place on; their places are then counted from there."""
        begin, end = np.searchsorted(self.duplicates["place"], (start, start + count))
        found = self.duplicates[begin:end].copy()
        found["place"] -= start
        return found


def find_copies(blocks: Sequence[Path], total: int, folder: Path) -> Copies:
    """Look at all pairs of all blocks; `total` is about how many there are, `folder` where a partition may lie."""
    duplicates, pairs, contradicting = [np.empty(0, DUPLICATE)], 0, Found()
    for each in grouped(_copies(blocks), COPY, total, folder):
        best_last = (each["place"], 255 - each["rank"], each["side"], each["key"][:, 1], each["key"][:, 0])
        each = each[np.lexsort(best_last)]
        same = (each["key"][1:] == each["key"][:-1]).all(axis=1)
        again = np.concatenate([[False], same & (each["side"][1:] == each["side"][:-1])])[: len(each)]
        kept = each[np.maximum.accumulate(np.where(again, 0, np.arange(len(each))))[again]]
        found = np.empty(len(kept), DUPLICATE)
        found["place"], found["values"], found["split"] = each["place"][again], kept["values"], kept["split"]
        duplicates.append(found)
        first = each[~again]
        pairs += len(first)
        turned = (first["key"][1:] == first["key"][:-1]).all(axis=1) & first["usable"][1:] & first["usable"][:-1]
        contradicting = contradicting.plus(first[:-1][turned], first[1:][turned])
    every = np.concatenate(duplicates)
    return Copies(pairs, every[np.argsort(every["place"])], contradicting)


def find_shared_prompts(blocks: Sequence[Path], copies: Copies, total: int, folder: Path) -> Found:
    """Prompts that stand in more than one split, of pairs that are kept."""
    shared = Found()
    for each in grouped(_prompts(blocks, copies), PROMPT, total, folder):
        each = each[np.lexsort((each["place"], each["key"][:, 1], each["key"][:, 0]))]
        new = np.concatenate([[True], (each["key"][1:] != each["key"][:-1]).any(axis=1)])[: len(each)]
        group = np.cumsum(new) - 1
        first = each[new][group]
        others = np.flatnonzero(first["split"] != each["split"])
        _, one = np.unique(group[others], return_index=True)
        shared = shared.plus(first[others[one]], each[others[one]])
    return shared


def is_kept(outcomes: pa.Table, duplicates: Records) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Of a block's outcomes, with the column `reason`, those that are pairs to be used."""
    kept = np.asarray(pc.is_null(outcomes["reason"]))
    kept[duplicates["place"]] = False
    return kept


def keys_of(ids: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Ids of 32 hex digits as two numbers each, in the same order."""
    return np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), ">u8").reshape(-1, 2).astype(np.uint64)


def _copies(blocks: Sequence[Path]) -> Iterator[Records]:
    start = 0
    for path in blocks:
        outcomes = read(path, ["row", "pair_id", "mirrored_id", "reason", "own_split", "source", *VALUES])
        places = start + np.flatnonzero(np.asarray(pc.is_valid(outcomes["pair_id"])))
        start += outcomes.num_rows
        pairs = outcomes.filter(pc.is_valid(outcomes["pair_id"]))
        found = np.empty(pairs.num_rows, COPY)
        own, mirrored = keys_of(pairs["pair_id"]), keys_of(pairs["mirrored_id"])
        side = (own[:, 0] > mirrored[:, 0]) | ((own[:, 0] == mirrored[:, 0]) & (own[:, 1] > mirrored[:, 1]))
        found["key"], found["side"] = np.where(side[:, None], mirrored, own), side
        found["place"], found["row"] = places, pairs["row"].to_numpy()
        found["usable"] = np.asarray(pc.is_null(pairs["reason"]))
        found["values"] = np.stack([pairs[name].to_numpy() for name in VALUES], axis=1)
        found["split"] = codes(pairs["own_split"])
        # Numbers count most, then the split, then the source.
        numbers = (~np.isnan(found["values"][:, [0, 2, 3]])).sum(axis=1)
        found["rank"] = 4 * numbers + 2 * (found["split"] >= 0) + np.asarray(pc.not_equal(pairs["source"], ""))
        yield found


def _prompts(blocks: Sequence[Path], copies: Copies) -> Iterator[Records]:
    start = 0
    for path in blocks:
        outcomes = read(path, ["row", "prompt_id", "reason", "split"])
        kept = np.flatnonzero(is_kept(outcomes, copies.within(start, outcomes.num_rows)))
        pairs = outcomes.take(kept)
        found = np.empty(len(kept), PROMPT)
        found["key"], found["place"], found["row"] = keys_of(pairs["prompt_id"]), start + kept, pairs["row"].to_numpy()
        found["split"] = codes(pairs["split"])
        start += outcomes.num_rows
        yield found


def codes(splits: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int8]]:
    """Splits as their number in SPLITS; null is -1."""
    found = pc.index_in(splits, value_set=pa.array(SPLITS, splits.type))
    return pc.fill_null(found, -1).to_numpy().astype(np.int8)


def grouped(records: Iterable[Records], kind: np.dtype[Any], total: int, folder: Path) -> Iterator[Records]:
    """The same records, some at a time, of which all with one `key` come together.

    Where there are many of them they go through files in `folder`, by the first bits of their keys, which are digests.
    """
    bits = min(FILES, max(1, total // TOGETHER)).bit_length() - 1
    if not bits:
        yield np.concatenate([np.empty(0, kind), *records])
        return
    paths = [folder / f"partition-{number:03d}" for number in range(1 << bits)]
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for each in records:
            goes_to = (each["key"][:, 0] >> np.uint64(64 - bits)).astype(np.int64)
            for number in np.unique(goes_to):
                each[goes_to == number].tofile(files[number])
    for path in paths:
        found = np.fromfile(path, kind)
        path.unlink()
        yield found
