"""What weights and links remember of earlier steps' pairs, where mean and spread (`state.Moments`) are not enough.

What is published takes these from the batch itself, so that they depend on micro-batches and on workers; see state.py.
Each has `statistic`, its name in presets.py; `of`, what it would observe of pairs, detached; and `observe`, which adds
a step's. Shapes: B pairs.
"""

import math
from typing import Any

import torch

from pipeline.objectives.batch import PairBatch


class Level:
    """Dr. DPO: log E[exp(-loss / beta')], an exponential average over steps, corrected for its start.

    Kept as a logarithm, as the exponentials of a small beta' leave what floats hold.
    """

    statistic = "level"

    def __init__(self, beta_prime: float, momentum: float):
        self.beta_prime, self.momentum = beta_prime, momentum
        self.log_sum, self.steps = -math.inf, 0

    def of(self, losses_B: torch.Tensor) -> torch.Tensor:
        return -losses_B.detach() / self.beta_prime

    def observe(self, values_B: torch.Tensor) -> None:
        if len(values_B):
            new = float(values_B.detach().double().logsumexp(0)) - math.log(len(values_B))
            terms = torch.tensor([self.log_sum, new], dtype=torch.float64)
            shares = torch.tensor([self.momentum, 1 - self.momentum], dtype=torch.float64)
            self.log_sum, self.steps = float((terms + shares.log()).logsumexp(0)), self.steps + 1

    @property
    def log_mean(self) -> float | None:
        """None before the first observation."""
        return self.log_sum - math.log1p(-(self.momentum**self.steps)) if self.steps else None

    def state_dict(self) -> dict[str, Any]:
        return {"log_sum": self.log_sum, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log_sum, self.steps = state["log_sum"], state["steps"]


class Worst:
    """RAPPO: the `drop`-th largest loss of a step's pairs whose reference ratio is no greater than `ratio`.

    A pair of the next step is as likely as any of these to lie above it: `drop` are left out on average. Of the latest
    step with such pairs, as losses spread while training goes. The first step's are all alike, as policy and reference
    are: it is passed over.
    """

    statistic = "worst"

    def __init__(self, drop: int, ratio: float):
        self.drop, self.log_ratio = drop, math.log(ratio)
        self.bound, self.begun = math.inf, False

    def of(self, batch: PairBatch, losses_B: torch.Tensor) -> torch.Tensor:
        """The losses; -inf for pairs that are not in question."""
        chosen_B, rejected_B = batch.need("reference_chosen_logps", "reference_rejected_logps")
        return torch.where(chosen_B - rejected_B <= self.log_ratio, losses_B.detach(), -math.inf)

    def observe(self, values_B: torch.Tensor) -> None:
        losses = sorted(values_B[values_B > -math.inf].tolist(), reverse=True)
        if self.begun and losses and self.drop:
            self.bound = losses[self.drop - 1] if self.drop <= len(losses) else -math.inf
        self.begun = self.begun or len(values_B) > 0

    def state_dict(self) -> dict[str, Any]:
        return {"bound": self.bound, "begun": self.begun}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bound, self.begun = state["bound"], state["begun"]


class Reliability:
    """RE-PO: for each source of labels eta, the share of them that is right, as estimated from the gaps.

    A label is right with probability p eta / (p eta + (1 - p)(1 - eta)), p = sigmoid(z); eta moves towards the mean of
    that over a step's pairs of the source, by `rate`.
    """

    statistic = "reliability"

    def __init__(self, start: float, rate: float):
        self.start, self.rate = start, rate
        self.shares: dict[int, float] = {}

    def of(self, z_B: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        """P(the label is right), [B]."""
        (sources_B,) = batch.need("sources")
        shares = [self.shares.get(source, self.start) for source in sources_B.tolist()]
        return torch.sigmoid(z_B.detach() + torch.logit(torch.tensor(shares, dtype=torch.float64)).to(z_B))

    def observe(self, values_B: torch.Tensor, sources_B: torch.Tensor) -> None:
        for source in sorted(set(sources_B.tolist())):
            seen = float(values_B[sources_B == source].double().mean())
            self.shares[source] = (1 - self.rate) * self.shares.get(source, self.start) + self.rate * seen

    def state_dict(self) -> dict[str, Any]:
        return {"shares": self.shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.shares = dict(state["shares"])
