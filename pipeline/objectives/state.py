"""What an objective remembers from step to step, of all workers and in schedule order.

A step takes what it needs from the steps before it and adds its own pairs afterwards, so that nothing depends on
micro-batches or on the number of workers; evaluation adds nothing. Shapes: B pairs of a step.
"""

from typing import Any

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.gamma import margins_at, solve_scalar
from pipeline.objectives.published import PublishedState
from pipeline.objectives.rewards import REWARDS

QUEUE = 2048  # gaps remembered, as the authors of gamma-PO have it
_ROUNDING = 1e-12  # a variance below this share of the mean square is what rounding leaves of none
_TINY = torch.finfo(torch.float64).tiny  # below it squares lose their digits


class GammaState:
    """A queue of the latest gaps, and the scalar of gamma-PO's margin problem solved from it; see gamma.py.

    While the queue is empty every margin is gamma0.
    """

    def __init__(self, gamma0: float, tau: float, capacity: int = QUEUE):
        self.gamma0, self.tau, self.capacity = gamma0, tau, capacity
        self.queue = torch.zeros(0, dtype=torch.float64)
        self.scalar: torch.Tensor | None = None

    def margins(self, gaps_B: torch.Tensor) -> torch.Tensor:
        """Target margins, [B] float64; they average to gamma0 over the queue, not over this batch."""
        if self.scalar is None:
            return torch.full_like(gaps_B, self.gamma0, dtype=torch.float64)
        return margins_at(gaps_B, self.scalar, self.gamma0, self.tau)

    def observe(self, gaps_B: torch.Tensor) -> None:
        """Append a step's gaps, drop the oldest beyond the capacity, solve again."""
        if len(gaps_B):
            self.queue = torch.cat((self.queue, gaps_B.detach().to(self.queue)))[-self.capacity :]
            self.scalar = solve_scalar(self.queue, self.gamma0, self.tau)

    @property
    def fill(self) -> float:
        """The share of the queue in use."""
        return len(self.queue) / self.capacity

    def state_dict(self) -> dict[str, Any]:
        return {"queue": self.queue, "scalar": self.scalar}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.queue, self.scalar = state["queue"].cpu(), state["scalar"]


class Moments:
    """Running mean and spread of a statistic of the pairs, and its values in the latest step.

    Exponential averages of the mean and of the mean square, corrected for their start at zero; so the spread is that
    of the pairs over steps, and a step of one pair is as good as any.
    """

    def __init__(self, statistic: str, momentum: float):
        self.statistic, self.momentum = statistic, momentum
        self.skip = False  # whether the next step is the untrained policy's, whose statistic is rounding about zero
        self.latest: torch.Tensor | None = None
        self.sums, self.steps = torch.zeros(2, dtype=torch.float64), 0

    def of(self, batch: PairBatch) -> torch.Tensor:
        """The statistic of each pair, [B], detached."""
        return REWARDS[self.statistic](batch).detach()

    def start(self, values_B: torch.Tensor) -> None:
        """Begin with the untrained policy's values. Where all are zero, and so zero by construction, the first step is
        passed over too: its values are rounding about zero, and a spread of that size would make all later ones huge.
        """
        self.skip = not bool(values_B.any())
        if not self.skip:
            self.observe(values_B)

    def observe(self, values_B: torch.Tensor) -> None:
        """Add a step's values."""
        if len(values_B) and not self.skip:
            self.latest = values_B.detach().to(self.sums)
            new = torch.stack((self.latest.mean(), self.latest.square().mean()))
            self.sums, self.steps = self.momentum * self.sums + (1 - self.momentum) * new, self.steps + 1
        self.skip = False

    @property
    def mean(self) -> float | None:
        """None before the first observation."""
        return self._corrected()[0] if self.steps else None

    @property
    def spread(self) -> float:
        """The standard deviation; 0 before the first observation."""
        mean, square = self._corrected() if self.steps else (0.0, 0.0)
        variance = square - mean * mean
        return variance**0.5 if variance > max(_ROUNDING * square, _TINY) else 0.0

    def standardise(self, values_B: torch.Tensor) -> torch.Tensor:
        """(value - mean) / spread, for a spread above 0."""
        return (values_B - (self.mean or 0.0)) / self.spread

    def inclusion(self, values_B: torch.Tensor, share: float) -> torch.Tensor:
        """P(a pair is kept), [B]: min(1, k w) with Gaussian weights w around the mean, k such that `share` of the
        latest step would be kept.
        """
        if self.latest is None or not self.spread or share >= 1:
            return torch.ones_like(values_B)
        w_b = torch.exp(-0.5 * self.standardise(self.latest).square()).sort(descending=True).values
        # With the j largest kept for certain, the rest share what is left; the right j is the first that caps no more.
        left_b = share * len(w_b) - torch.arange(len(w_b), dtype=w_b.dtype)
        k_b = left_b / w_b.flip(0).cumsum(0).flip(0)
        k = k_b[int((k_b * w_b <= 1).nonzero()[0])]
        # In float64: k may be beyond what float32 holds, its product with a small w is not.
        w_B = torch.exp(-0.5 * self.standardise(values_B.double()).square())
        return (k.to(w_B) * w_B).clamp(max=1).to(values_B)

    def _corrected(self) -> list[float]:
        return (self.sums / (1 - self.momentum**self.steps)).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest, "sums": self.sums, "steps": self.steps, "skip": self.skip}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest, self.sums, self.steps, self.skip = (state[name] for name in ("latest", "sums", "steps", "skip"))


class State:
    """All that an objective remembers: gamma-PO's queue, moments, both or neither."""

    def __init__(self, gamma: GammaState | PublishedState | None = None, moments: Moments | None = None):
        self.gamma, self.moments = gamma, moments

    def observe(self, gaps_B: torch.Tensor, statistics_B: torch.Tensor | None = None) -> None:
        """Add a step's preference pairs, in schedule order: their gaps, and the statistic where one is watched."""
        if self.gamma:
            self.gamma.observe(gaps_B)
        if self.moments:
            if statistics_B is None:
                raise ValueError(f"this objective watches {self.moments.statistic}: pass Output.statistics_B too")
            self.moments.observe(statistics_B)

    def state_dict(self) -> dict[str, Any]:
        parts = {"gamma": self.gamma, "moments": self.moments}
        return {name: part.state_dict() for name, part in parts.items() if part}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.gamma:
            self.gamma.load_state_dict(state["gamma"])
        if self.moments:
            self.moments.load_state_dict(state["moments"])
