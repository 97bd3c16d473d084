"""The epoch as a table: which pair is trained when, on which route, and which labels are flipped.

Made once, before training. N train pairs; everything is keyed by pair id, so that no order of files or rows changes it.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Schedule
from pipeline.errors import UserError


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


def margin(pair: Candidate, by: str) -> float | None:
    """How clearly chosen beats rejected, in units of the score, nats, or nats a token. Difficulty is its negative.

    None where the pair lacks what is needed. `by` is a value of schedule.difficulty.
    """
    if by == "score-margin":
        if pair.chosen_score is None or pair.rejected_score is None:
            return None
        return pair.chosen_score - pair.rejected_score
    if pair.chosen_logps is None or pair.rejected_logps is None:
        return None
    if by == "reference-gap":
        return pair.chosen_logps - pair.rejected_logps
    return pair.chosen_logps / pair.chosen_tokens - pair.rejected_logps / pair.rejected_tokens


def uniform(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56


def make_schedule(pairs: Sequence[Candidate], settings: Schedule) -> list[dict[str, Any]]:
    """Rows of tables.SCHEDULE, epochs * N of them. Raises UserError where difficulty is needed and a pair has none.

    Ties in difficulty are broken by a hash of the seed and the pair id. SFT takes the hardest `sft_percentile` percent
    (rounded down to whole pairs), or every pair of a margin below `sft_below` (MixDPO, arXiv 2602.00954).
    """
    margins = {pair.pair_id: margin(pair, settings.difficulty) for pair in pairs}
    routes = settings.sft_percentile is not None or settings.sft_below is not None
    if settings.order != "shuffle" or routes:
        for pair_id, value in margins.items():
            if value is None or not math.isfinite(value):
                raise UserError(
                    f"schedule.difficulty={settings.difficulty}: pair {pair_id} has no such margin",
                    "give rows chosen_score and rejected_score, or set schedule.difficulty=reference-gap-per-token",
                )
    by_tie = sorted(margins, key=lambda pair_id: (uniform("tie", settings.seed, pair_id), pair_id))
    hardest_first = sorted(by_tie, key=lambda pair_id: margins[pair_id] or 0.0)
    if settings.sft_below is not None:
        sft = {pair_id for pair_id, value in margins.items() if value is not None and value < settings.sft_below}
    else:
        sft = set(hardest_first[: math.floor(len(pairs) * (settings.sft_percentile or 0.0) / 100)])

    rows: list[dict[str, Any]] = []
    for epoch in range(settings.epochs):
        for pair_id in _order(hardest_first, settings, epoch):
            value = margins[pair_id]
            rows.append(
                {
                    "position": len(rows),
                    "pair_id": pair_id,
                    "difficulty": None if value is None else -value,
                    "route": "sft" if pair_id in sft else "preference",
                    "flipped": uniform("flip", settings.seed, pair_id) < settings.flip_fraction,
                }
            )
    return rows


def _order(hardest_first: list[str], settings: Schedule, epoch: int) -> list[str]:
    if settings.order == "hard-to-easy":
        return hardest_first
    if settings.order == "easy-to-hard":
        return hardest_first[::-1]
    return sorted(hardest_first, key=lambda pair_id: (uniform("order", settings.seed, epoch, pair_id), pair_id))
