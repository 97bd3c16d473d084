"""The training set as the schedule orders it: pairs, cached log-probs and routes joined by pair id, flips applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables

Row = dict[str, Any]
Rows = npt.NDArray[np.integer[Any]]
_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")
_LABELS = ("chosen_score", "rejected_score", "label_confidence")


@dataclass(frozen=True)
class Example:
    """One scheduled pair as it is trained: after a flip, `chosen` is what the noisy label says."""

    position: int
    pair_id: str
    route: str
    flipped: bool
    tokens: Tokens  # views of the table; without a rejected side where routed to SFT
    reference: tuple[float, float]  # cached log-prob sums, chosen and rejected
    counts: tuple[int, int]  # completion tokens, chosen and rejected
    # What follows is as the data says it, never exchanged by a flip: no method can see one.
    scores: tuple[float | None, float | None]  # of the completions labelled chosen and rejected
    label_confidence: float | None  # P(the completion labelled chosen is preferred)
    difficulty: float | None  # as schedule.difficulty measures it, larger is harder; None where held out


class Epoch:
    """Every optimiser step's examples: step k holds positions k * batch_size to (k + 1) * batch_size - 1.

    `pairs`, `reference` and `schedule` are the folders of committed tables. Pairs of route drop are left out.
    Raises UserError where a scheduled pair is in no other table; and, when a pair is read, where its cached log-probs
    are of other tokens, as another template gives them.
    """

    def __init__(self, pairs: Path, reference: Path, schedule: Path, batch_size: int):
        scheduled = tables.read(schedule, tables.SCHEDULE)
        self.schedule = scheduled.filter(pc.not_equal(scheduled["route"], "drop"))
        self.batch_size = batch_size
        pair_table = tables.read(pairs, tables.PAIRS, ["pair_id", "split", *_IDS, *_LABELS])
        self._tokens = [_Lists(pair_table[name]) for name in _IDS]
        self._pairs = pair_table.select(["pair_id", "split", *_LABELS])
        self._reference = tables.read(reference, tables.REFERENCE)
        # Of every scheduled position the row of its pair in either table.
        self._pair_rows, self._reference_rows = self._joined(self.schedule["pair_id"])

    @property
    def steps(self) -> int:
        return -(-self.schedule.num_rows // self.batch_size)

    def step(self, k: int) -> list[Example]:
        """The examples of optimiser step k, in schedule order."""
        return self._examples(np.arange(k * self.batch_size, min((k + 1) * self.batch_size, self.schedule.num_rows)))

    def preference_examples(self, count: int) -> list[Example]:
        """Up to `count` pairs routed to preference, each once, spread evenly over the schedule, in its order."""
        preferred = self._preferred()
        _, first = np.unique(self._pair_rows[preferred], return_index=True)
        once, count = preferred[np.sort(first)], min(count, len(first))
        return self._examples(once[np.arange(count) * len(once) // max(1, count)])

    def first_without(self, column: str) -> str | None:
        """The first pair routed to preference whose `column` of tables.PAIRS is null, if there is one."""
        null = np.asarray(self._pairs[column].is_null())
        preferred = self._preferred()
        lacking = preferred[null[self._pair_rows[preferred]]]
        return str(self.schedule["pair_id"][int(lacking[0])]) if len(lacking) else None

    def dev(self) -> list[Example]:
        """The held-out pairs, in the order of their ids; never flipped, never routed."""
        held_out = self._pairs.filter(pc.equal(self._pairs["split"], "dev"))["pair_id"]
        pair_ids = held_out.take(pc.sort_indices(held_out)) if len(held_out) else held_out
        scheduled = [
            {"position": i, "pair_id": pair_id, "route": "preference", "flipped": False, "difficulty": None}
            for i, pair_id in enumerate(pair_ids.to_pylist())
        ]
        return self._joined_examples(pa.Table.from_pylist(scheduled, tables.SCHEDULE), *self._joined(pair_ids))

    def _preferred(self) -> Rows:
        """The positions of pairs routed to preference."""
        return np.flatnonzero(np.asarray(pc.equal(self.schedule["route"], "preference")))

    def _joined(self, pair_ids: pa.ChunkedArray) -> tuple[Rows, Rows]:
        """The rows of these pairs in the pair table and in the reference table."""
        found = []
        for table, name in ((self._pairs, "pairs"), (self._reference, "reference")):
            rows = pc.index_in(pair_ids, value_set=table["pair_id"])
            if rows.null_count:
                missing = pair_ids.filter(rows.is_null())[0]
                problem = f"pair {missing} is scheduled but is not in the {name} table"
                raise UserError(problem, "run the line again: python -m jobs.run")
            found.append(np.asarray(rows))
        return found[0], found[1]

    def _examples(self, positions: Rows) -> list[Example]:
        scheduled = self.schedule.take(pa.array(positions))
        return self._joined_examples(scheduled, self._pair_rows[positions], self._reference_rows[positions])

    def _joined_examples(self, scheduled: pa.Table, pair_rows: Rows, reference_rows: Rows) -> list[Example]:
        """Rows of tables.SCHEDULE, each with its row of the pair table and of the reference table, as examples."""
        labels = self._pairs.select(_LABELS).take(pa.array(pair_rows)).to_pylist()
        cached = self._reference.take(pa.array(reference_rows)).to_pylist()
        ids = ([column[row] for column in self._tokens] for row in pair_rows.tolist())
        return [_example(*parts) for parts in zip(scheduled.to_pylist(), labels, cached, ids, strict=True)]


def _example(scheduled: Row, label: Row, cached: Row, ids: list[Any]) -> Example:
    prompt, chosen, rejected = ids
    if tokens_digest(*ids) != cached["tokens_digest"]:
        raise UserError(
            f"pair {scheduled['pair_id']}: the cached reference is of other tokens, as another template gives them",
            "make it anew: python -m jobs.run --force reference",
        )
    reference = (cached["chosen_logps"], cached["rejected_logps"])
    if scheduled["flipped"]:
        chosen, rejected, reference = rejected, chosen, reference[::-1]
    return Example(
        scheduled["position"],
        scheduled["pair_id"],
        scheduled["route"],
        scheduled["flipped"],
        Tokens(prompt, chosen, rejected if scheduled["route"] == "preference" else rejected[:0]),
        reference,
        (len(chosen), len(rejected)),
        (label["chosen_score"], label["rejected_score"]),
        label["label_confidence"],
        scheduled["difficulty"],
    )


class _Lists:
    """A column of lists of numbers, each as a view: nothing is copied."""

    def __init__(self, column: pa.ChunkedArray):
        self.chunks = [(np.asarray(chunk.offsets), np.asarray(chunk.values)) for chunk in column.chunks]
        self.starts = np.cumsum([0, *(len(chunk) for chunk in column.chunks)])

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        chunk = int(self.starts.searchsorted(row, side="right")) - 1
        offsets, values = self.chunks[chunk]
        first = row - self.starts[chunk]
        view: npt.NDArray[np.int32] = values[offsets[first] : offsets[first + 1]]
        return view


def sizes(examples: Sequence[Example]) -> list[int]:
    """Packed tokens of each example."""
    return [example.tokens.packed for example in examples]
