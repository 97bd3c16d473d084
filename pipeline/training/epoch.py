"""The training set as the schedule orders it: pairs, cached log-probs and routes joined by pair id, flips applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.results import tables


@dataclass(frozen=True)
class Example:
    """One scheduled pair as it is trained: after a flip, `chosen` is what the noisy label says."""

    position: int
    pair_id: str
    route: str
    flipped: bool
    tokens: Tokens  # without a rejected side where routed to SFT
    reference: tuple[float, float]  # cached log-prob sums, chosen and rejected
    counts: tuple[int, int]  # completion tokens, chosen and rejected
    # What follows is as the data says it, never exchanged by a flip: no method can see one.
    scores: tuple[float | None, float | None]  # of the completions labelled chosen and rejected
    label_confidence: float | None  # P(the completion labelled chosen is preferred)
    difficulty: float | None  # as schedule.difficulty measures it, larger is harder; None where held out


class Epoch:
    """Every optimiser step's examples: step k holds positions k * batch_size to (k + 1) * batch_size - 1.

    `pairs`, `reference` and `schedule` are the folders of committed tables. Pairs of route drop are left out.
    """

    def __init__(self, pairs: Path, reference: Path, schedule: Path, batch_size: int):
        scheduled = tables.read(schedule, tables.SCHEDULE)
        self.schedule = scheduled.filter(pc.not_equal(scheduled["route"], "drop"))
        self.batch_size = batch_size
        used = ["prompt_ids", "chosen_ids", "rejected_ids", "chosen_score", "rejected_score", "label_confidence"]
        pair_table = tables.read(pairs, tables.PAIRS, ["pair_id", "split", *used])
        self._dev = pair_table.filter(pc.equal(pair_table["split"], "dev"))["pair_id"].to_pylist()
        self._pairs = pair_table.select(used)
        self._row = {pair_id: row for row, pair_id in enumerate(pair_table["pair_id"].to_pylist())}
        self._reference = tables.read(reference, tables.REFERENCE)
        self._reference_row = {pair_id: row for row, pair_id in enumerate(self._reference["pair_id"].to_pylist())}

    @property
    def steps(self) -> int:
        return -(-self.schedule.num_rows // self.batch_size)

    def step(self, k: int) -> list[Example]:
        """The examples of optimiser step k, in schedule order."""
        return [self._example(row) for row in self.schedule.slice(k * self.batch_size, self.batch_size).to_pylist()]

    def preference_examples(self, count: int) -> list[Example]:
        """Up to `count` pairs routed to preference, each once, spread evenly over the schedule, in its order."""
        first: dict[str, int] = {}
        for row, (pair_id, route) in enumerate(zip(*self.schedule.select(["pair_id", "route"]), strict=True)):
            if route.as_py() == "preference":
                first.setdefault(pair_id.as_py(), row)
        rows, count = list(first.values()), min(count, len(first))
        spread = [rows[i * len(rows) // count] for i in range(count)]
        return [self._example(row) for row in self.schedule.take(pa.array(spread, pa.int64())).to_pylist()]

    def first_without(self, column: str) -> str | None:
        """The first pair routed to preference whose `column` of tables.PAIRS is null, if there is one."""
        null = set(pc.indices_nonzero(self._pairs[column].is_null()).to_pylist())
        for pair_id, route in zip(*self.schedule.select(["pair_id", "route"]), strict=True) if null else ():
            if route.as_py() == "preference" and self._row.get(pair_id.as_py()) in null:
                return str(pair_id)
        return None

    def dev(self) -> list[Example]:
        """The held-out pairs, in the order of their ids; never flipped, never routed."""
        return [
            self._example(
                {"position": i, "pair_id": pair_id, "route": "preference", "flipped": False, "difficulty": None}
            )
            for i, pair_id in enumerate(sorted(self._dev))
        ]

    def _example(self, scheduled: dict[str, Any]) -> Example:
        pair_id = scheduled["pair_id"]
        if pair_id not in self._row or pair_id not in self._reference_row:
            missing = "pairs" if pair_id not in self._row else "reference"
            problem = f"pair {pair_id} is scheduled but is not in the {missing} table"
            raise UserError(problem, "run the line again: python -m jobs.run")
        pair = self._pairs.slice(self._row[pair_id], 1).to_pylist()[0]
        chosen, rejected = pair["chosen_ids"], pair["rejected_ids"]
        cached = self._reference.slice(self._reference_row[pair_id], 1).to_pylist()[0]
        reference = (cached["chosen_logps"], cached["rejected_logps"])
        if scheduled["flipped"]:
            chosen, rejected, reference = rejected, chosen, reference[::-1]
        counts = (len(chosen), len(rejected))
        if scheduled["route"] == "sft":
            rejected = []
        return Example(
            scheduled["position"],
            pair_id,
            scheduled["route"],
            scheduled["flipped"],
            Tokens(pair["prompt_ids"], chosen, rejected),
            reference,
            counts,
            (pair["chosen_score"], pair["rejected_score"]),
            pair["label_confidence"],
            scheduled["difficulty"],
        )


def sizes(examples: Sequence[Example]) -> list[int]:
    """Packed tokens of each example."""
    return [example.tokens.packed for example in examples]
