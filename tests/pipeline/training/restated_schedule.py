"""The schedule as it is defined, a dictionary a row and a hash a key: what the columns are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.randomness import uniform
from pipeline.settings.training import Schedule
from pipeline.statistics import share_of
from pipeline.training.schedule import make_schedule


@dataclass(frozen=True)
class Candidate:
    """What the schedule may know of a pair. Log-probs are the reference's sums, in nats; None where not asked for."""

    pair_id: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_logps: float | None = None
    rejected_logps: float | None = None
    chosen_tokens: int = 1
    rejected_tokens: int = 1
    difficulty: float | None = None  # as the data gives it


def margin(pair: Candidate, by: str) -> float | None:
    """How clearly chosen beats rejected, in units of the score, nats, nats a token, or the data's own difficulty.

    Difficulty is its negative. None where the pair lacks what is needed. `by` is a value of schedule.difficulty.
    """
    if by == "column":
        return None if pair.difficulty is None else -pair.difficulty
    if by == "score-margin":
        if pair.chosen_score is None or pair.rejected_score is None:
            return None
        return pair.chosen_score - pair.rejected_score
    if pair.chosen_logps is None or pair.rejected_logps is None:
        return None
    if by == "reference-gap":
        return pair.chosen_logps - pair.rejected_logps
    return pair.chosen_logps / pair.chosen_tokens - pair.rejected_logps / pair.rejected_tokens


def rows_of_schedule(pairs: Sequence[Candidate], settings: Schedule) -> list[dict[str, Any]]:
    """Rows of tables.SCHEDULE: the kept pairs once an epoch, then the dropped ones. Needs distinct pair ids.

    `drop_percentile` percent are dropped, the hardest or the easiest. Of those kept, SFT takes the hardest, as many as
    `sft_percentile` percent of all pairs, or every one of a margin below `sft_below` (MixDPO, arXiv 2602.00954).
    Percentages are rounded down to whole pairs; ties are broken by a hash of the seed and the pair id. Flipped are the
    pairs of the lowest hashes, as many as `flip_fraction` of all is in whole pairs, whatever their route.
    Raises UserError where difficulty is needed and a pair has none.
    """
    margins = {pair.pair_id: margin(pair, settings.difficulty) for pair in pairs}
    if settings.ranks:
        _require(margins, settings.difficulty)
    by_tie = sorted(margins, key=lambda pair_id: (uniform("tie", settings.seed, pair_id), pair_id))
    hardest_first = sorted(by_tie, key=lambda pair_id: margins[pair_id] or 0.0)
    flips = round(share_of(len(pairs), settings.flip_fraction))
    flipped = set(_shuffled(list(margins), "flip", settings.seed)[:flips])

    count = _percent(settings.drop_percentile, pairs)
    if settings.drop == "hardest":
        dropped, kept = hardest_first[:count], hardest_first[count:]
    else:
        kept, dropped = hardest_first[: len(pairs) - count], hardest_first[len(pairs) - count :]
    if settings.sft_below is not None:
        sft = [pair_id for pair_id in kept if (margins[pair_id] or 0.0) < settings.sft_below]
    else:
        sft = kept[: _percent(settings.sft_percentile, pairs)]
    route = dict.fromkeys(kept, "preference") | dict.fromkeys(sft, "sft") | dict.fromkeys(dropped, "drop")
    trained = [pair_id for epoch in range(settings.epochs) for pair_id in _order(kept, settings, epoch)]
    return [
        {
            "position": position,
            "pair_id": pair_id,
            "difficulty": None if (value := margins[pair_id]) is None else -value,
            "route": route[pair_id],
            "flipped": pair_id in flipped,
        }
        for position, pair_id in enumerate([*trained, *dropped])
    ]


_REMEDIES = {
    "score-margin": "give rows chosen_score and rejected_score, or set schedule.difficulty=reference-gap-per-token",
    "column": "give every row a number as difficulty, or name the column that holds it in data.difficulty_column",
}


def _require(margins: Mapping[str, float | None], by: str) -> None:
    for pair_id, value in margins.items():
        if value is None or not math.isfinite(value):
            raise UserError(
                f"schedule.difficulty={by}: pair {pair_id} has no such value",
                _REMEDIES.get(by, "its reference log-probs are missing or not finite: set another schedule.difficulty"),
            )


def _percent(percent: float | None, pairs: Sequence[Candidate]) -> int:
    return math.floor(share_of(len(pairs), percent or 0) / 100)


def _order(hardest_first: list[str], settings: Schedule, epoch: int) -> list[str]:
    """One epoch's pairs. A window shuffles each run of so many consecutive ones, and moves none out of its run."""
    if settings.order not in ("hard-to-easy", "easy-to-hard"):
        return _shuffled(hardest_first, "order", settings.seed, epoch)
    ordered = hardest_first if settings.order == "hard-to-easy" else hardest_first[::-1]
    window = settings.window or 1
    runs = [ordered[start : start + window] for start in range(0, len(ordered), window)]
    return [pair_id for run in runs for pair_id in _shuffled(run, "window", settings.seed, epoch)]


def _shuffled(pair_ids: list[str], *key: object) -> list[str]:
    return sorted(pair_ids, key=lambda pair_id: (uniform(*key, pair_id), pair_id))


def table_of(pairs: Sequence[Candidate]) -> pa.Table:
    """Candidates as the columns that make_schedule reads."""
    types = {"pair_id": pa.string(), "chosen_tokens": pa.int32(), "rejected_tokens": pa.int32()}
    schema = pa.schema([(field.name, types.get(field.name, pa.float64())) for field in fields(Candidate)])
    return pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=schema)


def scheduled_rows(pairs: Sequence[Candidate], settings: Schedule) -> list[dict[str, Any]]:
    """What make_schedule gives, as rows of tables.SCHEDULE."""
    return [row for table in make_schedule(table_of(pairs), settings).tables() for row in table.to_pylist()]
