"""Between tables and tensors: a step's pairs as an objective takes them, and what was measured of them as figures.

Shapes: P pairs of a step, M of what is MEASURED of each; B pairs of a micro-batch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipeline.objectives.batch import PREFERENCE, SFT, Output, PairBatch
from pipeline.objectives.diagnostics import accuracy, diagnose
from pipeline.results import tables
from pipeline.training.epoch import Example, Sides

PREFERENCE_ONLY = ("gap", "margin", "shift", "weight", "statistic")  # what only preference pairs have
SIDES = ("chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps")  # means over preference pairs
MEASURED = ("loss", "nll", *PREFERENCE_ONLY, *SIDES, "feature_size", "feature_change")
HELD_OUT = ("accuracy", "gap", "chosen_logps", "rejected_logps")  # means over the held-out pairs
SPLIT_FIGURES = ("accuracy", "gap", "margin", "weight")  # told apart by clean and flipped labels


def counts(examples: Sequence[Example], streams: int = 1) -> list[tuple[int, int]]:
    """What a step's sums are divided by, of each stream: its pairs, and the chosen tokens of its preference pairs."""
    found = []
    for stream in range(streams):
        own = [example for example in examples if example.stream == stream]
        found.append((len(own), sum(example.counts[0] for example in own if example.route == "preference")))
    return found


def recorded(examples: Sequence[Example]) -> PairBatch:
    """What the tables hold of these pairs, the policy as it is before it is trained. Unknown values are NaN."""

    def column(values: Sequence[float | None]) -> torch.Tensor:
        known = [math.nan if value is None else value for value in values]
        return torch.tensor(known, dtype=torch.float64)

    reference_B2 = torch.tensor([example.reference for example in examples], dtype=torch.float64)
    untrained_B2 = torch.tensor([example.untrained for example in examples], dtype=torch.float64)
    counts_B2 = torch.tensor([example.counts for example in examples])
    routes = [PREFERENCE if example.route == "preference" else SFT for example in examples]
    return PairBatch(
        policy_chosen_logps=untrained_B2[:, 0],
        policy_rejected_logps=untrained_B2[:, 1],
        chosen_tokens=counts_B2[:, 0],
        rejected_tokens=counts_B2[:, 1],
        reference_chosen_logps=reference_B2[:, 0],
        reference_rejected_logps=reference_B2[:, 1],
        chosen_scores=column([example.scores[0] for example in examples]),
        rejected_scores=column([example.scores[1] for example in examples]),
        label_confidence=column([example.label_confidence for example in examples]),
        difficulty=column([example.difficulty for example in examples]),
        routes=torch.tensor(routes),
        sources=torch.tensor([example.source for example in examples]),
        streams=torch.tensor([example.stream for example in examples]),
    )


def with_token_values(batch: PairBatch, values: Sequence[Mapping[str, Sides]]) -> PairBatch:
    """The batch with what its pairs' tokens carry beside the policy's log-probs: of Epoch.columns those that are there.

    A weight, of whatever kind, is a weight.
    """

    def column(name: str, side: int) -> list[torch.Tensor]:
        return [torch.from_numpy(each[name][side].astype("f8")) for each in values]

    for name in values[0] if values else ():
        chosen, rejected = column(name, 0), column(name, 1)
        if name == "reference":
            batch.reference_chosen_token_logps, batch.reference_rejected_token_logps = chosen, rejected
        else:
            batch.chosen_token_weights, batch.rejected_token_weights = chosen, rejected
    return batch


def measured(batch: PairBatch, out: Output, losses_B: torch.Tensor) -> torch.Tensor:
    """What is MEASURED of a micro-batch, [B, M] float64."""
    values = {
        "loss": losses_B,
        "nll": -batch.policy_chosen_logps / batch.chosen_tokens,
        "gap": out.gaps_B,
        "margin": out.margins_B,
        "shift": out.shifts_B,
        "weight": out.weights_B,
        "statistic": out.statistics_B,
        "chosen_reward": out.chosen_rewards_B,
        "rejected_reward": out.rejected_rewards_B,
        "chosen_logps": batch.policy_chosen_logps,
        "rejected_logps": batch.policy_rejected_logps,
    }
    values |= dict.fromkeys(("feature_size", "feature_change"), torch.zeros_like(losses_B))
    if batch.policy_chosen_features is not None:
        names = ("policy_chosen_features", "reference_chosen_features", "policy_rejected_features")
        chosen_BK, before_BK, rejected_BK, was_BK = batch.need(*names, "reference_rejected_features")
        present_B = batch.rejected_tokens > 0 if batch.routes is None else batch.routes == PREFERENCE
        values["feature_size"] = chosen_BK.square().sum(1) + rejected_BK.square().sum(1)
        moved_B = (rejected_BK - was_BK).square().sum(1)
        values["feature_change"] = (chosen_BK - before_BK).square().sum(1) + torch.where(present_B, moved_B, 0.0)
    return torch.stack([values[name].detach().double() for name in MEASURED], dim=1)


class Rows:
    """A step's pairs, in schedule order, and what was measured of them, [P, M]; of all workers."""

    def __init__(self, examples: Sequence[Example], values_PM: torch.Tensor):
        self.examples = examples
        self.columns = dict(zip(MEASURED, values_PM.unbind(1), strict=True))
        self.columns["source"] = torch.tensor([example.source for example in examples])
        self.columns["stream"] = torch.tensor([example.stream for example in examples])
        self.preferred_P = torch.tensor([example.route == "preference" for example in examples])
        self.flipped_P = torch.tensor([example.flipped for example in examples])

    def preferred(self, name: str) -> torch.Tensor:
        """A column of the preference pairs."""
        return self.columns[name][self.preferred_P]

    def without_numbers(self) -> list[str]:
        """The ids of the pairs whose loss or gap is no finite number."""
        finite_P = self.columns["loss"].isfinite() & (self.columns["gap"].isfinite() | ~self.preferred_P)
        return [self.examples[i].pair_id for i in (~finite_P).nonzero().flatten().tolist()]

    def summary(self) -> dict[str, Any]:
        """The step in figures: over all its pairs, and over those with a clean and with a flipped label apart."""
        preferred_P, flipped_P = self.preferred_P, self.flipped_P
        figures: dict[str, Any] = {
            "loss": _mean(self.columns["loss"]),
            "preference_pairs": int(preferred_P.sum()),
            "sft_pairs": int((~preferred_P).sum()),
            "nll": _mean(self.columns["nll"][~preferred_P]),
            **{name: _mean(self.preferred(name)) for name in SIDES},
        }
        parts = ("", preferred_P), ("_clean", preferred_P & ~flipped_P), ("_flipped", preferred_P & flipped_P)
        for suffix, part_P in parts:
            said = diagnose(*(self.columns[name][part_P] for name in ("gap", "margin", "shift", "weight")))
            names = SPLIT_FIGURES if suffix else said
            figures |= {f"{name}{suffix}": said[name] for name in names}
        return figures

    def by_stream(self, step: int, names: Sequence[str], factors: Sequence[float]) -> list[dict[str, Any]]:
        """Rows of tables.STREAMS, of streams of these names whose pairs count so much in the step's mean."""
        rows = []
        for stream, name in enumerate(names):
            own_P = self.columns["stream"] == stream
            preferred_P, pairs = own_P & self.preferred_P, int(own_P.sum())
            weight = factors[stream] * pairs / len(own_P)
            gaps = self.columns["gap"][preferred_P]
            losses = self.columns["loss"][own_P] / factors[stream] if factors[stream] else gaps[:0]
            seen = {"loss": losses, "gap": gaps}
            figures = {key: _mean(values) for key, values in (seen | {"accuracy": accuracy(gaps)}).items()}
            rows.append({"step": step, "stream": name, "pairs": pairs, "weight": weight, **figures})
        return rows

    def trained(self, step: int) -> list[dict[str, Any]]:
        """Rows of tables.TRAINED_PAIRS."""
        names = [name for name in tables.TRAINED_PAIRS.names if name in self.columns]
        values = zip(*(self.columns[name].tolist() for name in names), strict=True)
        rows = []
        for example, row in zip(self.examples, values, strict=True):
            named = {name: getattr(example, name) for name in ("position", "pair_id", "route", "flipped")}
            absent = PREFERENCE_ONLY if example.route != "preference" else ()
            known = {name: None if name in absent else value for name, value in zip(names, row, strict=True)}
            rows.append({"step": step, **named, **known})
        return rows


def _mean(values: torch.Tensor) -> float | None:
    return sum(values.tolist()) / len(values) if len(values) else None


def displacement(seen: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """What was seen of the held-out pairs at a moment, [pairs, 4] (reward gap, gap, both log-prob sums), as means."""
    figures = {}
    for moment, values in seen.items():
        reward_gaps, gaps, chosen, rejected = values.unbind(1)
        # NaN: a gap that lacks its column.
        means = (accuracy(reward_gaps).mean(), gaps.nanmean(), chosen.mean(), rejected.mean())
        figures[moment] = dict(zip(HELD_OUT, map(float, means), strict=True))
    return figures
