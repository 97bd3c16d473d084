"""Every row of the table against its restatement and numbers worked by hand; what it needs; what it refuses."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.objectives.batch import SFT, PairBatch
from pipeline.objectives.objective import build
from pipeline.objectives.presets import PRESETS
from tests.pipeline.objectives.pairs import EASY, INNER, MILD, PAIRS, WRONG, Pair, batch_of, experienced, run
from tests.pipeline.objectives.restated import CASES, Steps

SETTINGS = [(name, given) for name, (_, _, others) in CASES.items() for given in ({}, *others)]


def test_every_row_is_restated_and_has_these_defaults() -> None:
    assert set(CASES) == set(PRESETS)
    for name, (_, defaults, _) in CASES.items():
        assert build(name).parameters == defaults


@pytest.mark.parametrize(("name", "given"), SETTINGS, ids=str)
def test_equals_its_restatement(name: str, given: dict[str, Any]) -> None:
    """Losses, gaps and margins on easy and extreme pairs; and the weight is minus the slope of the loss in the gap.

    The slope by central differences of the restated loss, Uni-DPO's with its weight held, as documented.
    """
    restated, defaults, _ = CASES[name]
    out, parameters = run(name, **given), SimpleNamespace(**{**defaults, **given})
    for i, pair in enumerate(PAIRS):
        said = restated(pair, parameters)
        near: dict[str, Any] = {"rel": 1e-10, "abs": 1e-10}
        assert float(out.gaps_B[i]) == pytest.approx(said.gap, **near)
        assert float(out.margins_B[i]) == pytest.approx(said.margin, **near)
        assert float(out.losses_B[i]) == pytest.approx(said.loss_at(said.gap), **near)
        assert float(out.token_losses_B[i]) == pytest.approx(said.token_nll, **near)
        step = 1e-5
        slope = (said.loss_at(said.gap + step) - said.loss_at(said.gap - step)) / (2 * step)
        assert float(out.weights_B[i]) == pytest.approx(-slope, rel=1e-6, abs=1e-6)


# EASY has h = (-10 + 11) - (-12 + 11.5) = 1.5, mean h = 1/5 + 0.5/4 = 0.325 and d = -10/5 + 12/4 = 1.
# Row, parameters, pair, statistics or gaps seen, loss, NLL a token.
BY_HAND: list[tuple[str, dict[str, Any], Pair, Steps, float, float]] = [
    ("dpo", {}, EASY, [], 0.620957048, 0),  # ln(1 + e^-0.15)
    ("cdpo", {}, EASY, [], 0.635957048, 0),  # l(z) + e z = 0.620957048 + 0.1 * 0.15
    ("rdpo", {}, EASY, [], 0.602207048, 0),  # l(z) - e z / (1 - 2e) = 0.620957048 - 0.015 / 0.8
    ("ipo", {}, EASY, [], 12.25, 0),  # (1.5 - 5)^2
    ("ipo-mean", {}, EASY, [], 21.855625, 0),  # (0.325 - 5)^2
    ("hinge", {}, EASY, [], 0.85, 0),  # 1 - 0.15
    ("slic", {"gamma0": 3.0}, EASY, [], 2.0, 0),  # (3 + 10 - 12) + 0.1 * 10
    ("simpo", {}, EASY, [], 0.313261688, 0),  # 2 * 1 - 1: ln(1 + e^-1)
    ("cpo", {}, EASY, [], 0.598138869, 10),  # 0.1 * 2: ln(1 + e^-0.2), and the NLL of the chosen side
    ("cpo-simpo", {"nll_weight": 0.5}, EASY, [], 0.313261688, 5),
    # logit e^-2 = -2 + 0.145413458, logit e^-3 = -3 + 0.051069180: 2 + 0.1 ln(1 + e^-1.094344278)
    ("orpo", {}, EASY, [], 2.028875078, 0),
    ("odpo", {}, EASY, [], 1.275955901, 0),  # ln(1 + e^(ln 3 - 0.15)) = ln(1 + 3 * 0.860707976)
    ("odpo", {"offset": "identity", "alpha": 0.05}, EASY, [], math.log(2), 0),  # 0.15 - 0.05 * 3 = 0
    ("r-dpo", {"alpha": 0.15}, EASY, [], math.log1p(math.exp(-0.3)), 0),  # one token longer: 0.15 + 0.15
    ("rpo", {}, EASY, [], 2.620957048, 0),  # and 10 / 5
    ("sigmoid-norm", {}, EASY, [], 0.179744635, 0),  # 5 * 0.325 = 1.625
    # Means 2 and 4, weights 1/3 and 2/3: running mean 10/3; beta = 0.1 (1 + 0.6 * 2/3) = 0.14, times 1.5.
    ("beta-dpo", {"momentum": 0.5, "keep": 1.0}, EASY, [[1.0, 3.0], [4.0, 4.0]], 0.593649581, 0),
    ("alpha-dpo", {}, EASY, [[0.0, 2.0]], 0.000642386, 0),  # z = 0.325 - 1; 10 - (4 + 10 * 0.2 z) = 7.35
    ("amapo", {}, EASY, [[1.0, 3.0]], 19.167168302, 0),  # mean 2, spread 1: 3 e^2 - 3, and e^-19.2
    ("amapo", {}, EASY, [[-1.0, 1.0]], 0.048587352, 0),  # above the mean, no margin: ln(1 + e^-3)
    # c = 0.5 + 1.5 / (1 + 2 / 4) = 1.5: sigmoid(4.5) / sigmoid(3) = 1.038253143 times DPO's
    ("madpo", {"threshold": 3 + math.log(4)}, EASY, [], 0.644710591, 0),
    ("madpo", {}, WRONG, [], math.log1p(math.e**0.3) * 1.0, 0),  # a tie has weight 1; h = -2 - 1 = -3
    ("gdpo", {}, EASY, [], 0.634946102, 0),  # 0.1 * 0.8 * 1.5 = 0.12
    ("cdpo-soft", {}, EASY, [], 0.635957048, 0),  # p 0.9 is a smoothing of 0.1
    ("da-dpo", {}, EASY, [], 0.437487950, 0),  # 0.15 * (1 + 3) = 0.6
    ("uni-dpo", {}, EASY, [], 0.007279643, 0),  # sigmoid(2.1) sigmoid(1 - 2)^3 ln(1 + e^-0.65); lp_w rose: no NLL
    ("focalpo", {"focus": 1.0}, EASY, [], 0.333720850, 0),  # sigmoid(0.15) = 0.537429845 times DPO's
    ("hypo", {}, WRONG, [], 1.313261688, 0),  # the reference's -7 does not count: 0.1 * -10
    # Kept of w: -2, -2.67, -3.33 (threshold -1.59), of l: -2.4, -3.6, -4.8 (threshold -2.24): 1.5 * 0.9333 - 1.6 = -0.2
    ("confpo", {}, EASY, [], 0.798138869, 0),
    # z = 0.1 * 0.7: 1 - sigmoid(0.1 - 0.07) + 1 - sigmoid(0.07 + 0.05)
    ("kto", {}, EASY, [], 0.962536438, 0),
    # Log-ratios of w's tokens 3, 1.6, 0.2, -1.2, -2.6, of l's 3.4, 1.05, -1.3, -3.65; weights 0, 1, 1/2, 0, 1 and the
    # like: -0.9 - 0.4. BMC adds 1.5 times that to h, as no token is as likely as 1 / 1.5.
    ("tis-dpo", {"beta": 1.0}, EASY, [], 1.541008454, 0),
    ("bmc", {"beta": 1.0}, EASY, [], math.log1p(math.exp(0.45)), 0),
    ("d2po", {"beta": 1.0, "decay": 0.5}, EASY, [], math.log1p(math.exp(3.14375 - 3.5375)), 0),
    ("selective-dpo", {}, EASY, [], 0.685675305, 0),  # 0.015
    # Water-filling, gaps 3, 1, -5: level -0.5. The gap is 3, gamma_i 2.5: 3 - (2.5 - 1) and 3 - 2.5.
    ("gamma-dpo", {"beta": 2.0, "tau": 0.0}, EASY, [[3.0, 1.0, -5.0]], 0.201413278, 0),
    ("gamma-simpo", {"beta": 3.0, "gamma0": 1.0, "tau": 0.0}, EASY, [[3.0, 1.0, -5.0]], 0.474076984, 0),
]


@pytest.mark.parametrize(("name", "given", "pair", "seen", "loss", "token_loss"), BY_HAND)
def test_by_hand(name: str, given: dict[str, Any], pair: Pair, seen: Steps, loss: float, token_loss: float) -> None:
    objective = build(name, **given)
    state = objective.initial_state()
    for values in seen:
        state.observe(torch.tensor(values), torch.tensor(values))
    out = objective(batch_of([pair]), state)
    assert float(out.losses_B) == pytest.approx(loss, rel=1e-6)
    assert float(out.token_losses_B) == pytest.approx(token_loss)


def test_sft_by_hand() -> None:
    """10 nats over 5 tokens, weighed by a half; no gap, no margin, no weight."""
    out = run("mixdpo", batch_of([EASY], [SFT]), sft_weight=0.5)
    assert float(out.losses_B) == pytest.approx(1.0)
    assert all(math.isnan(float(each)) for each in (out.gaps_B, out.margins_B, out.weights_B, out.statistics_B))


def test_orpo_of_a_certain_completion_is_finite() -> None:
    """P = 1 has infinite odds; they stop at 1e-10 below."""
    out = run("orpo", batch_of([EASY._replace(lp_w=0.0)]))
    assert 0 < float(out.gaps_B) == pytest.approx(-math.log(1e-10) + 2.948930820, rel=1e-5)


# --- what a row needs

COLUMNS = {
    "scores": ("chosen_scores", "rejected_scores"),
    "label_confidence": ("label_confidence",),
    "sources": ("sources",),
    "token_logps": ("policy_chosen_token_logps", "policy_rejected_token_logps"),
    "square_logps": ("policy_chosen_square_logps", "policy_rejected_square_logps"),
    "mismatched": ("step_kl",),
    "reference": ("reference_chosen_token_logps", "reference_rejected_token_logps"),
    "contrast": ("chosen_token_weights", "rejected_token_weights"),
    "changed": ("chosen_token_weights", "rejected_token_weights"),
    "features": (
        "policy_chosen_features",
        "policy_rejected_features",
        "reference_chosen_features",
        "reference_rejected_features",
    ),
}


def without(*names: str) -> PairBatch:
    absent: dict[str, Any] = dict.fromkeys(names)
    return replace(batch_of(MILD), **absent)


@pytest.mark.parametrize("name", PRESETS)
def test_needs_are_exactly_what_is_read(name: str) -> None:
    row = PRESETS[name]
    needed = {column for need in (*row.needs, *row.token_columns) for column in COLUMNS[need]}
    others = {column for columns in COLUMNS.values() for column in columns} - needed
    assert bool(run(name, without(*others)).losses_B.isfinite().all())
    for column in needed:
        with pytest.raises(ValueError, match=f"needs {column}"):
            run(name, without(column))


@pytest.mark.parametrize("name", PRESETS)
def test_a_loss_of_what_is_no_number_is_none(name: str) -> None:
    """An unknown score is NaN in a batch: no weight or margin turns it to a number, before any step or after some."""
    row, objective, nan = PRESETS[name], build(name), float("nan")
    columns = [column for need in (*row.needs, *row.token_columns) for column in COLUMNS[need] if column != "sources"]
    for column in ("policy_chosen_logps", *columns) if "token_logps" not in row.needs else columns:
        batch = batch_of([EASY, WRONG])
        given = getattr(batch, column)
        given[1] = torch.full_like(given[1], nan)
        for state in (objective.initial_state(), experienced(objective)):
            assert objective(batch, state).losses_B.isnan().tolist() == [False, True]


@pytest.mark.parametrize("name", ["dpo", "ipo-mean", "hypo", "uni-dpo", "alpha-dpo", "gamma-dpo"])
def test_a_missing_reference_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="needs reference_chosen_logps"):
        run(name, without("reference_chosen_logps"))


@pytest.mark.parametrize("name", ["simpo", "cpo", "cpo-simpo", "orpo", "slic", "amapo", "confpo", "gamma-simpo"])
def test_reference_free_rows_read_no_reference(name: str) -> None:
    run(name, without("reference_chosen_logps", "reference_rejected_logps"))


@pytest.mark.parametrize("name", INNER)
def test_mixdpo_needs_what_its_preference_side_needs(name: str) -> None:
    assert build("mixdpo", preference=name).preset.needs == PRESETS[name].needs
