"""The margin problem of gamma-PO (arXiv 2506.03690), solved exactly, and the state that carries its answer on.

For N gaps r_i, base margin g > 0 and strength tau >= 0 the target margins are g * q_i, where q solves

    min over q > 0 with mean(q) = 1 of   mean( softplus(g q_i - r_i) + tau q_i log q_i )

It is strictly convex. At the optimum one scalar c is shared by all pairs: with x_i = log q_i,

    tau x_i + g sigmoid(g e^{x_i} - r_i) = c,      mean(e^{x_i}) = 1,      0 < c < g

so that a margin depends on its own gap and on c alone. Both equations are monotone: two nested scalar roots.
For tau = 0 the limit is water-filling: margin_i = max(0, r_i + b), and b is the scalar.
"""

import math
from typing import Any

import torch

_INNER, _OUTER = 200, 100  # iterations at most; about ten of each are usual


def margins_at(gaps_N: torch.Tensor, scalar: float, gamma0: float, tau: float) -> torch.Tensor:
    """The target margin of every gap given the shared scalar, [N] float64."""
    r_N = gaps_N.detach().double()
    if tau == 0:
        return torch.clamp(r_N + scalar, min=0)
    return gamma0 * torch.exp(_log_q(r_N, scalar, gamma0, tau)[0])


def solve_scalar(gaps_N: torch.Tensor, gamma0: float, tau: float) -> float:
    """The scalar at which the margins of these gaps average to gamma0. Raises ValueError where there is none."""
    r_N = gaps_N.detach().double()
    if not len(r_N):
        raise ValueError("no gaps to solve for")
    if not bool(torch.isfinite(r_N).all()):
        raise ValueError(f"gap {int((~torch.isfinite(r_N)).nonzero()[0])} of {len(r_N)} is not finite")
    return _water_level(r_N, gamma0) if tau == 0 else _shared_multiplier(r_N, gamma0, tau)


def _log_q(
    r_N: torch.Tensor, c: float, gamma0: float, tau: float, x_N: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_i(c), [N], and the slope of its equation there, [N].

    Newton inside a bracket; bisection where Newton leaves it or does not halve its step.
    """
    low_N = torch.full_like(r_N, (c - gamma0) / tau)
    high_N = torch.full_like(r_N, c / tau)
    x_N = 0.5 * (low_N + high_N) if x_N is None else x_N.clamp((c - gamma0) / tau, c / tau)
    last_N = high_N - low_N
    for _ in range(_INNER):
        q_N = torch.exp(x_N)
        s_N = torch.sigmoid(gamma0 * q_N - r_N)
        residual_N = tau * x_N + gamma0 * s_N - c
        slope_N = tau + gamma0 * gamma0 * q_N * s_N * (1 - s_N)
        below_N = residual_N < 0
        low_N, high_N = torch.where(below_N, x_N, low_N), torch.where(below_N, high_N, x_N)
        newton_N = x_N - residual_N / slope_N
        trusted_N = (newton_N >= low_N) & (newton_N <= high_N) & (2 * (newton_N - x_N).abs() <= last_N)
        update_N = torch.where(trusted_N, newton_N, 0.5 * (low_N + high_N))
        last_N, x_N = (update_N - x_N).abs(), update_N
        if bool((last_N <= 4e-16 * (1 + x_N.abs())).all()):
            break
    return x_N, slope_N


def _shared_multiplier(r_N: torch.Tensor, gamma0: float, tau: float) -> float:
    low, high, x_N = 0.0, gamma0, None
    c = float((gamma0 * torch.sigmoid(gamma0 - r_N)).mean())  # exact where all gaps are equal
    for _ in range(_OUTER):
        x_N, slope_N = _log_q(r_N, c, gamma0, tau, x_N)
        excess = float(torch.logsumexp(x_N, 0)) - math.log(len(r_N))  # log mean q, better scaled than mean q - 1
        low, high = (low, c) if excess > 0 else (c, high)
        if abs(excess) <= 4e-16 or high - low <= 2e-16 * gamma0:
            break
        share_N = torch.softmax(x_N, 0)
        newton = c - excess / float((share_N / slope_N).sum())
        update = newton if low < newton < high else 0.5 * (low + high)
        if update == c:
            break
        c = update
    return c


def _water_level(r_N: torch.Tensor, gamma0: float) -> float:
    """b with mean(max(0, r + b)) = gamma0: the k largest gaps are above water, for the largest k that keeps them there.

    Measured from the largest gap, so that large gaps cost no digits in the sums.
    """
    below_N = r_N.sort(descending=True).values - r_N.max()
    level_N = (gamma0 * len(r_N) - below_N.cumsum(0)) / torch.arange(1, len(r_N) + 1, dtype=r_N.dtype)
    return float(level_N[int((below_N + level_N >= 0).nonzero().max())] - r_N.max())


class GammaState:
    """A queue of the latest gaps of all workers, in schedule order, and the scalar solved from it.

    A step takes margins from the scalar of the steps before it and adds its own gaps afterwards, so that a margin does
    not depend on micro-batches or workers. While the queue is empty every margin is gamma0.
    """

    def __init__(self, gamma0: float, tau: float, capacity: int, gaps: torch.Tensor | None = None):
        self.gamma0, self.tau, self.capacity = gamma0, tau, capacity
        self.queue = torch.zeros(0, dtype=torch.float64)
        self.scalar: float | None = None
        if gaps is not None:
            self.observe(gaps)

    def margins(self, gaps_B: torch.Tensor) -> torch.Tensor:
        """Target margins, [B] float64; they average to gamma0 over the queue, not over this batch."""
        if self.scalar is None:
            return torch.full_like(gaps_B, self.gamma0, dtype=torch.float64)
        return margins_at(gaps_B, self.scalar, self.gamma0, self.tau)

    def observe(self, gaps_B: torch.Tensor) -> None:
        """Append a step's gaps, drop the oldest beyond the capacity, solve again."""
        if len(gaps_B):
            self.queue = torch.cat((self.queue, gaps_B.detach().double().cpu()))[-self.capacity :]
            self.scalar = solve_scalar(self.queue, self.gamma0, self.tau)

    def state_dict(self) -> dict[str, Any]:
        return {"queue": self.queue, "scalar": self.scalar}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.queue, self.scalar = state["queue"], state["scalar"]


class NoState:
    """For objectives that remember nothing between steps."""

    def observe(self, gaps_B: torch.Tensor) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
