"""The epoch as a table: which pair is trained when, on which route or not at all, and which labels are flipped.

Made once, before training, in columns: of a pair it holds the id, its difficulty and a few bytes, however many there
are. Everything is keyed by pair id, so that no order of files or rows changes it.
Shapes: [N] train pairs, in the order given; [P] positions of the table.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.randomness import uniforms
from pipeline.results import tables
from pipeline.settings.training import Schedule
from pipeline.statistics import share_of

Rows = npt.NDArray[np.int64]  # places among the N pairs
Values = npt.NDArray[Any]

ROUTES = ("preference", "sft", "drop")
_PREFERENCE, _SFT, _DROP = range(len(ROUTES))
_GROUP = 1 << 20  # rows that are laid out at a time


@dataclass(frozen=True, eq=False)
class Scheduled:
    """What becomes of N pairs, and which of them stands at each of P positions: the trained ones, then the dropped."""

    pair_ids: pa.Array  # [N] large_string
    difficulty: pa.ChunkedArray  # [N]; null where unknown
    routes_N: npt.NDArray[np.uint8]  # places in ROUTES
    flipped_N: npt.NDArray[np.bool_]
    pairs_P: Rows

    def tables(self, rows: int = _GROUP) -> Iterator[pa.Table]:
        """Rows of tables.SCHEDULE, so many at a time; one table without rows where there are none."""
        for start in range(0, max(1, len(self.pairs_P)), rows):
            here_P = self.pairs_P[start : start + rows]
            taken = pa.array(here_P)
            columns = [
                pa.array(np.arange(start, start + len(here_P))),
                self.pair_ids.take(taken).cast(pa.string()),
                self.difficulty.take(taken),
                pa.DictionaryArray.from_arrays(self.routes_N[here_P], ROUTES).cast(pa.string()),
                pa.array(self.flipped_N[here_P]),
            ]
            yield pa.Table.from_arrays(columns, schema=tables.SCHEDULE)

    def counts(self) -> dict[str, int]:
        """Positions by route, and how many of the trained ones are flipped."""
        routes_P = self.routes_N[self.pairs_P]
        counts = np.bincount(routes_P, minlength=len(ROUTES)).tolist()
        flipped = np.count_nonzero(self.flipped_N[self.pairs_P] & (routes_P != _DROP))
        return {**dict(zip(ROUTES, counts, strict=True)), "flipped": int(flipped)}


def margins(pairs: pa.Table, by: str, seed: int = 0) -> pa.ChunkedArray:
    """How clearly chosen beats rejected, [N]: in units of the score, nats, nats a token, or the data's own difficulty.

    Difficulty is its negative. Null where a pair lacks what is needed, as do all where `pairs` lacks the column.
    `by` is a value of schedule.difficulty; a random one is drawn by the seed and the pair's id.
    """

    def column(name: str) -> pa.ChunkedArray:
        absent = pa.chunked_array([pa.nulls(pairs.num_rows, pa.float64())])
        return pairs[name].cast(pa.float64()) if name in pairs.column_names else absent

    if by == "random":
        ids = pairs["pair_id"].cast(pa.large_string()).combine_chunks()
        return pa.chunked_array([pa.array(uniforms(ids, np.arange(len(ids)), "difficulty", seed))])
    if by == "column":
        return pc.negate(column("difficulty"))
    if by == "score-margin":
        return pc.subtract(column("chosen_score"), column("rejected_score"))
    chosen, rejected = column("chosen_logps"), column("rejected_logps")
    if by == "reference-gap":
        return pc.subtract(chosen, rejected)
    return pc.subtract(pc.divide(chosen, column("chosen_tokens")), pc.divide(rejected, column("rejected_tokens")))


def make_schedule(pairs: pa.Table, settings: Schedule) -> Scheduled:
    """The kept pairs once an epoch, then the dropped ones.

    `pairs` has a column pair_id, without a second of any id, and those that `margins` reads of what is known.
    `drop_percentile` percent are dropped, the hardest or the easiest. Of those kept, SFT takes the hardest, as many as
    `sft_percentile` percent of all pairs, or every one of a margin below `sft_below` (MixDPO, arXiv 2602.00954).
    Percentages are rounded down to whole pairs; ties are broken by a hash of the seed and the pair id. Flipped are the
    pairs of the lowest hashes, as many as `flip_fraction` of all is in whole pairs, whatever their route; or, with
    `swap_labels`, all others.
    Raises UserError where difficulty is needed and a pair has none.
    """
    pair_ids = pairs["pair_id"].cast(pa.large_string()).combine_chunks()
    known, total = margins(pairs, settings.difficulty, settings.seed), pairs.num_rows
    every = np.arange(total)
    margins_N = known.to_numpy()
    if settings.ranks:
        _require(margins_N, pair_ids, settings.difficulty)
    hardest_first = _sorted(every, margins_N, pair_ids, "tie", settings.seed) if settings.ranks else every
    flipped_N, flips = np.zeros(total, dtype=bool), round(share_of(total, settings.flip_fraction))
    if flips:
        flipped_N[_shuffled(every, pair_ids, "flip", settings.seed)[:flips]] = True
    flipped_N ^= settings.swap_labels

    count = _percent(settings.drop_percentile, total)
    if settings.drop == "hardest":
        dropped, kept = hardest_first[:count], hardest_first[count:]
    else:
        kept, dropped = hardest_first[: total - count], hardest_first[total - count :]
    routes_N = np.full(total, _PREFERENCE, dtype=np.uint8)
    if settings.sft_below is not None:
        routes_N[kept[margins_N[kept] < settings.sft_below]] = _SFT
    else:
        routes_N[kept[: _percent(settings.sft_percentile, total)]] = _SFT
    routes_N[dropped] = _DROP
    trained = [_order(kept, pair_ids, settings, epoch) for epoch in range(settings.epochs)]
    return Scheduled(pair_ids, pc.negate(known), routes_N, flipped_N, np.concatenate([*trained, dropped]))


_REMEDIES = {
    "score-margin": "give rows chosen_score and rejected_score, or set schedule.difficulty=reference-gap-per-token",
    "column": "give every row a number as difficulty, or name the column that holds it in data.difficulty_column",
}


def _require(margins_N: Values, pair_ids: pa.Array, by: str) -> None:
    lacking = np.flatnonzero(~np.isfinite(margins_N))
    if len(lacking):
        raise UserError(
            f"schedule.difficulty={by}: pair {pair_ids[int(lacking[0])]} has no such value",
            _REMEDIES.get(by, "its reference log-probs are missing or not finite: set another schedule.difficulty"),
        )


def _percent(percent: float | None, total: int) -> int:
    return math.floor(share_of(total, percent or 0) / 100)


def _order(hardest_first: Rows, pair_ids: pa.Array, settings: Schedule, epoch: int) -> Rows:
    """One epoch's pairs. A window shuffles each run of so many consecutive ones, and moves none out of its run."""
    if settings.order not in ("hard-to-easy", "easy-to-hard"):
        return _shuffled(hardest_first, pair_ids, "order", settings.seed, epoch)
    ordered = hardest_first if settings.order == "hard-to-easy" else hardest_first[::-1]
    runs = np.arange(len(ordered)) // (settings.window or 1)
    return _sorted(ordered, runs, pair_ids, "window", settings.seed, epoch)


def _shuffled(rows: Rows, pair_ids: pa.Array, *key: object) -> Rows:
    return _sorted(rows, np.zeros(len(rows), dtype=np.int8), pair_ids, *key)


def _sorted(rows: Rows, by: Values, pair_ids: pa.Array, *key: object) -> Rows:
    """`rows` by their values `by`, those of one value by uniform(*key, pair id), and those alike in both by pair id.

    Only what shares its value is hashed.
    """
    order = np.argsort(by, kind="stable")
    rows, by = rows[order], by[order]
    same = by[1:] == by[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    if len(tied):
        found, by = rows[tied], by[tied]
        hashes = uniforms(pair_ids, found, *key)
        order = np.lexsort((hashes, by))
        found, hashes = found[order], hashes[order]  # `by` is as it was
        for run in _runs((by[1:] == by[:-1]) & (hashes[1:] == hashes[:-1])):
            found[run] = sorted(found[run], key=lambda row: str(pair_ids[int(row)]))
        rows[tied] = found
    return rows


def _runs(same: Values) -> Iterator[slice]:
    """Where neighbours are the same, one after the other; `same` says it of each place and the next."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], same, [False])).astype(np.int8)))
    yield from (slice(first, last + 1) for first, last in edges.reshape(-1, 2).tolist())
