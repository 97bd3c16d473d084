"""Pairs to try objectives on, easy to work by hand and extreme; and the batches they make."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from pipeline.objectives.batch import SFT, PairBatch
from pipeline.objectives.objective import Objective, build
from pipeline.objectives.presets import PRESETS
from pipeline.objectives.state import State


class Pair(NamedTuple):
    """One pair: w is chosen, l rejected. `lp_*` and `lr_*` are sums of the policy's and the reference's log-probs."""

    lp_w: float
    lp_l: float
    lr_w: float
    lr_l: float
    n_w: int
    n_l: int
    s_w: float
    s_l: float
    p: float  # the label's confidence
    source: int = 0  # of the label

    @property
    def features_w(self) -> list[float]:
        """The policy's strongest features of w, and below what they were under the reference."""
        return [3.0 + self.n_w / 10, 1.5, 0.25]

    @property
    def features_l(self) -> list[float]:
        return [2.0, 1.0 + self.s_l / 10, 0.5]

    @property
    def were_w(self) -> list[float]:
        return [2.5, 1.5 + self.p, 0.0]

    @property
    def were_l(self) -> list[float]:
        return [0.5, 0.0, self.s_w / 10]

    @property
    def tokens_w(self) -> list[float]:
        return ramp(self.lp_w, self.n_w)

    @property
    def tokens_l(self) -> list[float]:
        return ramp(self.lp_l, self.n_l)

    @property
    def reference_w(self) -> list[float]:
        return ramp(self.lr_w, self.n_w)[::-1]

    @property
    def reference_l(self) -> list[float]:
        return ramp(self.lr_l, self.n_l)[::-1]

    @property
    def squares_w(self) -> float:
        """Sum over the tokens of log sum_v pi(v)^2, as of a policy that is 1.5 and 1.2 nats from certain."""
        return -1.5 * self.n_w

    @property
    def squares_l(self) -> float:
        return -1.2 * self.n_l


def weights(count: int) -> list[float]:
    """Of a completion's tokens; for BMC whether they are changed, if by halves."""
    return [(0.0, 1.0, 0.5)[k % 3] for k in range(count)]


def ramp(total: float, count: int) -> list[float]:
    """`count` log-probs in the proportions 1, 2, 3 ..., adding up to `total`."""
    return [total * 2 * k / (count * (count + 1)) for k in range(1, count + 1)]


EASY = Pair(-10.0, -12.0, -11.0, -11.5, 5, 4, 7.0, 4.0, 0.9)  # h 1.5, mean h 0.325, d 1: see by_hand in test_presets.py
WRONG = Pair(-30.0, -20.0, -28.0, -21.0, 12, 10, 5.0, 5.0, 0.5)  # both models prefer l; tied scores, a coin's label
SHORT = Pair(-3.5, -3.5, -3.0, -4.0, 1, 2, 3.0, 6.5, 0.6)  # one token; the scores contradict the label
LONG = Pair(-50.0, -90.0, -55.0, -80.0, 20, 30, 9.0, 8.6, 1.0, source=1)
FAR = Pair(-0.002, -900.0, -0.5, -300.0, 3, 400, 10.0, 1.0, 0.99)  # h about 600: exp overflows and underflows
LOST = Pair(-900.0, -0.002, -300.0, -0.5, 400, 3, 1.0, 10.0, 0.7)  # the same, on the wrong side
MILD = [EASY, WRONG, SHORT, LONG]
PAIRS = [*MILD, FAR, LOST]

INNER = [name for name, row in PRESETS.items() if not row.routes and not row.schedule]  # what mixdpo may be over

STATEFUL = [name for name, row in PRESETS.items() if row.gamma or row.statistic]
ELASTIC = [name for name, row in PRESETS.items() if not (row.gamma or row.unary)]  # what takes margin=gamma

# What stateful rows have seen: gaps, statistics and sources of two steps.
STEP_KL = 0.7  # nats, of KTO's step
STEPS = [([-1.0, 0.2, 0.9], [-0.5, 1.5, 0.7], [0, 1, 0]), ([3.0, 0.4], [0.1, 0.5], [1, 1])]
# The statistics of those that watch something of which these would be no values: P(the label is right).
PROBABILITIES = [[0.5, 0.95, 0.7], [0.1, 0.5]]


def batch_of(
    pairs: Sequence[Pair], routes: Sequence[int] | None = None, dtype: torch.dtype = torch.float64
) -> PairBatch:
    """All columns of these pairs. Those routed to SFT carry zeros, zero tokens and no token log-probs for l."""
    route_of = routes or [0] * len(pairs)
    present = [
        pair._replace(lp_l=0.0, lr_l=0.0, n_l=0) if route == SFT else pair
        for pair, route in zip(pairs, route_of, strict=True)
    ]

    def column(name: str) -> torch.Tensor:
        return torch.tensor([getattr(pair, name) for pair in present], dtype=dtype)

    return PairBatch(
        policy_chosen_logps=column("lp_w"),
        policy_rejected_logps=column("lp_l"),
        reference_chosen_logps=column("lr_w"),
        reference_rejected_logps=column("lr_l"),
        chosen_tokens=column("n_w").long(),
        rejected_tokens=column("n_l").long(),
        chosen_scores=column("s_w"),
        rejected_scores=column("s_l"),
        label_confidence=column("p"),
        policy_chosen_square_logps=column("squares_w"),
        policy_rejected_square_logps=column("squares_l"),
        reference_chosen_token_logps=[torch.tensor(pair.reference_w, dtype=dtype) for pair in present],
        reference_rejected_token_logps=[torch.tensor(pair.reference_l, dtype=dtype) for pair in present],
        chosen_token_weights=[torch.tensor(weights(pair.n_w), dtype=dtype) for pair in present],
        rejected_token_weights=[torch.tensor(weights(pair.n_l), dtype=dtype) for pair in present],
        step_kl=torch.full((len(present),), STEP_KL, dtype=dtype),
        policy_chosen_features=column("features_w"),
        policy_rejected_features=column("features_l"),
        reference_chosen_features=column("were_w"),
        reference_rejected_features=column("were_l"),
        sources=column("source").long(),
        routes=None if routes is None else torch.tensor(routes, dtype=torch.long),
        policy_chosen_token_logps=[torch.tensor(pair.tokens_w, dtype=dtype) for pair in present],
        policy_rejected_token_logps=[torch.tensor(pair.tokens_l, dtype=dtype) for pair in present],
    )


def experienced(objective: Objective) -> State:
    """A state that has observed STEPS."""
    state = objective.initial_state()
    of_trust = objective.preset.statistic == "reliability"
    for (gaps, statistics, sources), probabilities in zip(STEPS, PROBABILITIES, strict=True):
        values = probabilities if of_trust else statistics
        seen, watched = (torch.tensor(each, dtype=torch.float64) for each in (gaps, values))
        state.foresee(seen)
        state.observe(seen, watched, torch.tensor(sources))
    return state


def run(name: str, on: PairBatch | None = None, **parameters: Any) -> Any:
    """An objective's output on PAIRS, its state having observed STEPS."""
    objective = build(name, **parameters)
    return objective(batch_of(PAIRS) if on is None else on, experienced(objective))


def with_grad(batch: PairBatch) -> tuple[PairBatch, list[torch.Tensor]]:
    """The batch with leaves in place of its policy log-probs, and these leaves: sums w, sums l, tokens w, tokens l."""
    assert batch.policy_chosen_token_logps is not None and batch.policy_rejected_token_logps is not None
    sums = [side.clone().requires_grad_() for side in (batch.policy_chosen_logps, batch.policy_rejected_logps)]
    tokens_w = [each.clone().requires_grad_() for each in batch.policy_chosen_token_logps]
    tokens_l = [each.clone().requires_grad_() for each in batch.policy_rejected_token_logps]
    changed = replace(
        batch,
        policy_chosen_logps=sums[0],
        policy_rejected_logps=sums[1],
        policy_chosen_token_logps=tokens_w,
        policy_rejected_token_logps=tokens_l,
    )
    return changed, [*sums, *tokens_w, *tokens_l]
