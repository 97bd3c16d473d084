"""What a step says of its objective, by hand, and the effective noise rate against robust DPO's own loss."""

import math

import pytest
import torch

from pipeline.objectives.diagnostics import diagnose, effective_noise_rate
from tests.pipeline.objectives.pairs import PAIRS, batch_of, run


def rate(shift: float, gap: float) -> float:
    return float(
        effective_noise_rate(torch.tensor([shift], dtype=torch.float64), torch.tensor([gap], dtype=torch.float64))
    )


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize(
    ("shift", "gap", "expected"),
    [
        (-0.1, math.log(3), 0.0217654),  # y = 0.1 / (1.098612 * 4) = 0.0227560; y / (1 + 2y)
        (-0.2, 2.0, 0.0116427),  # y = 0.2 / (2 (1 + e^2)) = 0.1 / 8.389056 = 0.0119203; over 1.0238406
        (0.1, -1.0, 0.0637804),  # y = 0.1 / (1 + e^-1) = 0.0731059; over 1.1462118
        (0.0, 1.0, 0.0),
        (0.2, -1.0, 0.1131299),  # exactly on |shift| = 0.2 |gap|: y = 0.1462117, over 1.2924234
    ],
)
def test_noise_rate_by_hand(shift: float, gap: float, expected: float) -> None:
    assert rate(shift, gap) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("shift", "gap"),
    [
        (-0.21, 1.0),  # too large for the first order
        (0.21, -1.0),
        (0.1, 1.0),  # a raised margin of a pair ranked right: a negative rate
        (-0.1, -1.0),
        (-0.1, 0.0),
        (0.0, 0.0),
        (math.nan, 1.0),
    ],
)
def test_noise_rate_is_null(shift: float, gap: float) -> None:
    assert math.isnan(rate(shift, gap))


def test_noise_rate_lies_in_its_range_wherever_it_is_given() -> None:
    grid = torch.linspace(-12, 12, 121, dtype=torch.float64)
    shift, gap = torch.meshgrid(grid / 6, grid, indexing="ij")
    rates = effective_noise_rate(shift.flatten(), gap.flatten())
    given = ~rates.isnan()
    assert 0.05 < float(given.double().mean()) < 0.6
    assert float(rates[given].min()) >= 0 and float(rates[given].max()) < 0.5
    assert bool((shift.flatten()[given].abs() <= 0.2 * gap.flatten()[given].abs()).all())
    assert bool((shift.flatten() * gap.flatten() <= 0)[given].all())


@pytest.mark.parametrize("gap", [-6.0, -2.0, -0.5, 0.7, 2.5, 6.0])
def test_robust_dpo_at_the_rate_has_the_loss_of_the_moved_margin_to_second_order(gap: float) -> None:
    """Theorem 3.1's view: halving the shift quarters what is left between the two losses.

    Left over is the curvature of the logistic loss, shift^2 sigmoid(m) sigmoid(-m) / 2.
    """

    def left(shift: float) -> float:
        e = rate(shift, gap)
        robust = ((1 - e) * softplus(-gap) - e * softplus(gap)) / (1 - 2 * e)
        return softplus(-(gap - shift)) - robust

    shift = -math.copysign(0.02, gap)
    curvature = math.exp(-softplus(-gap) - softplus(gap))
    assert left(shift) == pytest.approx(shift**2 * curvature / 2, rel=0.02)
    assert left(shift) / left(shift / 2) == pytest.approx(4, rel=0.02)


def test_figures_by_hand() -> None:
    """Gaps 1 to 4 and -1; quantile 0.1 of five values is 0.4 of the way from the first to the second."""
    gaps, weights = torch.tensor([1.0, 2.0, 3.0, 4.0, -1.0]), torch.tensor([0.25, 0.1, 0.05, 0.04, 0.71])
    margins, shifts = torch.tensor([0.45, 0.5, 0.6, 0.9, 0.1]), torch.tensor([-0.05, 0.0, 0.1, 0.4, -0.4])
    figures = diagnose(gaps, margins, shifts, weights)
    expected = {
        "accuracy": 0.8,
        "gap": 1.8,
        "margin": 0.51,
        "weight": 0.23,
        "weak_share": 0.2,
        "gap_q10": -0.2,
        "gap_q50": 2.0,
        "gap_q90": 3.6,
        "margin_q10": 0.24,
        "margin_q50": 0.5,
        "margin_q90": 0.78,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    # Own margins are 0.5, so that m = 0.5, 1.5, 2.5, 3.5, -1.5; the last three have no rate: raised, raised, too large.
    y = 0.05 / (0.5 * (1 + math.exp(0.5)))
    assert figures["noise_rate"] == pytest.approx((y / (1 + 2 * y) + 0) / 2)
    assert figures["noise_rate_null"] == pytest.approx(0.6)


def test_a_gap_of_zero_counts_half() -> None:
    gaps, other = torch.tensor([0.0, 0.0, 1.0, -1.0, 2.0]), torch.zeros(5)
    assert diagnose(gaps, other, other, other)["accuracy"] == pytest.approx(0.6)
    assert diagnose(other, other, other, other)["accuracy"] == 0.5  # before the first step


def test_no_figure_without_pairs_and_no_rate_without_gamma() -> None:
    nothing = torch.zeros(0)
    assert set(diagnose(nothing, nothing, nothing, nothing).values()) == {None}
    metrics = run("simpo").metrics
    assert metrics["noise_rate"] is None and metrics["noise_rate_null"] is None
    assert metrics["gap_q50"] is not None


def test_metrics_are_of_the_preference_pairs_alone() -> None:
    mixed = run("mixdpo", batch_of(PAIRS, [0, 1, 1, 0, 1, 0]), preference="gamma-simpo").metrics
    alone = run("gamma-simpo", batch_of([PAIRS[i] for i in (0, 3, 5)])).metrics
    assert mixed == alone and mixed["noise_rate_null"] is not None
