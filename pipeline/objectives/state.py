"""What an objective remembers from step to step, of all workers and in schedule order.

A step takes what it needs from the steps before it and adds its own pairs afterwards, so that nothing depends on
micro-batches or on the number of workers; evaluation adds nothing. Shapes: B pairs of a step.
"""

from typing import Any

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.gamma import margins_at, solve_scalar
from pipeline.objectives.memories import Level, Reliability, Worst
from pipeline.objectives.presets import QUEUE, Values
from pipeline.objectives.published import PublishedState
from pipeline.objectives.rewards import REWARDS, log_ratios

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


class StepState(GammaState):
    """Margins solved over the gaps of the step that they are for, and of no other: `queue: step`.

    Whatever is of the step, in micro-batches or of other workers, has to be known before its first loss.
    """

    def foresee(self, gaps_B: torch.Tensor) -> None:
        """Solve over the gaps of the step that comes. One that is no number is left to the step's own checks."""
        kept_B = gaps_B[gaps_B.isfinite()]
        if len(kept_B):
            self.scalar = solve_scalar(kept_B, self.gamma0, self.tau)
        elif len(gaps_B):
            self.scalar = torch.tensor(torch.nan, dtype=torch.float64)

    def margins(self, gaps_B: torch.Tensor) -> torch.Tensor:
        """Target margins, [B] float64; they average to gamma0 over the step. Raises ValueError before `foresee`."""
        if self.scalar is None and len(gaps_B):
            raise ValueError("with queue=step margins are solved over the step's gaps: call state.foresee with them")
        return super().margins(gaps_B)

    def observe(self, gaps_B: torch.Tensor) -> None:
        """Nothing: a step's gaps are not for the next."""

    @property
    def fill(self) -> float:
        return 1.0


class Moments:
    """Running mean and spread of a statistic of the pairs, and its values in the latest step.

    Exponential averages of the mean and of the mean square, corrected for their start at zero; so the spread is that
    of the pairs over steps, and a step of one pair is as good as any.
    """

    def __init__(self, statistic: str, momentum: float, parameters: Values | None = None):
        self.statistic, self.momentum, self.parameters = statistic, momentum, parameters or Values()
        self.skip = False  # whether the next step is the untrained policy's, whose statistic is rounding about zero
        self.latest: torch.Tensor | None = None
        self.sums, self.steps = torch.zeros(2, dtype=torch.float64), 0

    def of(self, batch: PairBatch) -> torch.Tensor:
        """The statistic of each pair, [B], detached."""
        return STATISTICS[self.statistic](batch, self.parameters).detach()

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
        latest step would be kept. Without a spread all are as likely.
        """
        if self.latest is None or not self.spread or share >= 1:
            return torch.full_like(values_B, share)
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


def _middle(batch: PairBatch, parameters: Values) -> torch.Tensor:
    """The mean of both sides' log-ratios."""
    chosen_B, rejected_B = log_ratios(batch)
    return (chosen_B + rejected_B) / 2


def score_gap(batch: PairBatch, parameters: Values) -> torch.Tensor:
    """s_w - s_l, or 0 where it contradicts the label."""
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    return (chosen_B - rejected_B).clamp(min=0)


STATISTICS = {**REWARDS, "middle": _middle, "score-gap": score_gap}  # what moments may be of

Memory = Moments | Level | Worst | Reliability


class State:
    """All that an objective remembers: gamma-PO's queue, a memory of another kind, both or neither."""

    def __init__(self, gamma: GammaState | PublishedState | None = None, memory: Memory | None = None):
        self.gamma, self.memory = gamma, memory

    @property
    def moments(self) -> Moments | None:
        return self.memory if isinstance(self.memory, Moments) else None

    def statistics(self, pairs: PairBatch, z_B: torch.Tensor, losses_B: torch.Tensor) -> torch.Tensor | None:
        """What the memory observes of these pairs, [B], given their link's argument and its losses."""
        memory = self.memory
        if isinstance(memory, Moments):
            return memory.of(pairs)
        if isinstance(memory, Level):
            return memory.of(losses_B)
        if isinstance(memory, Worst):
            return memory.of(pairs, losses_B)
        return memory.of(z_B, pairs) if memory else None

    def foresee(self, gaps_B: torch.Tensor) -> None:
        """Take the gaps of a step's preference pairs before its losses, which a queue of the step itself asks for."""
        if isinstance(self.gamma, StepState):
            self.gamma.foresee(gaps_B)

    def observe(
        self,
        gaps_B: torch.Tensor,
        statistics_B: torch.Tensor | None = None,
        sources_B: torch.Tensor | None = None,
    ) -> None:
        """Add a step's preference pairs, in schedule order: their gaps, the statistic where one is watched, and their
        sources where it is watched of each.
        """
        if self.gamma:
            self.gamma.observe(gaps_B)
        if self.memory is None:
            return
        if statistics_B is None:
            raise ValueError("this objective watches more than gaps: pass Output.statistics_B too")
        if not isinstance(self.memory, Reliability):
            self.memory.observe(statistics_B)
        elif sources_B is None:
            raise ValueError("this objective watches the sources of labels: pass PairBatch.sources too")
        else:
            self.memory.observe(statistics_B, sources_B)

    def _parts(self) -> dict[str, Any]:
        parts = {"gamma": self.gamma, type(self.memory).__name__.lower(): self.memory}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
