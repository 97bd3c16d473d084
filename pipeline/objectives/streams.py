"""Pairs of several streams under one objective: each stream has a state of its own and a weight in the loss.

    loss of a step = sum over its streams of  weight * mean over the stream's pairs

Counts are those of the whole step, so that neither micro-batches nor workers are in it. Shapes: B pairs, S streams, C
channels of the decoder's states.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from pipeline.objectives.batch import Output, PairBatch
from pipeline.objectives.objective import Objective
from pipeline.objectives.state import State

Counts = Sequence[tuple[int, int]]  # of each stream: the step's pairs, and the chosen tokens of its preference pairs
_LEAST = 1e-3  # of a weight that is estimated: a stream of none shows no gradient to estimate by


class Balance:
    """BVPO's weight of the first of two streams: that of least mean squared error (arXiv 2510.05095).

    The first, with thoughts, is taken to be unbiased and the noisier, the second to be biased: their weighted sum is
    off by (1 - a)^2 (|b|^2 + tr V_2) + a^2 tr V_1, least at a = (|b|^2 + tr V_2) / (|b|^2 + tr V_2 + tr V_1). V are the
    covariances of the streams' mean gradients in a step, from the spread of its pairs; b is the difference of the two
    means, of whose square that is taken off which their noise makes. All three are exponential averages over the steps
    before.
    """

    def __init__(self, start: float, momentum: float):
        self.start, self.momentum = start, momentum
        self.sums, self.steps = torch.zeros(3, dtype=torch.float64), 0  # |b|^2, tr V of the first and of the second

    @property
    def weight(self) -> float:
        """In (0, 1); as given until both streams were seen with two pairs in a step."""
        bias, first, second = self.sums.tolist()  # their common factor cancels
        wrong = max(0.0, bias) + second
        found = wrong / (wrong + first) if wrong + first > 0 else self.start
        return min(max(found, _LEAST), 1 - _LEAST)

    def observe(self, gradients_PC: torch.Tensor, streams_P: torch.Tensor) -> None:
        """Add a step's pairs: the gradient of each one's own loss, and its stream."""
        first_C, second_C = (gradients_PC[streams_P == stream].double() for stream in (0, 1))
        if min(len(first_C), len(second_C)) < 2:
            return
        noise = [float(each.var(0).sum()) / len(each) for each in (first_C, second_C)]
        bias = float((second_C.mean(0) - first_C.mean(0)).square().sum()) - sum(noise)
        new = torch.tensor([bias, *noise], dtype=torch.float64)
        self.sums, self.steps = self.momentum * self.sums + (1 - self.momentum) * new, self.steps + 1

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps = state["sums"], state["steps"]


class Streams:
    """What an objective remembers of each stream, and what each stream weighs."""

    def __init__(
        self,
        objective: Objective,
        states: Sequence[State],
        weights: Sequence[float] | None = None,
    ):
        """`weights` of the streams add up to 1; without any each pair counts alike, whatever stream it is of."""
        self.objective, self.states, self.given = objective, list(states), weights
        values, self.balance = objective.parameters, None
        if objective.preset.balances(values):
            self.balance = Balance(values.number("trace_weight"), values.number("momentum"))

    def factors(self, counts: Counts) -> list[float]:
        """What a pair of each stream counts in the mean over all pairs of a step.

        A stream that a step lacks leaves its weight to the others.
        """
        weights, pairs = self.weights, [each for each, _ in counts]
        if weights is None:
            return [1.0] * len(counts)
        present = sum(weight for weight, own in zip(weights, pairs, strict=True) if own)
        total = sum(pairs) / present if present else 0.0
        return [weight * total / own if own else 0.0 for weight, own in zip(weights, pairs, strict=True)]

    @property
    def weights(self) -> Sequence[float] | None:
        return [self.balance.weight, 1 - self.balance.weight] if self.balance else self.given

    def losses(self, batch: PairBatch, counts: Counts) -> tuple[Output, torch.Tensor]:
        """What the objective says of pairs of a step of these counts, each times what it counts; and a loss a pair,
        [B], whose mean over all pairs of the step is the step's loss.
        """
        indexes, outputs, losses = [], [], []
        factors = self.factors(counts)
        if self.weights is None:  # and a mean over tokens is over all of them
            counts = [(sum(pairs), sum(tokens)) for pairs, tokens in [zip(*counts, strict=True)]] * len(counts)
        for stream, index in enumerate(self._indexes(batch)):
            if len(index):
                out = _scaled(self.objective(batch.select(index), self.states[stream]), factors[stream])
                indexes.append(index)
                outputs.append(out)
                losses.append(out.per_pair(*counts[stream]))
        back = torch.cat(indexes).argsort()
        named = {each.name: torch.cat([getattr(out, each.name) for out in outputs])[back] for each in fields(Output)}
        return Output(**named), torch.cat(losses)[back]

    def gaps(self, batch: PairBatch) -> torch.Tensor:
        """The objective's gaps, [B]."""
        indexes = self._indexes(batch)
        known = [
            self.objective.gaps(batch.select(index), state)
            for index, state in zip(indexes, self.states, strict=True)
            if len(index)
        ]
        return torch.cat(known)[torch.cat(indexes).argsort()]

    def foresee(self, streams_P: torch.Tensor, gaps_P: torch.Tensor) -> None:
        """Take the gaps of a step's preference pairs before its losses, each to its stream's state."""
        for stream, state in enumerate(self.states):
            state.foresee(gaps_P[streams_P == stream])

    def observe(self, streams_P: torch.Tensor, *columns_P: torch.Tensor) -> None:
        """Add a step's preference pairs, in schedule order, each to its stream's state: what State.observe takes."""
        for stream, state in enumerate(self.states):
            state.observe(*(column[streams_P == stream] for column in columns_P))

    @property
    def fill(self) -> float | None:
        """The share of gamma-PO's queues in use; None without any."""
        fills = [state.gamma.fill for state in self.states if state.gamma]
        return sum(fills) / len(fills) if fills else None

    def state_dict(self) -> dict[str, Any]:
        """Of one stream, that stream's."""
        if len(self.states) == 1:
            return self.states[0].state_dict()
        balance = self.balance.state_dict() if self.balance else None
        return {"streams": [state.state_dict() for state in self.states], "balance": balance}

    def load_state_dict(self, known: dict[str, Any]) -> None:
        for state, own in zip(self.states, known.get("streams", [known]), strict=True):
            state.load_state_dict(own)
        if self.balance:
            self.balance.load_state_dict(known["balance"])

    def _indexes(self, batch: PairBatch) -> list[torch.Tensor]:
        if batch.streams is None and len(self.states) == 1:
            return [torch.arange(len(batch.policy_chosen_logps))]
        (streams_B,) = batch.need("streams")
        return [(streams_B == stream).nonzero().flatten() for stream in range(len(self.states))]


def _scaled(out: Output, factor: float) -> Output:
    """With losses, and so the weights of the pairs, times `factor`."""
    if factor == 1.0:
        return out
    names = ("losses_B", "token_losses_B", "weights_B")
    return replace(out, **{name: getattr(out, name) * factor for name in names})
