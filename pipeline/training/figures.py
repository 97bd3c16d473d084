"""A step's figures as trackers are sent them: under the names that users of TRL know, and ours beside."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.results import tables

# Of tables.STEPS. Transformers puts all of a trainer's names under train/ and those of an evaluation under eval/.
TRL = {
    "loss": "train/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "chosen_reward": "train/rewards/chosen",
    "rejected_reward": "train/rewards/rejected",
    "accuracy": "train/rewards/accuracies",
    "gap": "train/rewards/margins",
    "chosen_logps": "train/logps/chosen",
    "rejected_logps": "train/logps/rejected",
    "held_out_accuracy": "eval/rewards/accuracies",
    "held_out_gap": "eval/rewards/margins",
    "held_out_chosen_logps": "eval/logps/chosen",
    "held_out_rejected_logps": "eval/logps/rejected",
}
SO_FAR = "train/num_tokens"  # packed tokens, from the first step on
OURS = "widemargin/"  # what TRL has no name for; gap and accuracy are there, too, beside their clean and flipped parts
_OURS = [name for name in tables.STEPS.names if name not in TRL or name in ("gap", "accuracy")]


def figures(row: Mapping[str, Any], tokens: int) -> dict[str, float]:
    """Those of a row of tables.STEPS that are there and finite; `tokens` of all steps up to this one."""
    named = {name: row[key] for key, name in TRL.items()} | {OURS + key: row[key] for key in _OURS if key != "step"}
    named[SO_FAR] = tokens
    return {name: float(value) for name, value in named.items() if value is not None and math.isfinite(value)}


def by_step(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, float]]]:
    """(step, figures) of rows of tables.STEPS, which begin at step 0 and stand in order."""
    tokens = 0
    for row in rows:
        tokens += row["tokens"]
        yield row["step"], figures(row, tokens)
