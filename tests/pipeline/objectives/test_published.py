"""The published algorithm: its numbers, where it fails, and a state that can be saved and repeated."""

import importlib.util
import io
import math
from pathlib import Path

import pytest
import torch

from pipeline.objectives.gamma import margins_at, solve_scalar
from pipeline.objectives.published import PublishedState, mirror_descent

ORACLE = Path(__file__).parents[4] / "shared/oracles/margin_solver.py"
AUTHORS = ((4.0, 10.0), (0.375, 10.0), (5.0, 20.0), (3.0, 3.0))  # gamma0, tau


def gaps(size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 + 3 * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)


def error(gamma0: float, tau: float, steps: int = 20, dtype: torch.dtype = torch.float64) -> float:
    """The largest relative difference from the exact margins."""
    r_N = gaps(256, dtype)
    exact_N = margins_at(r_N, solve_scalar(r_N, gamma0, tau), gamma0, tau)
    return float(((mirror_descent(r_N, gamma0, tau, steps) - exact_N).abs() / exact_N).max())


@pytest.mark.parametrize(("gamma0", "tau"), [*AUTHORS, (4.0, 2.0), (4.0, 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_independent_restatement(gamma0: float, tau: float, dtype: torch.dtype) -> None:
    if not ORACLE.is_file():
        pytest.skip("the independent solver is not beside this checkout")
    spec = importlib.util.spec_from_file_location("margin_solver", ORACLE)
    assert spec and spec.loader
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    r_N = gaps(256, dtype)
    expected_N = oracle.mirror_descent(r_N, gamma0, tau, steps=21, dtype=dtype)  # the iterate before its last update
    margin_N = mirror_descent(r_N, gamma0, tau)
    assert margin_N.dtype == dtype
    settled = tau > 1  # where it oscillates, rounding is blown up from step to step
    rtol = {torch.float32: 1e-5 if settled else 1e-3, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(margin_N, expected_N, rtol=rtol, atol=0)


def test_one_update_by_hand() -> None:
    """Two gaps at tau = 0: step 1, and the shares are weighed by exp(-gamma0 sigmoid(gamma0 - r))."""
    r_N = torch.tensor([0.0, 2.0], dtype=torch.float64)
    weights = [math.exp(-2 / (1 + math.exp(-2))), math.exp(-2 / (1 + math.exp(0)))]
    assert mirror_descent(r_N, 2.0, 0.0, steps=1).tolist() == pytest.approx([4 * w / sum(weights) for w in weights])


@pytest.mark.parametrize(("gamma0", "tau"), AUTHORS)
def test_the_authors_settings_need_no_better_solver(gamma0: float, tau: float) -> None:
    assert error(gamma0, tau) < 2e-6
    assert error(gamma0, tau, dtype=torch.float32) < 5e-6


@pytest.mark.parametrize(("tau", "at_least"), [(2.0, 0.1), (1.0, 0.5), (0.5, 1.0), (0.1, 1.5)])
def test_small_tau_oscillates(tau: float, at_least: float) -> None:
    """At gamma0 = 4: relative errors of that size, and ten times as many updates do not help."""
    assert error(4.0, tau) > at_least
    assert error(4.0, tau, steps=200) > at_least


def test_margins_average_to_gamma0_over_the_sample() -> None:
    assert float(mirror_descent(gaps(100), 4.0, 10.0).mean()) == pytest.approx(4.0, rel=1e-6)
    full = PublishedState(4.0, 10.0, seed=0).margins(gaps(300))  # more than a sample: nothing is drawn
    torch.testing.assert_close(full, mirror_descent(gaps(300), 4.0, 10.0).double(), rtol=0, atol=0)


def test_the_queue_starts_with_eight_draws_and_keeps_the_latest_2048() -> None:
    state = PublishedState(4.0, 10.0, seed=3)
    assert torch.equal(state.queue, torch.randn(8, generator=torch.Generator().manual_seed(3), dtype=state.queue.dtype))
    batches = [gaps(100, torch.float64, seed) for seed in range(22)]
    for r_B in batches:
        state.margins(r_B)
        state.observe(r_B)  # a second time would show in the queue
    assert torch.equal(state.queue, torch.cat(batches)[-2048:])
    assert state.fill == 1


def test_the_sample_is_the_batch_and_queued_gaps_without_repetition() -> None:
    """With the eight first gaps all drawn, the order of the draw is all that chance has left."""
    state = PublishedState(3.0, 3.0, seed=1)
    sample_N = torch.cat((state.queue, gaps(4, torch.float64)))
    expected_B = mirror_descent(sample_N, 3.0, 3.0)[-4:]
    torch.testing.assert_close(state.margins(gaps(4, torch.float64)), expected_B, rtol=1e-12, atol=0)


def test_same_seed_same_margins() -> None:
    runs = []
    for seed in (0, 0, 1):
        state = PublishedState(3.0, 3.0, seed)
        runs.append(torch.cat([state.margins(gaps(60, seed=step)) for step in range(8)]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_evaluation_leaves_no_trace() -> None:
    state, other = PublishedState(3.0, 3.0, seed=0), PublishedState(3.0, 3.0, seed=0)
    for step in range(6):
        r_B = gaps(60, seed=step)
        with torch.no_grad():
            first = state.margins(gaps(50, seed=100 + step))
            assert torch.equal(state.margins(gaps(50, seed=100 + step)), first)
        assert torch.equal(state.margins(r_B), other.margins(r_B))
    assert torch.equal(state.queue, other.queue)


def test_state_round_trip_is_bit_equal() -> None:
    state, again = PublishedState(3.0, 3.0, seed=0), PublishedState(3.0, 3.0, seed=9)
    for step in range(6):
        state.margins(gaps(60, seed=step))
    saved = io.BytesIO()
    torch.save(state.state_dict(), saved)
    saved.seek(0)
    again.load_state_dict(torch.load(saved, weights_only=True))
    for step in range(3):
        probe = gaps(40, torch.bfloat16, seed=50 + step)
        assert torch.equal(state.margins(probe), again.margins(probe))
    assert torch.equal(state.queue, again.queue)


def test_margins_are_no_part_of_the_graph_and_no_narrower_than_single() -> None:
    state = PublishedState(3.0, 3.0, seed=0)
    r_B = gaps(5, torch.bfloat16).requires_grad_()
    margins_B = state.margins(r_B)
    assert margins_B.dtype == torch.float64 and not margins_B.requires_grad and not state.queue.requires_grad
    wide_B = PublishedState(3.0, 3.0, seed=0).margins(r_B.detach().float())
    assert torch.equal(margins_B, wide_B)
