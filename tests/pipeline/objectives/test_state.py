"""What objectives remember: gamma-PO's queue and scalar, running moments, both in one, and what they start from."""

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.objectives.objective import build
from pipeline.objectives.presets import PRESETS
from pipeline.objectives.state import QUEUE, GammaState, Moments, State
from tests.pipeline.objectives.pairs import (
    EASY,
    ELASTIC,
    LONG,
    MILD,
    PAIRS,
    STATEFUL,
    STEPS,
    WRONG,
    batch_of,
    experienced,
)

REMEMBERING: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in STATEFUL),
    *((name, {"margin": "gamma"}) for name in ELASTIC if PRESETS[name].statistic),
    ("gamma-dpo", {"solver": "paper"}),
    ("gamma-dpo", {"tau": 0.0}),
    ("gamma-dpo", {"queue": 2, "centred": False}),
    ("mixdpo", {"preference": "alpha-dpo", "margin": "gamma"}),
]


def doubles(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaps(size: int, mean: float, spread: float) -> torch.Tensor:
    return mean + spread * torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)


def same(a: Any, b: Any) -> bool:
    """Bit-equal, tensor by tensor."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else type(a) is type(b) and a == b


def saved(state: State) -> Any:
    """A copy by way of a checkpoint file."""
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# --- all of them


@pytest.mark.parametrize(("name", "parameters"), REMEMBERING, ids=str)
def test_a_round_trip_through_a_checkpoint_is_bit_equal(name: str, parameters: dict[str, Any]) -> None:
    """Before the first step, and after two: the same bits, the same output, and the same bits another step later."""
    objective = build(name, **parameters)
    for state in (objective.initial_state(), experienced(objective)):
        again = objective.initial_state()
        again.load_state_dict(saved(state))
        for _ in range(2):
            assert same(again.state_dict(), state.state_dict())
            outputs = [objective(batch_of(PAIRS), each) for each in (state, again)]
            assert torch.equal(outputs[0].losses_B, outputs[1].losses_B)
            for each in (state, again):
                each.observe(outputs[0].gaps_B, outputs[0].statistics_B, batch_of(PAIRS).sources)


@pytest.mark.parametrize(("name", "parameters"), REMEMBERING, ids=str)
def test_observing_nothing_and_evaluating_leave_it_alone(name: str, parameters: dict[str, Any]) -> None:
    objective = build(name, **parameters)
    for state in (objective.initial_state(), experienced(objective)):
        before = saved(state)
        state.observe(*torch.zeros(3, 0))
        with torch.no_grad():
            objective(batch_of(PAIRS), state)
        objective.gaps(batch_of(PAIRS), state)
        assert same(state.state_dict(), before)


def test_training_outputs_leave_it_alone_too() -> None:
    """Micro-batches of a step see one state, whatever came before in the step. (Not so for solver=paper.)"""
    for name, parameters in REMEMBERING:
        if "solver" not in parameters:
            objective = build(name, **parameters)
            state = experienced(objective)
            before = saved(state)
            objective(batch_of(PAIRS), state)
            assert same(state.state_dict(), before)


@pytest.mark.parametrize(
    ("name", "parameters", "other"),
    [
        *((name, parameters, "dpo") for name, parameters in REMEMBERING),
        ("dpo", {}, "gamma-dpo"),
        ("simpo", {}, "beta-dpo"),
        ("amapo", {}, "alpha-dpo"),
        ("scaled-dpo", {}, "bco"),
        ("dr-dpo", {}, "rappo"),
        ("alpha-dpo", {"margin": "gamma"}, "alpha-dpo"),
    ],
    ids=str,
)
def test_the_state_of_another_objective_is_refused(name: str, parameters: dict[str, Any], other: str) -> None:
    """It would be no memory at all, or one of something else, and every loss a number."""
    objective, state = build(name, **parameters), experienced(build(other))
    for call in (objective, objective.gaps):
        with pytest.raises(ValueError, match=r"needs the state that it makes itself: objective\.initial_state"):
            call(batch_of(PAIRS), state)


def test_rows_without_memory_have_an_empty_state() -> None:
    objective = build("dpo")
    assert experienced(objective).state_dict() == {}


def test_observed_values_are_copies_in_float64_without_gradients() -> None:
    state = experienced(build("alpha-dpo", margin="gamma"))
    assert state.gamma and state.moments and isinstance(state.gamma, GammaState)
    state.observe(torch.tensor([0.5], requires_grad=True), torch.tensor([0.25], requires_grad=True))
    assert state.gamma.queue.dtype == torch.float64 and not state.gamma.queue.requires_grad
    assert state.gamma.queue.tolist() == [*(gap for step, *_ in STEPS for gap in step), 0.5]
    assert state.moments.latest is not None and state.moments.latest.tolist() == [0.25]
    assert state.moments.latest.dtype == torch.float64 and not state.moments.latest.requires_grad


# --- what they start from


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # beta d of EASY, WRONG and LONG: 10 (-10/5 + 12/4), 10 (-30/12 + 20/10), 10 (-50/20 + 90/30)
        ("gamma-simpo", [10.0, -5.0, 5.0]),
        ("gamma-dpo", []),  # h is zero for every pair
    ],
)
def test_the_queue_starts_from_gaps_unless_they_are_zero_by_construction(name: str, expected: list[float]) -> None:
    untrained = batch_of([x._replace(lr_w=x.lp_w, lr_l=x.lp_l) for x in (EASY, WRONG, LONG)])
    objective = build(name)
    state = objective.initial_state(untrained=untrained)
    assert isinstance(state.gamma, GammaState)
    assert state.gamma.queue.tolist() == pytest.approx(expected)
    short = objective.initial_state(capacity=2, untrained=untrained)
    assert isinstance(short.gamma, GammaState) and short.gamma.queue.tolist() == pytest.approx(expected[1:])


def test_moments_start_from_statistics_unless_they_are_zero_by_construction() -> None:
    untrained = batch_of([x._replace(lr_w=x.lp_w, lr_l=x.lp_l) for x in (EASY, WRONG, LONG)])
    amapo = build("amapo").initial_state(untrained=untrained).moments
    assert amapo and amapo.mean == pytest.approx((1.0 - 0.5 + 0.5) / 3)
    for name in ("alpha-dpo", "beta-dpo"):
        state = build(name).initial_state(untrained=untrained)
        assert state.moments and state.moments.mean is None
        again = build(name).initial_state()
        again.load_state_dict(saved(state))
        for each in (state, again):  # the first step is still the untrained policy's, and rounding all it holds
            each.observe(doubles(1e-7, -1e-7), doubles(1e-7, -1e-7))
            assert each.moments and each.moments.mean is None
            each.observe(doubles(1.0, 3.0), doubles(1.0, 3.0))
            assert each.moments.mean == pytest.approx(2.0)


@pytest.mark.parametrize("capacity", [0, 1, 7, QUEUE, 10 * QUEUE])
def test_capacity_is_between_one_and_the_published_2048(capacity: int) -> None:
    state = build("gamma-dpo").initial_state(capacity)
    assert isinstance(state.gamma, GammaState)
    assert state.gamma.capacity == min(max(1, capacity), 2048)


@pytest.mark.parametrize(
    ("name", "margin"), [("gamma-dpo", 0.0), ("gamma-simpo", 4.0), ("alpha-dpo", 4.0), ("amapo", 0.0)]
)
def test_before_the_first_step_margins_are_constant(name: str, margin: float) -> None:
    objective = build(name)
    out = objective(batch_of(PAIRS), objective.initial_state())
    assert out.margins_B.tolist() == [margin] * len(PAIRS)


def test_before_the_first_step_beta_dpo_is_dpo() -> None:
    outputs = [build(name)(batch_of(PAIRS), build(name).initial_state()) for name in ("beta-dpo", "dpo")]
    assert torch.equal(outputs[0].losses_B, outputs[1].losses_B)


# --- gamma-PO's queue and scalar


def test_the_queue_keeps_the_newest_in_order() -> None:
    state = GammaState(1.0, 1.0, capacity=3)
    assert state.margins(torch.tensor([5.0, -5.0])).tolist() == [1.0, 1.0]  # nothing seen yet: the base margin
    assert state.fill == 0
    state.observe(torch.tensor([1.0, 2.0]))
    assert state.fill == pytest.approx(2 / 3)
    state.observe(torch.tensor([]))
    state.observe(torch.tensor([3.0, 4.0]))
    assert state.queue.tolist() == [2.0, 3.0, 4.0] and state.fill == 1
    assert float(state.margins(state.queue).mean()) == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=25)
@given(r=st.lists(st.floats(-50, 50), min_size=1, max_size=20), cut=st.integers(0, 20), capacity=st.integers(1, 25))
def test_observing_in_parts_is_observing_at_once(r: list[float], cut: int, capacity: int) -> None:
    once, parts = GammaState(2.0, 0.5, capacity), GammaState(2.0, 0.5, capacity)
    once.observe(doubles(*r))
    for part in (r[:cut], r[cut:]):
        parts.observe(doubles(*part))
    assert same(once.state_dict(), parts.state_dict())


@pytest.mark.parametrize("tau", [0.0, 0.05, 1.0, 50.0])
def test_margins_average_to_the_base_margin_over_the_queue(tau: float) -> None:
    state = GammaState(3.0, tau)
    state.observe(gaps(300, 2.0, 3.0))
    assert float(state.margins(state.queue).mean()) == pytest.approx(3.0, rel=1e-9)


def test_a_margin_depends_on_its_own_gap_and_the_scalar_alone() -> None:
    state, probe = GammaState(2.0, 0.5, 8), gaps(5, 0.0, 3.0)
    state.observe(gaps(11, 1.0, 2.0))
    alone = torch.cat([state.margins(gap.reshape(1)) for gap in probe])
    assert torch.equal(state.margins(probe), alone)


@pytest.mark.parametrize(("queue", "kept"), [(1, 1), (3, 3), (7, 7), (4096, 11)])
def test_a_queue_of_so_many_gaps(queue: int, kept: int) -> None:
    """The latest; its own capacity goes before the published one, and the number of pairs before both."""
    objective = build("gamma-dpo", tau=0.3, queue=queue)
    state = objective.initial_state(capacity=11)
    assert isinstance(state.gamma, GammaState) and state.gamma.capacity == kept
    state.observe(seen := gaps(20, 1.0, 2.0))
    assert state.gamma.queue.tolist() == seen[-kept:].tolist() and state.gamma.fill == 1
    shortest = objective.initial_state().gamma
    assert isinstance(shortest, GammaState) and shortest.capacity == queue


def test_a_queue_of_the_step_itself_knows_of_no_other() -> None:
    objective = build("gamma-dpo", tau=0.3, queue="step")
    untrained = batch_of([x._replace(lr_w=0.0, lr_l=0.0) for x in (EASY, WRONG, LONG)])
    state, batch = objective.initial_state(capacity=3, untrained=untrained), batch_of(PAIRS)
    with pytest.raises(ValueError, match=r"call state\.foresee"):  # and no constant margin in its place
        objective(batch, state)
    with pytest.raises(ValueError, match=r"call state\.foresee"):
        state.observe(gaps(5, 0.0, 1.0))
        objective(batch, state)
    state.foresee(objective.gaps(batch, state).detach())
    before, out = saved(state), objective(batch, state)
    assert isinstance(state.gamma, GammaState) and state.gamma.fill == 1 and len(state.gamma.queue) == 0
    expected = GammaState(1.0, 0.3)
    expected.observe(out.gaps_B)
    assert torch.equal(out.shifts_B, expected.margins(out.gaps_B) - 1.0)
    state.observe(out.gaps_B)
    state.foresee(doubles())  # a step of SFT pairs alone
    assert same(state.state_dict(), before)
    again = objective.initial_state()
    again.load_state_dict(before)
    assert torch.equal(objective(batch, again).losses_B, out.losses_B)


def test_a_gap_that_is_no_number_is_left_to_the_steps_checks() -> None:
    """Others keep their margins: the losses say which pairs are at fault."""
    state = build("gamma-dpo", tau=0.3, queue="step").initial_state()
    state.foresee(doubles(1.0, math.nan, 3.0, math.inf))
    assert state.gamma is not None
    found = state.gamma.margins(doubles(1.0, math.nan, 3.0))
    assert float(found[[0, 2]].mean()) == pytest.approx(1.0) and bool(found[1].isnan())
    state.foresee(doubles(math.nan))
    assert bool(state.gamma.margins(doubles(1.0)).isnan())


def test_foreseeing_is_nothing_to_a_queue_of_steps_before() -> None:
    for name, parameters in REMEMBERING:
        state = experienced(build(name, **parameters))
        before = saved(state)
        state.foresee(gaps(4, 0.0, 1.0))
        assert same(state.state_dict(), before)


# --- moments


def test_moments_by_hand() -> None:
    """Momentum 0.9: step 1 counts for 0.1 / 0.1, then steps 1 and 2 for 0.09 and 0.1 of 0.19."""
    moments = Moments("log-ratio", 0.9)
    assert moments.mean is None and moments.spread == 0
    moments.observe(doubles(1.0, 3.0))
    assert moments.mean == pytest.approx(2.0) and moments.spread == pytest.approx(1.0)  # sqrt(5 - 4)
    moments.observe(doubles(6.0))
    mean, square = (0.09 * 2 + 0.1 * 6) / 0.19, (0.09 * 5 + 0.1 * 36) / 0.19  # 78/19 and 405/19
    assert moments.mean == pytest.approx(mean)
    assert moments.spread == pytest.approx(math.sqrt(square - mean**2))
    assert moments.standardise(doubles(mean, mean + 2 * moments.spread)).tolist() == pytest.approx([0.0, 2.0])
    assert moments.latest is not None and moments.latest.tolist() == [6.0]


def test_without_momentum_only_the_latest_step_counts() -> None:
    moments = Moments("log-ratio", 0.0)
    for values in ([9.0, -3.0], [1.0, 2.0, 6.0]):
        moments.observe(doubles(*values))
    assert moments.mean == pytest.approx(3.0) and moments.spread == pytest.approx(math.sqrt((4 + 1 + 9) / 3))


@settings(max_examples=50)
@given(value=st.floats(-1e3, 1e3), size=st.integers(1, 5), steps=st.integers(1, 5))
@example(value=2.135e-158, size=1, steps=3)  # its square is subnormal, and rounded to few digits
def test_equal_values_have_no_spread_not_even_by_rounding(value: float, size: int, steps: int) -> None:
    """A spread of 1e-8 instead of 0 would make every later standardised value huge."""
    moments = Moments("log-ratio", 0.9)
    for _ in range(steps):
        moments.observe(torch.full((size,), value, dtype=torch.float64))
    assert moments.spread == 0
    assert moments.inclusion(doubles(value, value + 1), 0.5).tolist() == [0.5, 0.5]


def test_a_first_step_of_one_pair_moves_no_margin() -> None:
    """There is no spread to standardise by yet."""
    for name, margin in (("alpha-dpo", 4.0), ("amapo", 0.0)):
        objective = build(name)
        state = objective.initial_state()
        state.observe(doubles(0.3), doubles(0.3))
        assert objective(batch_of(MILD), state).margins_B.tolist() == [margin] * 4


def test_a_first_step_of_one_pair_filters_none() -> None:
    """Every pair is as likely to be kept as another, and weighs 1: beta-DPO is DPO yet."""
    objective, dpo = build("beta-dpo"), build("dpo")
    state = objective.initial_state()
    state.observe(doubles(1.5), doubles(1.5))
    expected = dpo(batch_of(MILD), dpo.initial_state())
    torch.testing.assert_close(objective(batch_of(MILD), state).losses_B, expected.losses_B)


def test_inclusion_by_hand() -> None:
    """Mean 0, spread 1, so w = exp(-1/2) at the values seen; a share of a half makes k w a half there.

    At the mean k w = exp(1/2) / 2 = 0.82; at 2 it is exp(1/2 - 2) / 2; a larger share caps the mean at 1.
    """
    moments = Moments("log-ratio", 0.9)
    moments.observe(doubles(-1.0, 1.0))
    assert moments.inclusion(doubles(1.0, 0.0, 2.0), 0.5).tolist() == pytest.approx(
        [0.5, math.exp(0.5) / 2, math.exp(-1.5) / 2]
    )
    assert moments.inclusion(doubles(1.0, 0.0), 0.8).tolist() == pytest.approx([0.8, 1.0])


def test_inclusion_with_capped_pairs_by_hand() -> None:
    """w = exp(-1/4) twice and exp(-1): shares of 0.9 in proportion would be 1.09 and 0.52, so that the first two are
    certain and the third has the rest, 3 * 0.9 - 2.
    """
    moments = Moments("log-ratio", 0.0)
    moments.observe(doubles(0.0, 0.0, 3.0))
    assert moments.inclusion(doubles(0.0, 0.0, 3.0), 0.9).tolist() == pytest.approx([1.0, 1.0, 0.7])


@settings(max_examples=60)
@given(
    steps=st.lists(st.lists(st.floats(-20, 20), min_size=1, max_size=12), min_size=1, max_size=4),
    share=st.floats(0.05, 1.0),
)
def test_the_mean_inclusion_over_the_latest_step_is_the_share(steps: list[list[float]], share: float) -> None:
    moments = Moments("log-ratio", 0.9)
    for values in steps:
        moments.observe(doubles(*values))
    kept = moments.inclusion(doubles(*steps[-1]), share)
    assert bool((kept >= 0).all() and (kept <= 1).all())
    assert float(kept.mean()) == pytest.approx(share, rel=1e-9)
    if moments.spread and moments.mean is not None:  # nearer to the mean, likelier to be kept
        order = (doubles(*steps[-1]) - moments.mean).abs().argsort()
        assert bool((kept[order].diff() <= 1e-12).all())


def test_inclusion_survives_an_outlier_in_single_precision() -> None:
    """The share is so large that the outlier too must be kept, with a k beyond float32; nothing becomes NaN."""
    moments = Moments("log-ratio", 0.9)
    latest = torch.cat((gaps(998, 0.0, 0.01), doubles(50.0, 60.0)))
    moments.observe(latest)
    for values in (latest, latest.float()):
        kept = moments.inclusion(values, 0.9995)
        assert kept.dtype == values.dtype and float(kept.mean()) == pytest.approx(0.9995, rel=1e-5)
    assert moments.inclusion(torch.tensor([1e3, 0.0]), 0.9995).tolist() == [0.0, 1.0]


def test_the_statistic_is_the_rows_own() -> None:
    """beta-DPO watches h, alpha-DPO its mean, AMaPO d; of EASY 1.5, 0.325 and 1."""
    for name, value in (("beta-dpo", 1.5), ("alpha-dpo", 0.325), ("amapo", 1.0)):
        objective = build(name)
        out = objective(batch_of([EASY]), experienced(objective))
        assert float(out.statistics_B) == pytest.approx(value) and not out.statistics_B.requires_grad
