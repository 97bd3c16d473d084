"""Between tables and tensors: a step's pairs as an objective takes them, and what was measured of them as figures."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from pipeline.objectives.batch import PREFERENCE, SFT, PairBatch
from pipeline.objectives.diagnostics import accuracy, diagnose
from pipeline.training.epoch import Example

PREFERENCE_ONLY = ("gap", "margin", "shift", "weight", "statistic")  # what only preference pairs have
HELD_OUT = ("accuracy", "gap", "chosen_logps", "rejected_logps")  # means over the held-out pairs
SPLIT_FIGURES = ("accuracy", "gap", "margin", "weight")  # told apart by clean and flipped labels


def counts(examples: Sequence[Example]) -> tuple[int, int]:
    """What a step's sums are divided by: its pairs, and the chosen tokens of its preference pairs."""
    return len(examples), sum(example.counts[0] for example in examples if example.route == "preference")


def recorded(examples: Sequence[Example], device: torch.device | str = "cpu") -> PairBatch:
    """What the tables hold of these pairs, the cached reference standing in for the policy. Unknown values are NaN."""

    def column(values: Sequence[float | None]) -> torch.Tensor:
        known = [math.nan if value is None else value for value in values]
        return torch.tensor(known, dtype=torch.float64, device=device)

    reference_B2 = torch.tensor([example.reference for example in examples], dtype=torch.float64, device=device)
    counts_B2 = torch.tensor([example.counts for example in examples], device=device)
    routes = [PREFERENCE if example.route == "preference" else SFT for example in examples]
    return PairBatch(
        policy_chosen_logps=reference_B2[:, 0],
        policy_rejected_logps=reference_B2[:, 1],
        chosen_tokens=counts_B2[:, 0],
        rejected_tokens=counts_B2[:, 1],
        reference_chosen_logps=reference_B2[:, 0],
        reference_rejected_logps=reference_B2[:, 1],
        chosen_scores=column([example.scores[0] for example in examples]),
        rejected_scores=column([example.scores[1] for example in examples]),
        label_confidence=column([example.label_confidence for example in examples]),
        difficulty=column([example.difficulty for example in examples]),
        routes=torch.tensor(routes, device=device),
    )


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What is measured of preference pairs, a tensor each, [rows] float64."""
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in PREFERENCE_ONLY}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A step's rows in figures: over all its pairs, and over those with a clean and with a flipped label apart."""

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    preferred = [row for row in rows if row["route"] == "preference"]
    figures: dict[str, Any] = {
        "loss": mean([row["loss"] for row in rows]),
        "preference_pairs": len(preferred),
        "sft_pairs": len(rows) - len(preferred),
        "nll": mean([row["nll"] for row in rows if row["route"] == "sft"]),
    }
    for suffix, part in (
        ("", preferred),
        ("_clean", [row for row in preferred if not row["flipped"]]),
        ("_flipped", [row for row in preferred if row["flipped"]]),
    ):
        by_name = columns(part)
        measured = diagnose(*(by_name[name] for name in ("gap", "margin", "shift", "weight")))
        names = SPLIT_FIGURES if suffix else measured
        figures |= {f"{name}{suffix}": measured[name] for name in names}
    return figures


def displacement(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Held-out rows (moment; values: reward gap, gap, chosen and rejected log-prob sum) as means a moment."""
    figures = {}
    for moment in ("before", "after"):
        values = [row["values"] for row in rows if row["moment"] == moment]
        if values:
            reward_gaps, gaps, chosen, rejected = torch.tensor(values, dtype=torch.float64).T
            # NaN: a gap that lacks its column.
            means = (accuracy(reward_gaps).mean(), gaps.nanmean(), chosen.mean(), rejected.mean())
            figures[moment] = dict(zip(HELD_OUT, map(float, means), strict=True))
    return figures
