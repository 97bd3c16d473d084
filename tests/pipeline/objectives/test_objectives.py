"""What holds for every row: gradients, routes, micro-batches, identities between rows, agreement with TRL."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.objectives.batch import PREFERENCE, SFT
from pipeline.objectives.margins import DIFFERENTIABLE
from pipeline.objectives.objective import build
from pipeline.objectives.presets import PRESETS, Preset
from tests.pipeline.objectives import pairs
from tests.pipeline.objectives.pairs import (
    EASY,
    INNER,
    LONG,
    MILD,
    PAIRS,
    SHORT,
    batch_of,
    experienced,
    run,
    with_grad,
)

# Rewards whose slope is not the same on either side.
CURVED = ("log-odds", "unsure-tokens", "bent-mean-log-prob", "weighted-tokens", "decayed-tokens", "changed-tokens")


def alike(row: Preset) -> bool:
    """Whether both sides pull alike, by the gap alone."""
    return row.auxiliary == "none" and not row.unary and row.reward not in CURVED and row.margin not in DIFFERENTIABLE


ROUTES = [PREFERENCE, SFT, SFT, PREFERENCE, SFT, PREFERENCE]
# Every row as it is, every row that takes margin=gamma with it, and MixDPO over every row it may be over.
ROWS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in PRESETS]
ELASTIC = [(name, {"margin": "gamma"}) for name in pairs.ELASTIC]
MIXED = [("mixdpo", {"preference": name}) for name in INNER]
# What gamma-PO's margins are solved over, and whether gamma0 is taken off.
QUEUED: list[tuple[str, dict[str, Any]]] = [
    ("gamma-dpo", {"tau": 0.3, "queue": 2}),
    ("gamma-dpo", {"tau": 0.3, "queue": "step", "centred": False}),
    ("gamma-simpo", {"tau": 3.0, "queue": "step"}),
    ("r-dpo", {"margin": "gamma", "tau": 0.3, "queue": "step", "centred": False}),
    ("mixdpo", {"preference": "gamma-dpo", "tau": 0.3, "queue": "step", "centred": False}),
]


# --- gradients


@pytest.mark.parametrize(
    ("name", "given"), [*((name, {}) for name in PRESETS), *(each for each in QUEUED if each[0] != "mixdpo")], ids=str
)
def test_gradcheck(name: str, given: dict[str, Any]) -> None:
    """In float64, for both sides' sums, and each token where they are read.

    What is held constant does not move: gamma is stiff, memories are empty, the weights of WPO and BMC are at their
    bounds, every label of RE-PO is right.
    """
    row = PRESETS[name]
    still = {"re-po": {"reliability": 1.0}, "bmc": {"delta": 0.9}}
    gamma = row.gamma or "margin" in given
    objective = build(name, **{**given, **({"tau": 1e12} if gamma else still.get(name, {}))})
    state = experienced(objective) if gamma else objective.initial_state()
    base, count = batch_of(MILD[:3]), 3
    base.policy_chosen_square_logps = base.policy_rejected_square_logps = torch.full((3,), -1e3).double()

    def losses(chosen: torch.Tensor, rejected: torch.Tensor, *tokens: torch.Tensor) -> torch.Tensor:
        batch = replace(base, policy_chosen_logps=chosen, policy_rejected_logps=rejected)
        if tokens:
            batch.policy_chosen_token_logps, batch.policy_rejected_token_logps = tokens[:count], tokens[count:]
        return objective(batch, state).per_pair(count, tokens=18)

    leaves = with_grad(base)[1]
    assert torch.autograd.gradcheck(losses, leaves if row.needs == ["token_logps"] else leaves[:2])


def test_the_reward_of_each_side() -> None:
    """beta (lp - lr) of DPO, beta lp / n of SimPO, by hand for EASY and WRONG; and their difference is every gap."""
    batch = batch_of(MILD[:2])
    dpo, simpo = (
        objective(batch, objective.initial_state()) for objective in (build("dpo", beta=0.1), build("simpo", beta=2.0))
    )
    assert dpo.chosen_rewards_B.tolist() == pytest.approx([0.1, -0.2])
    assert dpo.rejected_rewards_B.tolist() == pytest.approx([-0.05, 0.1])
    assert simpo.chosen_rewards_B.tolist() == pytest.approx([-4.0, -5.0])
    assert simpo.rejected_rewards_B.tolist() == pytest.approx([-6.0, -4.0])


@pytest.mark.parametrize(("name", "given"), ROWS, ids=str)
def test_gaps_are_the_difference_of_both_sides_rewards(name: str, given: dict[str, Any]) -> None:
    out = run(
        name, batch_of(MILD, [PREFERENCE, PREFERENCE, PREFERENCE, SFT if name == "mixdpo" else PREFERENCE]), **given
    )
    torch.testing.assert_close(out.chosen_rewards_B - out.rejected_rewards_B, out.gaps_B, equal_nan=True)
    assert not out.chosen_rewards_B.requires_grad


@pytest.mark.parametrize("name", [*(name for name in pairs.STATEFUL if not PRESETS[name].unary), "wpo"])
def test_margins_scales_and_weights_are_constants_to_the_gradient(name: str) -> None:
    """d loss / d lp_w is -weight times scale (over the length for means), however the margin moves with the gap."""
    objective = build(name, **({"tau": 0.1} if PRESETS[name].gamma else {}))
    state = experienced(objective)
    batch, (chosen, *_) = with_grad(batch_of(MILD))
    out = objective(batch, state)
    out.losses_B.sum().backward()
    scale = float(out.gaps_B[0] / objective.reward_gaps(batch)[0].detach())
    length_B = batch.chosen_tokens if objective.preset.reward == "mean-log-prob" else torch.ones(len(MILD))
    assert chosen.grad is not None
    torch.testing.assert_close(chosen.grad, -scale * out.weights_B / length_B)
    assert not (out.margins_B.requires_grad or out.gaps_B.requires_grad or out.weights_B.requires_grad)


@pytest.mark.parametrize("name", [name for name, row in PRESETS.items() if alike(row)])
def test_both_sides_pull_alike_where_only_the_gap_counts(name: str) -> None:
    batch, (chosen, rejected, *_) = with_grad(batch_of([pair._replace(n_w=7, n_l=7) for pair in MILD]))
    objective = build(name)
    objective(batch, experienced(objective)).losses_B.sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.abs().max() > 0
    torch.testing.assert_close(chosen.grad, -rejected.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "given"), ROWS + ELASTIC + QUEUED, ids=str)
def test_extreme_pairs_have_finite_losses_and_gradients(name: str, given: dict[str, Any]) -> None:
    for dtype in (torch.float64, torch.float32):
        batch, leaves = with_grad(batch_of(PAIRS, dtype=dtype))
        out = run(name, batch, **given)
        out.loss.backward()
        assert bool(out.losses_B.isfinite().all())
        assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize(("name", "given"), MIXED, ids=str)
def test_single_precision_is_the_same_loss(name: str, given: dict[str, Any]) -> None:
    """Log-probs in float32, labels in float64, as tables hold them."""
    routes = [PREFERENCE, PREFERENCE, SFT, PREFERENCE]
    double = batch_of(MILD, routes)
    labels = {field: getattr(double, field) for field in ("chosen_scores", "rejected_scores", "label_confidence")}
    single = replace(batch_of(MILD, routes, dtype=torch.float32), **labels)
    expected, out = run(name, double, **given), run(name, single, **given)
    for field in ("losses_B", "margins_B", "weights_B"):
        a, b = getattr(out, field).double(), getattr(expected, field)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


# --- rewards of one side


@pytest.mark.parametrize("name", [name for name, row in PRESETS.items() if row.unary])
def test_what_a_unary_link_says_of_a_side(name: str) -> None:
    """The gradient by lp_w does not know lp_l, nor the other way about, where the loss is a sum over sides; the gap is
    their difference, and its weight the half of what both pull.
    """
    base, moved = (batch_of(each) for each in (MILD, [pair._replace(lp_l=pair.lp_l - 3.0) for pair in MILD]))
    objective = build(name)
    state, found = experienced(objective), []
    for batch, (chosen, rejected, *_) in map(with_grad, (base, moved)):
        out = objective(batch, state)
        out.losses_B.sum().backward()
        assert chosen.grad is not None and rejected.grad is not None
        scale = 1.0 if objective.preset.scale == "one" else objective.parameters.number("beta")
        torch.testing.assert_close(out.weights_B, (rejected.grad - chosen.grad) / (2 * scale))
        found.append(chosen.grad)
        assert objective.preset.reward == "log-ratio" and not out.margins_B.any()
    by_side = name not in ("apo-down", "cal-dpo")
    assert torch.allclose(found[0], found[1], rtol=1e-12, atol=0) == by_side


def test_the_guard_pulls_a_fallen_chosen_side_up() -> None:
    """DPOP's gradient by lp_w is 1 + guard times that by lp_l where lp_w fell, and as DPO's where it rose.

    A fall within rounding is none, or the first step would be decided by chance.
    """
    fallen, risen = EASY._replace(lp_w=-11.5), EASY
    within = EASY._replace(lp_w=EASY.lr_w - 1e-5)
    batch, (chosen, rejected, *_) = with_grad(batch_of([fallen, risen, within]))
    out = run("dpop", batch, guard=4.0)
    out.losses_B.sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert (-chosen.grad / rejected.grad).tolist() == pytest.approx([5.0, 1.0, 1.0])
    in_double = pytest.approx([0.3 * 4 * (0.5 - 1e-4 * 5), 0, 0], rel=1e-14)
    assert out.margins_B.tolist() == in_double
    assert not out.margins_B.requires_grad


# --- routes


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_absent_rejected_side_reaches_nothing(name: str, dtype: torch.dtype) -> None:
    """SFT pairs with zeros for l: finite gradients, none for l, and a preference side that does not know of them."""
    batch, leaves = with_grad(batch_of(PAIRS, ROUTES, dtype))
    out = run("mixdpo", batch, preference=name, sft_weight=0.5)
    out.loss.backward()
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves if leaf.grad is not None)
    chosen, rejected = leaves[:2]
    is_sft = torch.tensor(ROUTES) == SFT
    assert chosen.grad is not None
    torch.testing.assert_close(chosen.grad[is_sft], (-0.5 / batch.chosen_tokens[is_sft] / len(PAIRS)).to(dtype))
    assert rejected.grad is None or not rejected.grad[is_sft].any()
    assert torch.equal(out.gaps_B.isnan(), is_sft)
    alone = run(name, batch_of([pair for pair, route in zip(PAIRS, ROUTES, strict=True) if not route], dtype=dtype))
    for field in ("losses_B", "token_losses_B", "gaps_B", "margins_B", "weights_B", "statistics_B"):
        assert torch.equal(getattr(out, field)[~is_sft], getattr(alone, field))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *((name, {}) for name in INNER),
        *((name, given) for name, given in ELASTIC if name in INNER),
        *((name, given | {"solver": "paper"}) for name, given in ELASTIC if name in INNER),
    ],
    ids=str,
)
def test_a_batch_of_sft_alone(name: str, given: dict[str, Any]) -> None:
    """As the last steps of MixDPO are: the mean NLL a token, nothing to observe, no figures."""
    batch, (chosen, *_) = with_grad(batch_of(MILD, [SFT] * 4))
    objective = build("mixdpo", preference=name, **given)
    out = objective(batch, experienced(objective))
    # 10/5, 30/12, 3.5/1 and 50/20 nats a token
    assert out.losses_B.tolist() == pytest.approx([2.0, 2.5, 3.5, 2.5])
    assert float(out.loss.detach()) == pytest.approx(10.5 / 4) and out.token_count == 0
    out.loss.backward()
    assert chosen.grad is not None and chosen.grad.tolist() == pytest.approx([-1 / 20, -1 / 48, -1 / 4, -1 / 80])
    assert set(out.metrics.values()) == {None}


@pytest.mark.parametrize("name", INNER)
def test_mixdpo_without_sft_is_its_preference_side(name: str) -> None:
    fields = ("losses_B", "token_losses_B", "gaps_B", "margins_B", "shifts_B", "weights_B", "statistics_B")
    mixed, alone = run("mixdpo", batch_of(PAIRS, [PREFERENCE] * 6), preference=name), run(name)
    assert all(torch.equal(getattr(mixed, field), getattr(alone, field)) for field in fields)


# --- micro-batches


@pytest.mark.parametrize(("name", "given"), ROWS + ELASTIC + MIXED + QUEUED, ids=str)
def test_any_split_and_order_has_the_same_loss_and_gradient(name: str, given: dict[str, Any]) -> None:
    objective = build(name, **given)
    state, routes = experienced(objective), ROUTES if name == "mixdpo" else [PREFERENCE] * 6
    whole, leaves = with_grad(batch_of(PAIRS, routes))
    out = objective(whole, state)
    out.loss.backward()
    preferred = [pair for pair, route in zip(PAIRS, routes, strict=True) if route == PREFERENCE]
    tokens = sum(pair.n_w for pair in preferred)
    order = [3, 5, 0, 4, 1, 2]
    shuffled = objective(whole.select(torch.tensor(order)), state)
    for field in ("losses_B", "token_losses_B", "gaps_B", "margins_B", "weights_B", "statistics_B"):
        a, b = getattr(shuffled, field), getattr(out, field)[order]
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0, equal_nan=True)
    for split in ([0, 1, 2], [3], [4, 5]), ([5], [1, 2], [4, 0, 3]):
        parts, part_leaves = with_grad(batch_of(PAIRS, routes))
        total = torch.zeros((), dtype=torch.float64)
        for index in split:
            part = objective(parts.select(torch.tensor(index)), state).per_pair(len(PAIRS), tokens).sum() / len(PAIRS)
            part.backward()
            total += part.detach()
        torch.testing.assert_close(total, out.loss.detach(), rtol=1e-12, atol=0)
        for a, b in zip(leaves, part_leaves, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-14)


def test_the_nll_of_cpo_is_a_mean_over_tokens_not_over_pairs() -> None:
    """10 nats over 5 tokens and 50 over 20: 60 / 25, where a mean of means would be 2.25."""
    out = run("cpo", batch_of([EASY, LONG]))
    assert float(out.loss - out.losses_B.mean()) == pytest.approx(60 / 25)


# --- ConfPO's tokens


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        ([-1.0], []),  # its own mean
        ([-2.0, -2.0], []),
        ([-0.1, -0.1], []),  # log(2 e^-0.1) - log 2 is rounded to above -0.1
        ([-0.01] * 9, []),
        ([-0.1, -3.0], [-3.0]),  # the mean probability is (0.905 + 0.050) / 2, its log -0.74
        ([-0.5, -0.8, -4.0], [-4.0]),  # (0.607 + 0.449 + 0.018) / 3 = 0.358, log -1.03
        ([-0.1, -1.0, -1.2], [-1.0, -1.2]),  # (0.905 + 0.368 + 0.301) / 3 = 0.525, log -0.645
    ],
)
def test_confpo_keeps_tokens_below_the_mean_probability(tokens: list[float], kept: list[float]) -> None:
    chosen = torch.tensor(tokens, dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-0.1, -3.0], dtype=torch.float64)
    batch = replace(batch_of([SHORT]), policy_chosen_token_logps=[chosen], policy_rejected_token_logps=[rejected])
    out = run("confpo", batch, beta=1.0)
    out.loss.backward()
    mean = sum(kept) / len(kept) if kept else 0.0
    assert float(out.gaps_B) == pytest.approx(mean + 3.0)
    assert chosen.grad is not None
    expected = [-float(out.weights_B) / len(kept) if value in kept else 0.0 for value in tokens]
    assert chosen.grad.tolist() == pytest.approx(expected)
    assert bool(out.losses_B.any()) == bool(kept)  # a pair with a side that keeps none is skipped
