"""The margin solver: against an independent one where it is at hand, and against the conditions of optimality."""

import functools
import importlib.util
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.objectives.gamma import _log_q, _multiplier, _water_level, margins_at, solve_scalar
from pipeline.objectives.state import GammaState

ORACLE = Path(__file__).parents[4] / "shared/oracles/margin_solver.py"
GAMMA0 = (0.375, 1.0, 3.0, 4.0, 5.0, 8.0)
TAU = (0.0, 0.01, 0.03, 0.1, 1.0, 10.0, 1e3, 1e6)
SIZES = (1, 2, 17, 1000)
DRAWS = ((2.5, 0.0), (0.0, 1.0), (2.0, 5.0), (0.0, 1e3), (0.0, 1e6))  # mean and standard deviation of the gaps


def gaps(size: int, mean: float, spread: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return mean + spread * torch.randn(size, generator=generator, dtype=torch.float64)


def few_winners(size: int) -> torch.Tensor:
    """One gap in a hundred as wide as can be, all others as wrong as can be."""
    r_N = torch.full((size,), -1e6, dtype=torch.float64)
    r_N[::100] = 1e6
    return r_N


def all_scales(size: int) -> torch.Tensor:
    """Both signs, spread evenly from 1e-6 to 1e6 in the logarithm."""
    generator = torch.Generator().manual_seed(size)
    exponent_N = 12 * torch.rand(size, generator=generator, dtype=torch.float64) - 6
    return 10**exponent_N * torch.randn(size, generator=generator).sign()


def heavy_tails(size: int) -> torch.Tensor:
    """Most gaps are small, a few reach into the thousands or to a million."""
    z_N = gaps(size, 0.0, 1.0)
    return (z_N.abs() + 0.01) ** -3 * z_N.sign()


def cells(tau: float, every: int = 1) -> list[tuple[float, torch.Tensor]]:
    """Every gamma0 with every size and every kind of gaps; or one of so many of these, others for each tau."""
    kinds: list[Callable[[int], torch.Tensor]] = [few_winners, all_scales, heavy_tails]
    kinds += [functools.partial(gaps, mean=m, spread=s) for m, s in DRAWS]
    chosen = list(itertools.product(GAMMA0, SIZES, kinds))[TAU.index(tau) % every :: every]
    return [(gamma0, kind(size)) for gamma0, size, kind in chosen]


def solved(r_N: torch.Tensor, gamma0: float, tau: float) -> torch.Tensor:
    return margins_at(r_N, solve_scalar(r_N, gamma0, tau), gamma0, tau)


def assert_optimal(margin_N: torch.Tensor, r_N: torch.Tensor, gamma0: float, tau: float) -> None:
    """tau log q + gamma0 sigmoid(margin - gap) is one number for all pairs, and margins average to gamma0."""
    assert float(margin_N.mean()) == pytest.approx(gamma0, rel=1e-12)
    kept = margin_N > 1e-290  # below, exp has lost the digits of log q
    level_N = (tau * (margin_N / gamma0).log() + gamma0 * torch.sigmoid(margin_N - r_N))[kept]
    assert float(level_N.max() - level_N.min()) <= 1e-12 * max(gamma0, tau)


def assert_filled(margin_N: torch.Tensor, r_N: torch.Tensor, gamma0: float) -> None:
    """tau = 0: margins average to gamma0, all that are above 0 have one residual, and no other gap reaches it."""
    assert float(margin_N.mean()) == pytest.approx(gamma0, rel=1e-9)
    above = margin_N > 0
    residual_N = r_N - margin_N
    assert float(residual_N[above].max() - residual_N[above].min()) <= 1e-9
    assert (r_N[~above] <= residual_N[above].min() + 1e-9).all()


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    if not ORACLE.is_file():
        pytest.skip("the independent solver is not beside this checkout")
    spec = importlib.util.spec_from_file_location("margin_solver", ORACLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("tau", TAU)
def test_equals_the_independent_solver(oracle: ModuleType, tau: float) -> None:
    for gamma0, r_N in cells(tau, every=5):
        expected_N = oracle.solve_margins(r_N, gamma0, tau)[0]
        margin_N = solved(r_N, gamma0, tau)
        assert float((margin_N - expected_N).abs().max()) <= 1e-9 * gamma0
        large = expected_N > 1e-6 * gamma0
        torch.testing.assert_close(margin_N[large], expected_N[large], rtol=1e-9, atol=0)


@pytest.mark.parametrize("tau", TAU)
def test_optimality(tau: float) -> None:
    for gamma0, r_N in cells(tau):
        margin_N = solved(r_N, gamma0, tau)
        if tau:
            assert_optimal(margin_N, r_N, gamma0, tau)
        else:
            assert_filled(margin_N, r_N, gamma0)


@pytest.mark.parametrize("tau", TAU[1:])
def test_a_fixed_number_of_steps_is_enough(tau: float) -> None:
    """What runs on CUDA, where nothing may ask whether it is done: the same margins, and just as optimal."""
    for gamma0, r_N in cells(tau, every=5):
        c = _multiplier(r_N, gamma0, tau, early=False)
        margin_N = gamma0 * _log_q(r_N, c, gamma0, tau, early=False).exp()
        assert_optimal(margin_N, r_N, gamma0, tau)
        torch.testing.assert_close(margin_N, solved(r_N, gamma0, tau), rtol=1e-11, atol=0)


def test_a_step_of_the_scalar_keeps_to_its_bracket() -> None:
    """Newton's step for c runs away here, where nothing holds it."""
    for gamma0, size in ((4.0, 34), (8.0, 20), (8.0, 32)):
        assert float(solved(heavy_tails(size), gamma0, 1e-3).mean()) == pytest.approx(gamma0, rel=1e-9)


def test_the_fixed_number_of_steps_reads_no_value() -> None:
    """It runs on the meta device, where tensors have no values to wait for."""
    r_N = torch.zeros(5, dtype=torch.float64, device="meta")
    c = _multiplier(r_N, 4.0, 10.0, early=False)
    assert c.shape == () and c.dtype == torch.float64 and c.device.type == "meta"
    assert _log_q(r_N, c, 4.0, 10.0, early=False).shape == r_N.shape
    assert _water_level(r_N, 4.0).shape == ()


@pytest.mark.parametrize(
    ("gamma0", "tau", "spread"), [(4.0, 10.0, 3.0), (8.0, 0.01, 1e6), (3.0, 0.1, 3.0), (5.0, 0.0, 30.0)]
)
def test_a_hundred_thousand_gaps(gamma0: float, tau: float, spread: float) -> None:
    r_N = gaps(100_000, 2.0, spread)
    margin_N = solved(r_N, gamma0, tau)
    if tau:
        assert_optimal(margin_N, r_N, gamma0, tau)
    else:
        assert_filled(margin_N, r_N, gamma0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_are_solved_in_double(dtype: torch.dtype) -> None:
    r_N = gaps(100, 2.0, 5.0).to(dtype).requires_grad_()
    scalar, margin_N = solve_scalar(r_N, 3.0, 0.5), solved(r_N, 3.0, 0.5)
    assert scalar.dtype == margin_N.dtype == torch.float64
    assert not scalar.requires_grad and not margin_N.requires_grad
    assert torch.equal(margin_N, solved(r_N.double(), 3.0, 0.5))


@pytest.mark.parametrize("tau", TAU)
def test_a_margin_is_the_same_in_any_company(tau: float) -> None:
    r_N = torch.cat((all_scales(200), gaps(101, 2.0, 5.0)))
    scalar = solve_scalar(r_N, 4.0, tau)
    margin_N = margins_at(r_N, scalar, 4.0, tau)
    alone_N = torch.cat([margins_at(r_1, scalar, 4.0, tau) for r_1 in r_N.split(1)])
    thirds_N = torch.cat([margins_at(r_N[i::3], float(scalar), 4.0, tau) for i in range(3)])
    torch.testing.assert_close(alone_N, margin_N, rtol=1e-12, atol=0)
    torch.testing.assert_close(thirds_N, torch.cat([margin_N[i::3] for i in range(3)]), rtol=1e-12, atol=0)
    assert margins_at(r_N[:0], scalar, 4.0, tau).shape == (0,)


def test_water_filling_by_hand() -> None:
    """Gaps 3, 1, -5 and base margin 1: the level is -0.5, for (3 - 0.5) + (1 - 0.5) + 0 = 3."""
    r_N = torch.tensor([1.0, -5.0, 3.0])
    assert float(solve_scalar(r_N, 1.0, 0.0)) == pytest.approx(-0.5)
    assert solved(r_N, 1.0, 0.0).tolist() == pytest.approx([0.5, 0.0, 2.5])
    assert solved(torch.tensor([1e6, -1e6]), 0.5, 0.0).tolist() == pytest.approx([1.0, 0.0], abs=1e-9)


@pytest.mark.parametrize("tau", TAU)
@pytest.mark.parametrize("gap", [0.0, -1e6, 1e6, 2.5])
def test_equal_gaps_share_one_margin(tau: float, gap: float) -> None:
    for size in (1, 5):
        margin_N = solved(torch.full((size,), gap, dtype=torch.float64), 3.0, tau)
        torch.testing.assert_close(margin_N, torch.full_like(margin_N, 3.0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("gamma0", [0.0, 1.0])
def test_no_margin_and_no_strength(gamma0: float) -> None:
    for tau in (0.0, 1.0):
        assert float(solved(torch.tensor([-2.0, 0.0, 5.0]), gamma0, tau).mean()) == pytest.approx(gamma0)


@settings(max_examples=40)
@given(
    r=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12),
    gamma0=st.sampled_from(GAMMA0),
    tau=st.sampled_from(TAU),
    data=st.data(),
)
def test_larger_gap_larger_margin_whatever_the_order(
    r: list[float], gamma0: float, tau: float, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(r))))
    r_N = torch.tensor(r, dtype=torch.float64)
    margin_N = solved(r_N, gamma0, tau)
    torch.testing.assert_close(solved(r_N[order], gamma0, tau), margin_N[order], rtol=1e-9, atol=1e-12)
    by_gap = r_N.argsort()
    rise = margin_N[by_gap].diff()
    assert (rise >= -1e-9).all()
    assert (rise <= r_N[by_gap].diff() + 1e-9).all()  # and the margin rises no faster than the gap
    if tau > 0:
        q_N = margin_N / gamma0
        assert q_N.max() <= math.exp(min(gamma0 / tau, 700)) * (1 + 1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gap_that_is_no_number_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="gap 1 of 3 is not finite"):
        solve_scalar(torch.tensor([0.0, bad, 1.0]), 1.0, 1.0)
    with pytest.raises(ValueError, match="no gaps"):
        solve_scalar(torch.zeros(0), 1.0, 1.0)


def test_the_queue_keeps_the_newest_in_order() -> None:
    state = GammaState(1.0, 1.0, capacity=3)
    assert state.margins(torch.tensor([5.0, -5.0])).tolist() == [1.0, 1.0]  # nothing seen yet: the base margin
    state.observe(torch.tensor([1.0, 2.0]))
    state.observe(torch.tensor([]))
    state.observe(torch.tensor([3.0, 4.0]))
    assert state.queue.tolist() == [2.0, 3.0, 4.0]
    assert float(state.margins(state.queue).mean()) == pytest.approx(1.0, rel=1e-12)


@settings(max_examples=25)
@given(r=st.lists(st.floats(-50, 50), min_size=1, max_size=20), cut=st.integers(0, 20), capacity=st.integers(1, 25))
def test_observing_in_parts_is_observing_at_once(r: list[float], cut: int, capacity: int) -> None:
    once, parts = GammaState(2.0, 0.5, capacity), GammaState(2.0, 0.5, capacity)
    once.observe(torch.tensor(r, dtype=torch.float64))
    for part in (r[:cut], r[cut:]):
        parts.observe(torch.tensor(part, dtype=torch.float64))
    assert torch.equal(once.queue, parts.queue) and once.scalar == parts.scalar


def test_state_round_trip_is_bit_equal() -> None:
    state, again = GammaState(2.0, 0.5, 8), GammaState(2.0, 0.5, 8)
    state.observe(gaps(11, 1.0, 2.0))
    again.load_state_dict(state.state_dict())
    probe = gaps(5, 0.0, 3.0)
    assert torch.equal(state.margins(probe), again.margins(probe))
    state.observe(probe)
    again.observe(probe)
    assert torch.equal(state.queue, again.queue) and state.scalar == again.scalar
