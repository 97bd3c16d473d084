"""Rows that are other rows in a limit, and rows that TRL has too."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.objective import build
from tests.pipeline.objectives.pairs import (
    EASY,
    ELASTIC,
    FAR,
    MILD,
    PAIRS,
    STEPS,
    WRONG,
    Pair,
    batch_of,
    experienced,
    run,
    with_grad,
)

CERTAIN = [pair._replace(p=1.0) for pair in PAIRS]
COIN = [pair._replace(p=0.5) for pair in PAIRS]
TIED = [pair._replace(s_w=pair.s_l) for pair in PAIRS]
ONE_TOKEN = [pair._replace(n_w=1, n_l=1) for pair in PAIRS]
RANKED_RIGHT = [pair for pair in PAIRS if pair.lr_w >= pair.lr_l]
NO_REFERENCE = [pair._replace(lr_w=0.0, lr_l=0.0) for pair in PAIRS]

RISEN = [pair for pair in PAIRS if pair.lp_w >= pair.lr_w]
FAVOURED = [pair for pair in PAIRS if pair.s_w > pair.s_l]
SURE = [pair._replace(s_w=60.0, s_l=0.0) for pair in PAIRS]
ONE_APART = [pair._replace(s_w=1.0, s_l=0.0) for pair in PAIRS]
CERTAINLY_OURS = EASY._replace(lp_w=-0.1, lp_l=-0.2)  # likelier than what the policy would say by itself
EVEN = [pair._replace(lp_l=pair.lp_w - pair.lr_w + pair.lr_l) for pair in PAIRS]  # h is 0

SEEN = sum(len(gaps) for gaps, *_ in STEPS)

# A row with parameters is another row with parameters, on these pairs.
IDENTITIES: list[tuple[str, dict[str, Any], str, dict[str, Any], list[Pair]]] = [
    ("cdpo", {"label_smoothing": 0.0}, "dpo", {}, PAIRS),
    ("rdpo", {"label_smoothing": 0.0}, "dpo", {}, PAIRS),
    ("odpo", {"alpha": 0.0}, "dpo", {}, PAIRS),
    ("r-dpo", {"alpha": 0.0}, "dpo", {}, PAIRS),
    ("alpha-dpo", {"alpha": 0.0, "beta": 2.0, "gamma0": 1.0}, "simpo", {}, PAIRS),
    ("beta-dpo", {"a": 0.0, "keep": 1.0}, "dpo", {}, PAIRS),
    ("focalpo", {"focus": 0.0}, "dpo", {}, PAIRS),
    ("madpo", {"c_max": 1.0}, "dpo", {}, PAIRS),
    ("madpo", {"c_max": 1 + 1e-12}, "dpo", {}, PAIRS),
    ("madpo", {}, "dpo", {}, TIED),
    ("gdpo", {}, "dpo", {}, CERTAIN),
    ("cdpo-soft", {}, "dpo", {}, CERTAIN),
    ("cdpo-soft", {}, "cdpo", {"label_smoothing": 0.1}, [pair._replace(p=0.9) for pair in PAIRS]),
    ("da-dpo", {}, "dpo", {}, TIED),
    ("hypo", {}, "dpo", {}, RANKED_RIGHT),
    ("hypo", {}, "cpo", {"nll_weight": 0.0}, [WRONG]),
    ("selective-dpo", {"beta": 0.1}, "dpo", {}, PAIRS),
    ("rpo", {"nll_weight": 0.0}, "dpo", {}, PAIRS),
    ("cpo", {"nll_weight": 0.0}, "dpo", {}, NO_REFERENCE),
    ("cpo-simpo", {"nll_weight": 0.0}, "simpo", {}, PAIRS),
    ("slic", {"nll_weight": 0.0}, "hinge", {"beta": 1.0}, NO_REFERENCE),
    ("ipo-mean", {}, "ipo", {}, ONE_TOKEN),
    ("sigmoid-norm", {"beta": 0.1}, "dpo", {}, ONE_TOKEN),
    ("simpo", {"beta": 0.1, "gamma0": 0.0}, "cpo", {"nll_weight": 0.0}, ONE_TOKEN),
    ("gamma-dpo", {"gamma0": 0.0}, "dpo", {}, PAIRS),
    ("gamma-dpo", {"tau": 1e12}, "dpo", {}, PAIRS),
    ("gamma-simpo", {"tau": 1e12, "beta": 2.0, "gamma0": 1.0}, "simpo", {}, PAIRS),
    ("dpo", {"margin": "gamma", "tau": 0.3}, "gamma-dpo", {"tau": 0.3}, PAIRS),
    ("simpo", {"margin": "gamma", "tau": 0.3}, "gamma-simpo", {"tau": 0.3, "beta": 2.0, "gamma0": 1.0}, PAIRS),
    ("mixdpo", {"preference": "gamma-dpo", "tau": 0.3}, "mixdpo", {"margin": "gamma", "tau": 0.3}, PAIRS),
    ("gamma-dpo", {"gamma0": 0.0, "centred": False, "queue": "step"}, "dpo", {}, PAIRS),
    ("gamma-simpo", {"tau": 1e12, "beta": 2.0, "gamma0": 1.0, "queue": "step"}, "simpo", {}, PAIRS),
    ("gamma-dpo", {"tau": 0.3, "queue": SEEN}, "gamma-dpo", {"tau": 0.3}, PAIRS),
    ("gamma-dpo", {"tau": 0.3, "queue": len(STEPS[-1][0])}, "gamma-dpo", {"tau": 0.3, "queue": "step"}, PAIRS),
    ("cdpo", {"margin": "gamma", "label_smoothing": 0.0, "centred": False}, "gamma-dpo", {"centred": False}, PAIRS),
    ("wpo", {"beta": 0.1}, "dpo", {}, [FAR, CERTAINLY_OURS]),
    ("wpo", {"beta": 0.1, "label_smoothing": 0.1}, "cdpo", {}, [FAR]),
    ("dpop", {"guard": 0.0, "beta": 0.1}, "dpo", {}, PAIRS),
    ("dpop", {"beta": 0.1}, "dpo", {}, RISEN),
    ("fpo", {"alpha": 0.0, "beta": 5.0}, "sigmoid-norm", {}, PAIRS),
    ("bvpo", {}, "dpo", {}, PAIRS),  # of one stream
    ("alpha-po", {"alpha": 0.0}, "simpo", {}, PAIRS),
    ("alpha-po", {"alpha": 1e-13}, "simpo", {}, MILD),
    ("rainbow-po", {"reference_share": 1.0, "beta": 5.0}, "sigmoid-norm", {}, PAIRS),
    ("rainbow-po", {"reference_share": 0.0, "home_advantage": 0.3}, "simpo", {"beta": 10.0, "gamma0": 3.0}, PAIRS),
    ("rating-dpo", {"rating_beta": 1e15}, "dpo", {}, PAIRS),
    ("rating-dpo", {}, "dpo", {}, TIED),
    ("rating-dpo", {"rating_beta": 2.0}, "odpo", {"offset": "identity", "alpha": 0.05, "floor": 1e-9}, FAVOURED),
    ("mmpo", {}, "cdpo", {"label_smoothing": 0.0}, SURE),
    ("mmpo", {"steepness": math.log(9)}, "cdpo", {"label_smoothing": 0.1}, ONE_APART),
    ("cw-po", {}, "dpo", {}, SURE),
    ("rappo", {"drop": 0}, "dpo", {}, PAIRS),
    ("rappo", {"reference_ratio": 1e-200}, "dpo", {}, MILD),
    ("re-po", {"reliability": 1.0, "adaptation": 0.0}, "dpo", {}, PAIRS),
    ("re-po", {"adaptation": 0.0}, "cdpo", {"label_smoothing": 0.1}, EVEN),
    ("d2po", {"decay": 1.0, "beta": 0.3}, "bmc", {"delta": 0.0, "beta": 0.3}, PAIRS),
    *((name, {"margin": "gamma", "tau": 1e12}, name, {}, PAIRS) for name in ELASTIC),
]


@pytest.mark.parametrize(("name", "given", "other", "others", "pairs"), IDENTITIES, ids=lambda v: str(v)[:40])
def test_identity(name: str, given: dict[str, Any], other: str, others: dict[str, Any], pairs: list[Pair]) -> None:
    """In value and in gradient."""
    (batch, leaves), (same, their_leaves) = (with_grad(batch_of(pairs)) for _ in range(2))
    out, expected = run(name, batch, **given), run(other, same, **others)
    for field in ("losses_B", "token_losses_B", "weights_B"):
        torch.testing.assert_close(getattr(out, field), getattr(expected, field), rtol=1e-9, atol=1e-9)
    out.loss.backward()
    expected.loss.backward()
    for leaf, theirs in zip(leaves, their_leaves, strict=True):
        torch.testing.assert_close(leaf.grad, theirs.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "given", [{"tau": 0.3}, {"tau": 0.0}, {"tau": 2.0, "queue": "step"}, {"solver": "paper"}], ids=str
)
@pytest.mark.parametrize("name", ["gamma-dpo", "r-dpo"])
def test_centred_or_not_is_the_base_margin(name: str, given: dict[str, Any]) -> None:
    """Every margin is larger by gamma0, and what is said of how far it was moved is the same."""
    margin = {"margin": "gamma", "gamma0": 1.7, **given}
    centred, whole = (run(name, **margin, centred=centred) for centred in (True, False))
    torch.testing.assert_close(
        whole.margins_B - centred.margins_B, torch.full((6,), 1.7, dtype=torch.float64), rtol=0, atol=1e-13
    )
    assert torch.equal(whole.shifts_B, centred.shifts_B) and torch.equal(whole.gaps_B, centred.gaps_B)
    assert torch.equal(centred.losses_B, run(name, **margin).losses_B)


@pytest.mark.parametrize("tau", [0.0, 0.3, 10.0])
@pytest.mark.parametrize("name", ["gamma-dpo", "gamma-simpo"])
def test_a_step_of_like_gaps_has_the_base_margin(name: str, tau: float) -> None:
    """Whatever came before, where margins are solved over the step's own gaps; and of any they average to it."""
    objective = build(name, tau=tau, gamma0=1.7, queue="step")
    for pairs in ([EASY] * 3, PAIRS):
        state = experienced(objective)
        batch = batch_of(pairs)
        state.foresee(objective.gaps(batch, state))
        out = objective(batch, state)
        assert out.shifts_B.tolist() == pytest.approx([0.0] * 3, abs=1e-9) or pairs is PAIRS
        assert float(out.shifts_B.mean()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["gdpo", "cdpo-soft"])
def test_a_coins_label_teaches_nothing(name: str) -> None:
    """p = 1/2: GDPO's gradient is zero, soft cDPO's draws every gap to zero."""
    batch, (chosen, *_) = with_grad(batch_of(COIN))
    out = run(name, batch)
    out.loss.backward()
    assert chosen.grad is not None
    if name == "gdpo":
        assert not chosen.grad.any()
    else:
        torch.testing.assert_close(out.weights_B, -0.5 * torch.tanh(out.gaps_B / 2))


def test_uni_dpo_without_its_weights_is_half_of_sigmoid_norm() -> None:
    """eta = 0 makes the quality 1/2, fit_power = 0 the fit 1."""
    out = run("uni-dpo", eta=0.0, fit_power=0.0, nll_weight=0.0, beta=5.0)
    torch.testing.assert_close(2 * out.losses_B, run("sigmoid-norm").losses_B)


def test_rounding_does_not_decide_whether_uni_dpo_guards() -> None:
    """Before the first update the policy is its reference but for rounding, either way."""
    ways = [[pair._replace(lp_w=pair.lr_w + rounding, s_w=5.0) for pair in MILD] for rounding in (-1e-4, 0.0, 1e-4)]
    losses = [run("uni-dpo", batch_of(way), nll_weight=10.0).losses_B for way in ways]
    for loss in losses:
        torch.testing.assert_close(loss, losses[1], atol=2e-3, rtol=0)
    fallen = [pair._replace(lp_w=pair.lr_w - 1.0, s_w=5.0) for pair in MILD]
    assert (run("uni-dpo", batch_of(fallen), nll_weight=10.0).losses_B > losses[1] + 0.1).all()


@pytest.mark.parametrize(
    ("name", "given", "weight", "beta"),
    [
        ("tis-dpo", {"beta": 0.3}, 1.0, 0.3),
        ("tis-dpo", {"beta": 0.3}, 1.7, 0.51),  # a weight of all tokens is one of beta
        ("d2po", {"beta": 0.3, "decay": 1.0}, 0.0, 0.3),
        ("bmc", {"beta": 0.3, "delta": 0.0}, 1.0, 0.3),
        ("bmc", {"beta": 0.3, "delta": 0.5}, 0.0, 0.3),  # equal completions: no token is changed
        ("bmc", {"beta": 0.3, "delta": 0.5}, 1.0, 0.45),  # 1 / pi is above it
    ],
)
def test_dpo_where_all_tokens_weigh_alike(name: str, given: dict[str, Any], weight: float, beta: float) -> None:
    """In value, and in the gradient of every token, the last one of which ends the turn."""
    batch, leaves = with_grad(batch_of(PAIRS))
    for side in ("chosen", "rejected"):
        weights = getattr(batch, f"{side}_token_weights")
        setattr(batch, f"{side}_token_weights", [torch.full_like(each, weight) for each in weights])
    out, dpo = run(name, batch, **given), run("dpo", beta=beta)
    torch.testing.assert_close(out.losses_B, dpo.losses_B, rtol=1e-10, atol=1e-10)
    out.losses_B.sum().backward()
    chosen, rejected = leaves[2 : 2 + len(PAIRS)], leaves[2 + len(PAIRS) :]
    for i, (w, r) in enumerate(zip(chosen, rejected, strict=True)):
        slope = -beta * float(dpo.weights_B[i])
        assert w.grad is not None and r.grad is not None
        assert w.grad.tolist() == pytest.approx([slope] * len(w), rel=1e-9, abs=1e-15)
        assert r.grad.tolist() == pytest.approx([-slope] * len(r), rel=1e-9, abs=1e-15)


def test_the_weights_of_bmc_are_bounded_and_constants_to_the_gradient() -> None:
    batch, leaves = with_grad(batch_of([EASY]))
    out = run("bmc", batch, beta=1.0, delta=5.0)
    out.losses_B.sum().backward()
    chosen, changed = leaves[2], batch.chosen_token_weights
    assert chosen.grad is not None and changed is not None
    weights = chosen.grad / -out.weights_B
    expected = 1 + changed[0] * (-chosen.detach()).exp().clamp(max=5)
    torch.testing.assert_close(weights, expected)
    assert 1.0 == weights.min() < weights.max() <= 6.0


def test_kto_without_its_kl_is_apo_zero() -> None:
    batch = batch_of(PAIRS)
    batch.step_kl = torch.zeros(len(PAIRS)).double()
    one, other = run("kto", batch), run("apo-zero")
    for field in ("losses_B", "gaps_B", "weights_B"):
        torch.testing.assert_close(getattr(one, field), getattr(other, field), rtol=1e-14, atol=0)
    batch.step_kl += 1000  # a policy that is far from the reference: nothing is chosen enough to teach
    far, (chosen, *_) = with_grad(batch)
    run("kto", far).losses_B.sum().backward()
    assert chosen.grad is not None and not chosen.grad[:4].abs().gt(1e-30).any()


def test_sppo_of_a_certain_label_is_half_of_trls() -> None:
    torch.testing.assert_close(2 * run("sppo", batch_of(CERTAIN)).losses_B, run("sppo-hard").losses_B)


def test_cal_dpo_at_its_targets_is_the_logistic_loss_of_their_distance() -> None:
    at = [pair._replace(lp_w=pair.lr_w + 500.0, lp_l=pair.lr_l - 500.0) for pair in MILD]
    assert run("cal-dpo", batch_of(at)).losses_B.tolist() == pytest.approx([math.exp(-1000.0)] * 4)
    at = [pair._replace(lp_w=pair.lr_w + 2.0, lp_l=pair.lr_l - 2.0) for pair in MILD]
    assert run("cal-dpo", batch_of(at), beta=0.25).losses_B.tolist() == pytest.approx([math.log1p(math.exp(-4.0))] * 4)


@pytest.mark.parametrize("logps", [[0.0, 0.0], [-math.log(97)] * 2], ids=["certain", "uniform"])
def test_wpo_weighs_nothing_less_where_the_policy_is_certain_or_knows_nothing(logps: list[float]) -> None:
    """log sum p^2 is 0 of one token for certain, and -log V of V alike: log p of the token, and so a is 0."""
    pair = EASY._replace(lp_w=logps[0] * EASY.n_w, lp_l=logps[1] * EASY.n_l)
    batch = batch_of([pair])
    batch.policy_chosen_square_logps, batch.policy_rejected_square_logps = (
        batch.policy_chosen_logps,
        batch.policy_rejected_logps,
    )
    out = run("wpo", batch, beta=0.1)
    torch.testing.assert_close(out.losses_B, run("dpo", batch).losses_B)


def test_wpo_weighs_at_most_one() -> None:
    weights_B = run("wpo").losses_B / run("dpo", beta=0.01).losses_B
    assert 0 < float(weights_B.min()) < 1 == float(weights_B.max())


@pytest.mark.parametrize(("given", "pairs"), [({}, [EASY] * 3), ({"beta_prime": 1e12}, PAIRS)], ids=["equal", "far"])
def test_dr_dpo_of_equal_losses_or_a_far_beta_prime_is_dpo(given: dict[str, Any], pairs: list[Pair]) -> None:
    objective = build("dr-dpo", **given)
    state = objective.initial_state()
    for _ in range(3):
        out = objective(batch_of(pairs), state)
        torch.testing.assert_close(out.losses_B, run("dpo", batch_of(pairs)).losses_B, rtol=1e-9, atol=1e-9)
        state.observe(out.gaps_B, out.statistics_B)


def test_dr_dpos_gradient_is_that_of_the_published_loss_where_the_level_is_the_batchs_own() -> None:
    """-beta' log mean exp(-loss / beta'), after a step of the same pairs and without memory of others."""
    batch, (chosen, rejected, *_) = with_grad(batch_of(PAIRS))
    objective = build("dr-dpo", beta_prime=0.7, momentum=0.0)
    state = objective.initial_state()
    first = objective(batch, state)
    state.observe(first.gaps_B, first.statistics_B)
    ours = torch.autograd.grad(objective(batch, state).loss, (chosen, rejected))
    losses = run("dpo", batch).losses_B
    published = -0.7 * (torch.logsumexp(-losses / 0.7, 0) - math.log(len(losses)))
    for mine, theirs in zip(ours, torch.autograd.grad(published, (chosen, rejected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_re_po_without_an_opinion_of_the_gap_trusts_a_label_as_its_source() -> None:
    objective = build("re-po", reliability=0.7, adaptation=0.0)
    assert objective(batch_of(EVEN), experienced(objective)).statistics_B.tolist() == pytest.approx([0.7] * len(EVEN))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.49])
def test_robust_dpo_is_unbiased_under_flips(rate: float) -> None:
    """The mean of rDPO's loss over flips at its own rate is the loss of DPO on the clean label."""
    flipped = [Pair(x.lp_l, x.lp_w, x.lr_l, x.lr_w, x.n_l, x.n_w, x.s_w, x.s_l, x.p) for x in PAIRS]
    kept, swapped = (run("rdpo", batch_of(pairs), label_smoothing=rate).losses_B for pairs in (PAIRS, flipped))
    torch.testing.assert_close((1 - rate) * kept + rate * swapped, run("dpo").losses_B)


# --- TRL (DPOTrainer at f2cd577; CPOTrainer and ORPOTrainer of trl.experimental), in its notation

BETA = 0.2


def trl(batch: PairBatch) -> dict[str, torch.Tensor]:
    """Losses of pairs: `chosen` and `rejected` are log-ratios, `mean_w` and `mean_l` mean log-probs."""
    assert batch.reference_chosen_logps is not None and batch.reference_rejected_logps is not None
    chosen = batch.policy_chosen_logps - batch.reference_chosen_logps
    rejected = batch.policy_rejected_logps - batch.reference_rejected_logps
    delta, smoothing, gamma = chosen - rejected, 0.15, 0.5
    mean_delta = chosen / batch.chosen_tokens - rejected / batch.rejected_tokens
    mean_w = batch.policy_chosen_logps / batch.chosen_tokens
    mean_l = batch.policy_rejected_logps / batch.rejected_tokens
    sums = batch.policy_chosen_logps - batch.policy_rejected_logps
    odds = (mean_w - mean_l) - (torch.log1p(-torch.exp(mean_w)) - torch.log1p(-torch.exp(mean_l)))
    squares_w, squares_l = batch.policy_chosen_square_logps, batch.policy_rejected_square_logps
    assert squares_w is not None and squares_l is not None
    likely = torch.exp(mean_w - squares_w / batch.chosen_tokens + mean_l - squares_l / batch.rejected_tokens)
    bent_w, bent_l = ((1 - torch.exp(mean) ** -0.3) / 0.3 for mean in (mean_w, mean_l))
    clean, noisy = F.logsigmoid(BETA * delta) * (1 - smoothing), F.logsigmoid(-BETA * delta) * smoothing
    return {
        "sigmoid": -F.logsigmoid(BETA * delta),
        "hinge": torch.relu(1 - BETA * delta),
        "ipo": (mean_delta - 1 / (2 * BETA)) ** 2,
        "smoothed": -clean - noisy,
        "robust": (-clean + noisy) / (1 - 2 * smoothing),
        "sigmoid_norm": -F.logsigmoid(BETA * mean_delta),
        "cpo": -F.logsigmoid(BETA * sums),
        "simpo": -F.logsigmoid(BETA * ((mean_w - mean_l) - gamma / BETA)),
        "orpo": -BETA * F.logsigmoid(odds),
        "alpha-po": -F.logsigmoid(BETA * (bent_w - bent_l) - gamma),
        "wpo": -F.logsigmoid(BETA * delta) * likely,  # which is not clamped there
        "nca_pair": -F.logsigmoid(BETA * chosen)
        - 0.5 * F.logsigmoid(-BETA * chosen)
        - 0.5 * F.logsigmoid(-BETA * rejected),
        "bco_pair": -F.logsigmoid(BETA * chosen) - F.logsigmoid(-BETA * rejected),
        "sppo_hard": (chosen - 0.5 / BETA) ** 2 + (rejected + 0.5 / BETA) ** 2,
        "apo_zero": 1 - F.sigmoid(BETA * chosen) + F.sigmoid(BETA * rejected),
        "apo_down": F.sigmoid(BETA * chosen) + 1 - F.sigmoid(BETA * delta),
        "kto": 1 - F.sigmoid(BETA * (chosen - 0.4)) + 1 - F.sigmoid(BETA * (0.4 - rejected)),
    }


def random_batch() -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    counts = [torch.randint(2, 60, (200,), generator=generator) for _ in range(2)]
    logps = [-torch.rand(200, generator=generator).double() * count * 3 for count in counts for _ in range(2)]
    return PairBatch(
        policy_chosen_logps=logps[0],
        reference_chosen_logps=logps[1],
        policy_rejected_logps=logps[2],
        reference_rejected_logps=logps[3],
        chosen_tokens=counts[0],
        rejected_tokens=counts[1],
        policy_chosen_square_logps=logps[0] / 2,  # so that no weight of WPO's reaches its bound
        policy_rejected_square_logps=logps[2] / 2,
        step_kl=torch.full((200,), 0.4).double(),
    )


@pytest.mark.parametrize(
    ("method", "name", "given"),
    [
        ("sigmoid", "dpo", {"beta": BETA}),
        ("hinge", "hinge", {"beta": BETA}),
        ("ipo", "ipo-mean", {"beta": BETA}),
        ("smoothed", "cdpo", {"beta": BETA, "label_smoothing": 0.15}),
        ("robust", "rdpo", {"beta": BETA, "label_smoothing": 0.15}),
        ("sigmoid_norm", "sigmoid-norm", {"beta": BETA}),
        ("cpo", "cpo", {"beta": BETA}),
        ("simpo", "simpo", {"beta": BETA, "gamma0": 0.5}),
        ("simpo", "cpo-simpo", {"beta": BETA, "gamma0": 0.5}),
        ("orpo", "orpo", {"odds_weight": BETA, "nll_weight": 0.0}),
        ("alpha-po", "alpha-po", {"beta": BETA, "gamma0": 0.5, "alpha": 0.3}),
        ("wpo", "wpo", {"beta": BETA}),
        ("nca_pair", "nca", {"beta": BETA}),
        ("bco_pair", "bco", {"beta": BETA}),  # whose running mean TRL's loss of pairs has not got
        ("sppo_hard", "sppo-hard", {"beta": BETA}),
        ("apo_zero", "apo-zero", {"beta": BETA}),
        ("apo_down", "apo-down", {"beta": BETA}),
        ("kto", "kto", {"beta": BETA}),
    ],
)
def test_agrees_with_trl(method: str, name: str, given: dict[str, Any]) -> None:
    batch, objective = random_batch(), build(name, **given)
    out = objective(batch, objective.initial_state())
    torch.testing.assert_close(out.losses_B, trl(batch)[method], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "name", "given"),
    [
        ("sigmoid", "dpo", {}),
        ("hinge", "hinge", {}),
        ("robust", "rdpo", {"label_smoothing": 0.15}),
        ("nca_pair", "nca", {}),
        ("bco_pair", "bco", {}),
        ("sppo_hard", "sppo-hard", {}),
        ("apo_zero", "apo-zero", {}),
        ("apo_down", "apo-down", {}),
    ],
)
def test_agrees_with_liger(method: str, name: str, given: dict[str, Any]) -> None:
    """The losses that TRL takes of Liger-Kernel, by the installed code: their mean."""
    batch, objective = random_batch(), build(name, beta=BETA, **given)
    loss = LigerFusedLinearDPOFunction.preference_loss_fn(
        batch.policy_chosen_logps,
        batch.policy_rejected_logps,
        torch.zeros(2 * len(batch.chosen_tokens)),
        batch.reference_chosen_logps,
        batch.reference_rejected_logps,
        beta=BETA,
        loss_type=method,
        **given,
    )[0]
    torch.testing.assert_close(objective(batch, objective.initial_state()).loss, loss, rtol=1e-6, atol=1e-6)


def test_kto_agrees_with_ligers() -> None:
    """By the installed code, which takes both sides as examples of their own."""
    batch, objective = random_batch(), build("kto", beta=BETA)
    assert batch.reference_chosen_logps is not None and batch.reference_rejected_logps is not None
    labels = torch.cat((torch.ones(200), torch.zeros(200))).bool()
    loss, *_ = LigerFusedLinearKTOFunction.preference_loss_fn(
        torch.cat((batch.policy_chosen_logps, batch.policy_rejected_logps)),
        labels,
        torch.zeros(200),
        torch.cat((batch.reference_chosen_logps, batch.reference_rejected_logps)),
        beta=BETA,
        kl=torch.tensor(0.4).double(),
    )
    torch.testing.assert_close(objective(batch, objective.initial_state()).loss, loss, rtol=1e-6, atol=1e-6)
