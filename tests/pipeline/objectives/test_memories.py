"""What weights remember of earlier steps, by hand: a level, a bound, how reliable each source of labels is."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.objectives.memories import Level, Reliability, Worst
from pipeline.objectives.objective import build
from tests.pipeline.objectives.pairs import EASY, LONG, WRONG, batch_of, experienced


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- Dr. DPO's level


def test_a_level_by_hand() -> None:
    """Means of exp are 2 and 4; with momentum 1/2 they count a third and two."""
    level = Level(beta_prime=2.0, momentum=0.5)
    assert level.log_mean is None
    level.observe(doubles(0.0, math.log(3)))
    assert level.log_mean == pytest.approx(math.log(2))
    level.observe(doubles(math.log(4)))
    level.observe(doubles())
    assert level.log_mean == pytest.approx(math.log(2 / 3 + 8 / 3))
    assert level.of(doubles(3.0)).tolist() == [-1.5]


@given(st.lists(st.lists(st.floats(-5000, 5000), min_size=1, max_size=5), min_size=1, max_size=5))
def test_a_level_has_all_its_digits_wherever_it_lies(steps: list[list[float]]) -> None:
    """Shifted by a constant, it is shifted by that; also where exp overflows, or leaves nothing."""
    levels = Level(1.0, 0.9), Level(1.0, 0.9)
    for values in steps:
        levels[0].observe(doubles(*values))
        levels[1].observe(doubles(*values) - 3000)
    low, high = levels[1].log_mean, levels[0].log_mean
    assert low is not None and high == pytest.approx(low + 3000, abs=1e-8)


def test_dr_dpos_weights_average_to_one_over_what_was_seen() -> None:
    objective = build("dr-dpo", momentum=0.0, beta_prime=0.3)
    state, batch = objective.initial_state(), batch_of([EASY, WRONG, LONG])
    out = objective(batch, state)
    state.observe(out.gaps_B, out.statistics_B)
    again = objective(batch, state)
    ratios = again.losses_B / out.losses_B
    assert float(ratios.mean()) == pytest.approx(1.0)
    assert ratios[2] > ratios[0] > ratios[1]  # the smaller a loss, the more it counts


# --- scaled DPO's mean


def test_a_score_gap_that_contradicts_its_label_weighs_nothing_whatever_was_seen() -> None:
    """Of a tie, an agreement and a contradiction, before anything was seen, after ties alone and after gaps of 2."""
    pairs = [EASY._replace(s_w=1.0, s_l=other) for other in (1.0, 0.0, 2.0)]
    objective, dpo = build("scaled-dpo"), build("dpo")
    plain = dpo(batch_of(pairs), dpo.initial_state()).losses_B
    tied = batch_of([pair._replace(s_l=pair.s_w) for pair in pairs])
    apart = batch_of([pair._replace(s_l=-1.0) for pair in pairs])
    for untrained, weights in ((None, [1.0, 1.0, 0.0]), (tied, [1.0, 1.0, 0.0]), (apart, [0.0, 0.5, 0.0])):
        out = objective(batch_of(pairs), objective.initial_state(untrained=untrained))
        assert (out.losses_B / plain).tolist() == pytest.approx(weights)


# --- RAPPO's bound


@pytest.mark.parametrize(("drop", "bound"), [(0, math.inf), (1, 5.0), (2, 4.0), (3, 1.0), (4, -math.inf)])
def test_the_bound_is_the_latest_steps(drop: int, bound: float) -> None:
    """Of three pairs in question; the first step, and one without any, say nothing."""
    worst = Worst(drop, 1.0)
    worst.observe(doubles(9.0, 9.0, 9.0, 9.0, 9.0))
    assert worst.bound == math.inf
    worst.observe(doubles(7.0, 8.0, 7.0, 7.0))
    worst.observe(doubles(4.0, -math.inf, 1.0, 5.0))
    assert worst.bound == bound
    worst.observe(doubles(-math.inf, -math.inf))
    worst.observe(doubles())
    assert worst.bound == bound


def test_only_what_the_reference_ranks_wrong_is_in_question() -> None:
    """lr_w - lr_l of EASY is 0.5, of WRONG -7, of LONG 25."""
    losses, batch = doubles(1.0, 2.0, 3.0), batch_of([EASY, WRONG, LONG])
    assert Worst(1, 1.0).of(batch, losses).tolist() == [-math.inf, 2.0, -math.inf]
    assert Worst(1, math.exp(0.5) + 1e-9).of(batch, losses).tolist() == [1.0, 2.0, -math.inf]


def test_so_many_are_left_out_on_average() -> None:
    """Of 40 pairs a step in question, losses alike over steps: 3 of them, less 3 / 41."""
    generator = torch.Generator().manual_seed(0)
    worst, dropped = Worst(3, 1.0), 0
    for _ in range(2000):
        losses = torch.randn(40, generator=generator, dtype=torch.float64)
        dropped += int((losses > worst.bound).sum())
        worst.observe(losses)
    assert dropped / 2000 == pytest.approx(3 * 40 / 41, abs=0.15)


# --- RE-PO's reliability


def test_reliability_by_hand() -> None:
    """Two sources; what is right with p = 3/4 by its gap, of labels right in 4 of 5, is right by 12/13."""
    memory, sources = Reliability(0.8, 0.25), torch.tensor([0, 1, 0])
    batch = batch_of([EASY, LONG, WRONG])  # of sources 0, 1 and 0
    z = doubles(math.log(3), 0.0, -math.log(3))
    assert memory.of(z, batch).tolist() == pytest.approx([12 / 13, 0.8, 4 / 7])
    memory.observe(doubles(1.0, 0.4, 0.5), sources)
    assert memory.shares == pytest.approx({0: 0.75 * 0.8 + 0.25 * 0.75, 1: 0.75 * 0.8 + 0.25 * 0.4})
    memory.observe(doubles(0.0), torch.tensor([7]))  # a source that was never seen begins as all do
    assert memory.shares[7] == pytest.approx(0.6) and memory.of(z, batch)[1] == pytest.approx(0.7)


@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.3])
def test_the_share_of_flips_is_found_where_gaps_are_as_sure_as_they_say(flipped: float) -> None:
    """Labels drawn by their gaps, some flipped: the estimate goes to the share of flips."""
    generator = torch.Generator().manual_seed(1)
    memory, batch = Reliability(0.9, 0.05), batch_of([EASY] * 500)
    found = []
    for step in range(300):
        size = torch.randn(500, generator=generator, dtype=torch.float64) * 6
        right = torch.rand(500, generator=generator) < torch.sigmoid(size.abs())
        kept = torch.rand(500, generator=generator) >= flipped
        z = torch.where(right == kept, size.abs(), -size.abs())
        memory.observe(memory.of(z, batch), torch.zeros(500, dtype=torch.long))
        found += [1 - memory.shares[0]] if step >= 200 else []
    assert sum(found) / len(found) == pytest.approx(flipped, abs=0.02)


def test_a_state_of_sources_must_be_told_of_them() -> None:
    objective = build("re-po")
    state = experienced(objective)
    with pytest.raises(ValueError, match="sources of labels"):
        state.observe(doubles(1.0), doubles(0.5))
