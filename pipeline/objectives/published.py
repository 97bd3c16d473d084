"""The published algorithm of gamma-PO (arXiv 2506.03690), for replication and comparison: `solver: paper`.

Restated from the authors' code (github.com/sunjie279/gammaPO). Four of its faults are not repeated: it returns the
iterate before its last update; it feeds evaluation's gaps to the training queue; its draws come from an unseeded
generator and its queue is in no checkpoint; and it may run in bfloat16, which alone costs one to two per cent.
What is kept: 20 updates whether they converge or not, a random part of the queue, and a queue of each process, so that
margins depend on micro-batches and on the number of processes. gamma.py has none of that.

Shapes: N gaps of a sample, B gaps of a micro-batch.
"""

import torch

CAPACITY, SAMPLE, START = 2048, 256, 8  # gaps in the queue, gaps solved for at once, random gaps to begin with


def mirror_descent(gaps_N: torch.Tensor, gamma0: float, tau: float, steps: int = 20) -> torch.Tensor:
    """Algorithm 1: the margins, [N], after `steps` updates by exponentiated gradient on the simplex.

    In float32, or in float64 where the gaps are. It oscillates for tau below about gamma0^2 / 10.
    """
    r_N = _at_least_single(gaps_N)
    rate = min(0.5 / tau, 1.0) if tau else 1.0
    size = len(r_N)
    p_N = torch.full_like(r_N, 1 / size)
    for _ in range(steps):
        entropy_N = 1 + torch.log(size * (p_N + 1e-10))
        gradient_N = tau * entropy_N + gamma0 * torch.sigmoid(gamma0 * size * p_N - r_N)
        p_N = p_N * torch.exp(-rate * gradient_N)
        p_N = p_N / p_N.sum()
    return gamma0 * size * p_N


class PublishedState:
    """Algorithm 2: the latest 2048 gaps of this process; each micro-batch is solved together with a random part of it.

    The margins of a micro-batch average to gamma0 over that sample. `margins` itself adds the gaps to the queue where
    gradients are enabled; without them (evaluation) it neither adds gaps nor uses up random numbers.
    """

    def __init__(self, gamma0: float, tau: float, seed: int):
        self.gamma0, self.tau = gamma0, tau
        self.generator = torch.Generator().manual_seed(seed)
        self.queue = torch.randn(START, generator=self.generator, dtype=torch.float64)

    def margins(self, gaps_B: torch.Tensor) -> torch.Tensor:
        """Target margins, [B] float64."""
        training = torch.is_grad_enabled()
        generator = self.generator if training else self.generator.clone_state()
        drawn = torch.randperm(len(self.queue), generator=generator)[: max(0, SAMPLE - len(gaps_B))]
        r_B = _at_least_single(gaps_B)
        margins_N = mirror_descent(torch.cat((self.queue[drawn].to(r_B), r_B)), self.gamma0, self.tau)
        if training:
            self.queue = torch.cat((self.queue, r_B.to(self.queue)))[-CAPACITY:]
        return margins_N[len(drawn) :].double()

    def observe(self, gaps_B: torch.Tensor) -> None:
        """Nothing: `margins` has observed them."""

    @property
    def fill(self) -> float:
        """The share of the queue in use."""
        return len(self.queue) / CAPACITY

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"queue": self.queue, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.queue = state["queue"].cpu()
        self.generator.set_state(state["generator"].cpu())


def _at_least_single(gaps: torch.Tensor) -> torch.Tensor:
    return gaps.detach() if gaps.dtype == torch.float64 else gaps.detach().float()
