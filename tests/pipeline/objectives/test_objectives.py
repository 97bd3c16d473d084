"""Every preset against a scalar implementation of its paper's formula, and the identities between presets."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.errors import UserError
from pipeline.objectives.batch import PREFERENCE, SFT, PairBatch
from pipeline.objectives.gamma import GammaState
from pipeline.objectives.objective import build

# One row a pair: policy chosen, policy rejected, reference chosen, reference rejected (sums), tokens chosen, rejected.
ROWS = [
    (-10.0, -12.0, -11.0, -11.5, 5, 4),
    (-30.0, -20.0, -28.0, -21.0, 12, 9),
    (-3.5, -3.5, -3.0, -4.0, 1, 2),
    (-50.0, -90.0, -55.0, -80.0, 20, 30),
]
GAPS = torch.tensor([-1.0, 0.2, 0.9, 3.0])  # what gamma presets have seen before


def batch(routes: list[int] | None = None) -> PairBatch:
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*ROWS, strict=True)]
    return PairBatch(
        policy_chosen_logps=columns[0],
        policy_rejected_logps=columns[1],
        reference_chosen_logps=columns[2],
        reference_rejected_logps=columns[3],
        chosen_tokens=columns[4].long(),
        rejected_tokens=columns[5].long(),
        routes=None if routes is None else torch.tensor(routes),
    )


def run(name: str, routes: list[int] | None = None, on: PairBatch | None = None, **parameters: Any) -> Any:
    objective = build(name, **parameters)
    return objective(on or batch(routes), objective.initial_state(gaps=GAPS))


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def log_ratio_gap(row: tuple[float, ...], beta: float) -> float:
    return beta * ((row[0] - row[2]) - (row[1] - row[3]))


def mean_gap(row: tuple[float, ...], beta: float) -> float:
    return beta * (row[0] / row[4] - row[1] / row[5])


def solve(gap: float, c: float, gamma0: float, tau: float) -> float:
    """gamma0 * q where tau log q + gamma0 sigmoid(gamma0 q - gap) = c, by bisection over log q."""
    low, high = (c - gamma0) / tau, c / tau
    for _ in range(200):
        middle = (low + high) / 2
        excess = tau * middle + gamma0 * sigmoid(gamma0 * math.exp(middle) - gap) - c
        low, high = (low, middle) if excess > 0 else (middle, high)
    return gamma0 * math.exp(low)


def margin_after(seen: list[float], gamma0: float, tau: float) -> Callable[[float], float]:
    """The margin as a function of the gap once `seen` gaps are queued: c by bisection on the mean margin."""
    low, high = 0.0, gamma0
    for _ in range(200):
        c = (low + high) / 2
        mean = sum(solve(gap, c, gamma0, tau) for gap in seen) / len(seen)
        low, high = (low, c) if mean > gamma0 else (c, high)
    return lambda gap: solve(gap, low, gamma0, tau)


def test_by_hand() -> None:
    """Pair 0: DPO's gap is 0.1 * ((-10 + 11) - (-12 + 11.5)) = 0.15; SimPO's is 2 * (-10/5 + 12/4) = 2."""
    assert float(run("dpo").gaps_B[0]) == pytest.approx(0.15)
    assert float(run("dpo").losses_B[0]) == pytest.approx(0.62095706, rel=1e-7)  # ln(1 + e^-0.15)
    assert float(run("simpo").gaps_B[0]) == pytest.approx(2.0)
    assert float(run("simpo").losses_B[0]) == pytest.approx(0.31326169, rel=1e-7)  # ln(1 + e^-1), margin 1
    assert float(run("mixdpo", [SFT] * 4).losses_B[0]) == pytest.approx(2.0)  # 10 nats over 5 tokens


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_dpo(smoothing: float) -> None:
    out = run("dpo", beta=0.3, label_smoothing=smoothing)
    for i, row in enumerate(ROWS):
        h = log_ratio_gap(row, 0.3)
        assert float(out.losses_B[i]) == pytest.approx((1 - smoothing) * softplus(-h) + smoothing * softplus(h))
        assert float(out.weights_B[i]) == pytest.approx((1 - smoothing) * sigmoid(-h) - smoothing * sigmoid(h))
        assert float(out.margins_B[i]) == 0


def test_simpo() -> None:
    out = run("simpo", beta=2.5, gamma0=0.7)
    for i, row in enumerate(ROWS):
        assert float(out.losses_B[i]) == pytest.approx(softplus(0.7 - mean_gap(row, 2.5)))
        assert float(out.margins_B[i]) == pytest.approx(0.7)


@pytest.mark.parametrize(("name", "gap", "centre"), [("gamma-dpo", log_ratio_gap, 1.5), ("gamma-simpo", mean_gap, 0.0)])
def test_gamma_presets(name: str, gap: Callable[..., float], centre: float) -> None:
    margin_of = margin_after(GAPS.double().tolist(), 1.5, 0.8)
    out = run(name, beta=0.4, gamma0=1.5, tau=0.8)
    for i, row in enumerate(ROWS):
        r = gap(row, 0.4)
        margin = margin_of(r) - centre
        assert float(out.gaps_B[i]) == pytest.approx(r)
        assert float(out.margins_B[i]) == pytest.approx(margin, rel=1e-9, abs=1e-12)
        assert float(out.losses_B[i]) == pytest.approx(softplus(margin - r))


def test_mixdpo_routes_each_pair() -> None:
    routes = [PREFERENCE, SFT, PREFERENCE, SFT]
    out = run("mixdpo", routes, beta=0.2, sft_weight=0.5)
    for i, row in enumerate(ROWS):
        expected = 0.5 * -row[0] / row[4] if routes[i] == SFT else softplus(-log_ratio_gap(row, 0.2))
        assert float(out.losses_B[i]) == pytest.approx(expected)
        assert math.isnan(float(out.gaps_B[i])) == (routes[i] == SFT)
    assert float(out.loss_sum) == pytest.approx(float(out.losses_B.sum()))


@pytest.mark.parametrize("preference", ["dpo", "simpo", "gamma-dpo", "gamma-simpo"])
def test_mixdpo_without_sft_is_its_preference_side(preference: str) -> None:
    mixed, alone = run("mixdpo", [PREFERENCE] * 4, preference=preference), run(preference)
    for name in ("losses_B", "gaps_B", "margins_B", "weights_B"):
        assert torch.equal(getattr(mixed, name), getattr(alone, name))


@pytest.mark.parametrize(("elastic", "still"), [("gamma-dpo", "dpo"), ("gamma-simpo", "simpo")])
def test_a_stiff_margin_is_the_constant_one(elastic: str, still: str) -> None:
    settings: dict[str, Any] = {"beta": 0.6} | ({"gamma0": 1.2} if still == "simpo" else {})
    a, b = run(elastic, tau=1e12, **{"gamma0": 1.2, **settings}), run(still, **settings)
    torch.testing.assert_close(a.losses_B, b.losses_B, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(a.weights_B, b.weights_B, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["dpo", "simpo", "gamma-dpo", "gamma-simpo", "mixdpo"])
def test_gradcheck(name: str) -> None:
    """In float64. The gamma presets with a stiff margin, for a margin is a constant to the gradient."""
    objective = build(name, **({"tau": 1e12} if name.startswith("gamma") else {}))
    base = batch([PREFERENCE, SFT, PREFERENCE, PREFERENCE] if name == "mixdpo" else None)
    state = objective.initial_state(gaps=GAPS)

    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return objective(replace(base, policy_chosen_logps=chosen, policy_rejected_logps=rejected), state).losses_B

    inputs = [base.policy_chosen_logps.clone().requires_grad_(), base.policy_rejected_logps.clone().requires_grad_()]
    assert torch.autograd.gradcheck(losses, inputs)


def test_the_margin_is_a_constant_to_the_gradient() -> None:
    """d loss / d chosen = -weight * beta, although the margin moves with the gap."""
    chosen = batch().policy_chosen_logps.requires_grad_()
    out = run("gamma-dpo", on=replace(batch(), policy_chosen_logps=chosen), beta=0.4, tau=0.1)
    out.loss_sum.backward()
    assert chosen.grad is not None
    torch.testing.assert_close(chosen.grad, -0.4 * out.weights_B)
    assert out.margins_B.unique().numel() == len(ROWS)


@pytest.mark.parametrize(
    ("name", "parameters"), [("dpo", {"label_smoothing": 0.2}), ("simpo", {}), ("gamma-dpo", {}), ("gamma-simpo", {})]
)
def test_weight_is_minus_the_slope_of_the_loss(name: str, parameters: dict[str, float]) -> None:
    """By central differences of the scalar loss at the gap and the margin that were reported."""
    objective, h = build(name, **parameters), 1e-5
    out = objective(batch(), objective.initial_state(gaps=GAPS))
    for i in range(len(ROWS)):
        z = float(out.gaps_B[i] - out.margins_B[i])
        e = parameters.get("label_smoothing", 0.0)
        loss = [(1 - e) * softplus(-(z + d)) + e * softplus(z + d) for d in (-h, h)]
        assert float(out.weights_B[i]) == pytest.approx((loss[0] - loss[1]) / (2 * h), rel=1e-6, abs=1e-9)


def test_an_absent_rejected_side_gives_finite_gradients_and_no_gap() -> None:
    """Zeros stand where an SFT pair has no rejected side: even 0 / 0 tokens must reach no loss and no gradient."""
    objective = build("mixdpo", preference="gamma-simpo")
    state = objective.initial_state(gaps=GAPS)
    pairs = batch([SFT, PREFERENCE, SFT, PREFERENCE])
    absent = torch.tensor([True, False, True, False])
    chosen = pairs.policy_chosen_logps.clone().requires_grad_()
    rejected = pairs.policy_rejected_logps.masked_fill(absent, 0).requires_grad_()
    pairs = replace(
        pairs,
        policy_chosen_logps=chosen,
        policy_rejected_logps=rejected,
        rejected_tokens=pairs.rejected_tokens.masked_fill(absent, 0),
    )
    out = objective(pairs, state)
    out.loss_sum.backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert torch.isfinite(chosen.grad).all() and torch.isfinite(rejected.grad).all()
    assert rejected.grad[absent].abs().max() == 0 and rejected.grad[~absent].abs().min() > 0
    assert chosen.grad[0] == pytest.approx(-1 / 5)  # -d(mean NLL) over 5 tokens
    assert out.gaps_B.isnan().tolist() == absent.tolist()


def test_evaluation_leaves_the_state_alone() -> None:
    objective = build("gamma-dpo")
    state = objective.initial_state(gaps=GAPS)
    assert isinstance(state, GammaState)
    before, scalar = state.queue.clone(), state.scalar
    objective(batch(), state)
    assert torch.equal(state.queue, before) and state.scalar == scalar


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("mixpo", {}, "did you mean mixdpo.*dpo, simpo, gamma-dpo, gamma-simpo, mixdpo"),
        ("dpo", {"bata": 1.0}, "did you mean objective.beta"),
        ("dpo", {"tau": 1.0}, "dpo takes beta, label_smoothing"),
        ("dpo", {"beta": "x"}, "is a str"),
        ("dpo", {"beta": [1]}, "is a list"),
        ("dpo", {"beta": True}, "is a bool"),
        ("dpo", {"beta": math.nan}, "out of range"),
        ("dpo", {"beta": math.inf}, "out of range"),
        ("dpo", {"beta": 0}, "more than 0"),
        ("dpo", {"label_smoothing": 0.5}, "below 0.5"),
        ("gamma-dpo", {"tau": -0.1}, "0 or more"),
        ("mixdpo", {"preference": "mixdpo"}, "itself routes pairs"),
        ("mixdpo", {"preference": "nope"}, "objective.preference='nope' is not an objective"),
    ],
)
def test_a_bad_objective_is_one_error(name: str, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name, **parameters)
    assert re.search(says, str(caught.value), flags=re.DOTALL)
