"""Rows that are other rows in a limit, and rows that TRL has too."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import PRESETS
from tests.pipeline.objectives.pairs import PAIRS, WRONG, Pair, batch_of, run, with_grad

CERTAIN = [pair._replace(p=1.0) for pair in PAIRS]
COIN = [pair._replace(p=0.5) for pair in PAIRS]
TIED = [pair._replace(s_w=pair.s_l) for pair in PAIRS]
ONE_TOKEN = [pair._replace(n_w=1, n_l=1) for pair in PAIRS]
RANKED_RIGHT = [pair for pair in PAIRS if pair.lr_w >= pair.lr_l]
NO_REFERENCE = [pair._replace(lr_w=0.0, lr_l=0.0) for pair in PAIRS]

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
    *((name, {"margin": "gamma", "tau": 1e12}, name, {}, PAIRS) for name, row in PRESETS.items() if not row.gamma),
]


@pytest.mark.parametrize(("name", "given", "other", "others", "pairs"), IDENTITIES, ids=lambda v: str(v)[:40])
def test_identity(name: str, given: dict[str, Any], other: str, others: dict[str, Any], pairs: list[Pair]) -> None:
    out, expected = run(name, batch_of(pairs), **given), run(other, batch_of(pairs), **others)
    for field in ("losses_B", "token_losses_B", "weights_B"):
        torch.testing.assert_close(getattr(out, field), getattr(expected, field), rtol=1e-9, atol=1e-9)


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
    clean, noisy = F.logsigmoid(BETA * delta) * (1 - smoothing), F.logsigmoid(-BETA * delta) * smoothing
    return {
        "sigmoid": -F.logsigmoid(BETA * delta),
        "hinge": torch.relu(1 - BETA * delta),
        "ipo": (mean_delta - 1 / (2 * BETA)) ** 2,
        "robust": (-clean + noisy) / (1 - 2 * smoothing),
        "sigmoid_norm": -F.logsigmoid(BETA * mean_delta),
        "cpo": -F.logsigmoid(BETA * sums),
        "simpo": -F.logsigmoid(BETA * ((mean_w - mean_l) - gamma / BETA)),
        "orpo": -BETA * F.logsigmoid(odds),
    }


@pytest.mark.parametrize(
    ("method", "name", "given"),
    [
        ("sigmoid", "dpo", {"beta": BETA}),
        ("hinge", "hinge", {"beta": BETA}),
        ("ipo", "ipo-mean", {"beta": BETA}),
        ("robust", "rdpo", {"beta": BETA, "label_smoothing": 0.15}),
        ("sigmoid_norm", "sigmoid-norm", {"beta": BETA}),
        ("cpo", "cpo", {"beta": BETA}),
        ("simpo", "simpo", {"beta": BETA, "gamma0": 0.5}),
        ("simpo", "cpo-simpo", {"beta": BETA, "gamma0": 0.5}),
        ("orpo", "orpo", {"odds_weight": BETA, "nll_weight": 0.0}),
    ],
)
def test_agrees_with_trl(method: str, name: str, given: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [torch.randint(2, 60, (200,), generator=generator) for _ in range(2)]
    logps = [-torch.rand(200, generator=generator).double() * count * 3 for count in counts for _ in range(2)]
    batch = PairBatch(
        policy_chosen_logps=logps[0],
        reference_chosen_logps=logps[1],
        policy_rejected_logps=logps[2],
        reference_rejected_logps=logps[3],
        chosen_tokens=counts[0],
        rejected_tokens=counts[1],
    )
    torch.testing.assert_close(run(name, batch, **given).losses_B, trl(batch)[method], rtol=1e-6, atol=1e-6)
