"""What stops a training run before it goes wrong in silence: another model's reference, a loss that is no number."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.objectives.batch import PairBatch
from pipeline.training.epoch import Epoch, Example

# |policy - cached reference| in nats a token that is rounding at step 0, by dtype of the weights.
PARITY = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 2e-3}


def check_columns(epoch: Epoch, needs: Sequence[str]) -> None:
    """Raise UserError where a pair that a preference objective will see lacks what it needs (Preset.needs)."""
    columns = {"scores": ("chosen_score", "rejected_score"), "label_confidence": ("label_confidence",)}
    for name in needs:
        for column in columns.get(name, ()):
            if pair_id := epoch.first_without(column):
                problem = f"the objective needs {column} of every pair, and pair {pair_id} has none"
                raise UserError(problem, "complete the data, or choose an objective that needs no such column")


def check_parity(batch: PairBatch, examples: Sequence[Example], dtype: torch.dtype) -> None:
    """Before anything is learnt the policy is the reference. Raises UserError where they differ beyond rounding."""
    for side in ("chosen", "rejected"):
        policy, cached = getattr(batch, f"policy_{side}_logps"), getattr(batch, f"reference_{side}_logps")
        off_B = ((policy.detach() - cached).abs() / getattr(batch, f"{side}_tokens")).tolist()
        for example, off in zip(examples, off_B, strict=True):
            if off > PARITY[dtype] and (side == "chosen" or example.tokens.rejected):
                raise UserError(
                    f"pair {example.pair_id}: at step 0 the policy's {side} log-prob is {off:.2g} nats a token from "
                    f"the cached reference; {PARITY[dtype]:g} would be rounding",
                    "the reference is of another model or compute path: python -m jobs.run --force reference",
                )


def check_finite(rows: Sequence[dict[str, Any]], step: int) -> None:
    """`rows` are the step's pairs, all workers. Raises UserError that names those whose loss or gap is not a number."""
    bad = [row["pair_id"] for row in rows if not (math.isfinite(row["loss"]) and math.isfinite(row["gap"] or 0.0))]
    if bad:
        raise UserError(
            f"step {step}: the loss or the gap of {len(bad)} pairs is not finite ({', '.join(bad[:5])})",
            "lower train.learning_rate, or look at these pairs",
        )
