"""Several streams under one objective: sums by hand for unequal counts, and BVPO's weight of least error."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.objectives.batch import SFT, PairBatch
from pipeline.objectives.objective import build
from pipeline.objectives.streams import Balance, Streams
from tests.pipeline.objectives.pairs import EASY, LONG, MILD, PAIRS, SHORT, WRONG, Pair, batch_of
from tests.pipeline.objectives.restated import dpo, h, logistic

STREAMS = [0, 1, 0, 0, 1, 0]  # of PAIRS: four and two
COUNTS = [(4, 38), (2, 15)]


def mixed(pairs: Sequence[Pair], streams: Sequence[int], **columns: Any) -> PairBatch:
    return replace(batch_of(pairs, **columns), streams=torch.tensor(streams))


def of(name: str, weights: Sequence[float] | None, count: int = 2, **parameters: Any) -> Streams:
    objective = build(name, **parameters)
    return Streams(objective, [objective.initial_state() for _ in range(count)], weights)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_bvpo_restated(a: float, beta: float) -> None:
    """a times the mean loss of four pairs and 1 - a times that of two, in plain Python."""
    _, losses_B = of("bvpo", [a, 1 - a], beta=beta).losses(mixed(PAIRS, STREAMS), COUNTS)
    by_stream = [[logistic(beta * h(x)) for x, of_ in zip(PAIRS, STREAMS, strict=True) if of_ == s] for s in (0, 1)]
    expected = a * math.fsum(by_stream[0]) / 4 + (1 - a) * math.fsum(by_stream[1]) / 2
    assert float(losses_B.mean()) == pytest.approx(expected, rel=1e-10)


def test_every_pair_has_its_own_place() -> None:
    """Outputs stand where their pairs do, times what a pair of the stream counts."""
    out, losses_B = of("dpo", [0.3, 0.7], beta=0.2).losses(mixed(PAIRS, STREAMS), COUNTS)
    for place, (x, stream) in enumerate(zip(PAIRS, STREAMS, strict=True)):
        factor = (0.3 * 6 / 4, 0.7 * 6 / 2)[stream]
        gap = dpo(x, type("c", (), {"beta": 0.2})).gap
        assert float(out.gaps_B[place]) == pytest.approx(gap, rel=1e-12)
        assert float(losses_B[place]) == pytest.approx(factor * logistic(gap), rel=1e-12)
        assert float(out.weights_B[place]) == pytest.approx(factor / (1 + math.exp(min(gap, 700))), rel=1e-12)
    assert out.chosen_tokens.tolist() == [x.n_w for x in PAIRS]


@pytest.mark.parametrize("name", ["dpo", "cpo", "orpo", "nca"])
def test_micro_batches_of_any_make_up_add_up(name: str) -> None:
    """A part without any pair of a stream, too, and pairs that go to SFT."""
    streams = of(name, [0.2, 0.8])
    whole = mixed(PAIRS, STREAMS)
    together = streams.losses(whole, COUNTS)[1]
    for parts in ([[0, 2, 3], [1, 4], [5]], [[4, 0], [3, 1, 5, 2]]):
        apart = [streams.losses(whole.select(torch.tensor(index)), COUNTS)[1] for index in parts]
        torch.testing.assert_close(
            torch.cat(apart), together[[i for index in parts for i in index]], rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("name", ["dpo", "cpo", "nca", "cpo-simpo"])
def test_without_weights_they_are_one_source(name: str) -> None:
    objective = build(name)
    one = objective(batch_of(MILD), objective.initial_state())
    _, losses_B = of(name, None).losses(mixed(MILD, [1, 0, 1, 1]), [(1, 12), (3, 26)])
    assert float(losses_B.mean()) == pytest.approx(float(one.loss), rel=1e-12)


def test_one_stream_is_what_there_was_before() -> None:
    """To the bit, with and without a column of streams."""
    objective = build("mixdpo", preference="gamma-dpo", tau=0.3)
    batch = batch_of(PAIRS, routes=[0, SFT, 0, 0, SFT, 0])
    plain = objective(batch, objective.initial_state())
    for given in (batch, replace(batch, streams=torch.zeros(6, dtype=torch.long))):
        out, losses_B = Streams(objective, [objective.initial_state()]).losses(given, [(6, 28)])
        assert torch.equal(losses_B, plain.per_pair(6, 28))
        for name in ("gaps_B", "margins_B", "weights_B", "statistics_B"):
            assert torch.equal(getattr(out, name).nan_to_num(7.0), getattr(plain, name).nan_to_num(7.0))


def test_pairs_of_nobody_knows_which_stream_are_refused() -> None:
    """They would all be of the first, times its weight."""
    streams = of("dpo", [0.3, 0.7])
    for call in (lambda batch: streams.losses(batch, COUNTS), streams.gaps):
        with pytest.raises(ValueError, match="needs streams"):
            call(batch_of(PAIRS))


def test_a_stream_that_a_step_lacks_leaves_its_weight() -> None:
    streams = of("dpo", [0.3, 0.5, 0.2], count=3)
    assert streams.factors([(2, 9), (4, 9), (2, 9)]) == pytest.approx([1.2, 1.0, 0.8])
    assert streams.factors([(2, 9), (0, 0), (2, 9)]) == pytest.approx([1.2, 0.0, 0.8])
    for counts in ([(3, 1), (5, 1), (7, 1)], [(1, 1), (0, 0), (9, 1)]):
        factors, pairs = streams.factors(counts), [own for own, _ in counts]
        assert sum(f * own for f, own in zip(factors, pairs, strict=True)) == pytest.approx(sum(pairs))
    assert of("dpo", [1.0, 0.0]).factors([(0, 0), (2, 9)]) == [0.0, 0.0]  # nothing of the step counts


def test_gradcheck() -> None:
    streams, base = of("bvpo", [0.3, 0.7]), mixed(MILD, [0, 1, 1, 0])

    def losses(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        batch = replace(base, policy_chosen_logps=chosen, policy_rejected_logps=rejected)
        return streams.losses(batch, [(2, 25), (2, 13)])[1]

    leaves = [side.clone().requires_grad_() for side in (base.policy_chosen_logps, base.policy_rejected_logps)]
    assert torch.autograd.gradcheck(losses, leaves)


def test_every_stream_has_a_state_of_its_own() -> None:
    """Gaps of another size move another stream's margins only; a checkpoint holds all."""
    streams = of("gamma-dpo", None, beta=1.0, tau=0.3)
    gaps = torch.tensor([0.1, 50.0, 0.3, 70.0, -0.2], dtype=torch.float64)
    streams.observe(torch.tensor([0, 1, 0, 1, 0]), gaps, gaps, torch.zeros(5))
    first, second = streams.states
    assert first.gamma and second.gamma
    assert first.gamma.queue.tolist() == [0.1, 0.3, -0.2] and second.gamma.queue.tolist() == [50.0, 70.0]
    again = of("gamma-dpo", None, beta=1.0, tau=0.3)
    again.load_state_dict(streams.state_dict())
    batch = mixed([EASY, WRONG, SHORT, LONG], [0, 1, 1, 0])
    one, other = (each.losses(batch, [(2, 25), (2, 13)])[0].margins_B for each in (streams, again))
    assert torch.equal(one, other)
    exchanged = replace(batch, streams=torch.tensor([1, 0, 0, 1]))
    swapped = streams.losses(exchanged, [(2, 13), (2, 25)])[0].margins_B
    assert not torch.isclose(one, swapped).any()


# --- the weight of least error


def least_error(bias: float, first: float, second: float) -> float:
    """By a grid: (1 - a)^2 (bias + second) + a^2 first, the mean squared error of the weighted sum."""
    grid = [k / 100_000 for k in range(100_001)]
    return min(grid, key=lambda a: (1 - a) ** 2 * (bias + second) + a * a * first)


@pytest.mark.parametrize(("first", "second", "shift"), [(1.0, 1.0, 0.0), (4.0, 0.5, 0.3), (0.1, 2.0, 1.0)])
def test_the_estimated_weight_is_the_best_of_a_grid(first: float, second: float, shift: float) -> None:
    """Over many steps of 6 and 4 pairs, their gradients normal around means that are `shift` apart in each channel."""
    generator = torch.Generator().manual_seed(0)
    balance = Balance(0.5, momentum=0.999)
    streams, channels = torch.tensor([0] * 6 + [1] * 4), 16
    for _ in range(4000):
        noise = torch.randn(10, channels, generator=generator, dtype=torch.float64)
        spread = torch.where(streams == 0, first, second).sqrt()[:, None]
        balance.observe(noise * spread + shift * streams[:, None], streams)
    bias, noises = channels * shift**2, (channels * first / 6, channels * second / 4)
    assert balance.weight == pytest.approx(least_error(bias, *noises), abs=0.02)


def test_one_step_by_hand() -> None:
    balance = Balance(0.25, momentum=0.9)
    assert balance.weight == 0.25
    balance.observe(torch.ones(3, 2), torch.tensor([0, 0, 1]))  # one pair has no spread
    assert balance.weight == 0.25 and not balance.steps
    balance.observe(torch.tensor([[1.0, 0], [3, 0], [0, 8], [0, 4]]), torch.tensor([0, 0, 1, 1]))
    noise = (2 / 2, 8 / 2)  # variances 2 and 8, of two pairs each
    bias = 2**2 + 6**2 - sum(noise)
    assert balance.weight == pytest.approx((bias + noise[1]) / (bias + sum(noise)))
    assert balance.weight == pytest.approx(least_error(bias, *noise), abs=1e-4)
    again = Balance(0.25, momentum=0.9)
    again.load_state_dict(balance.state_dict())
    assert again.weight == balance.weight


def test_a_weight_is_never_none_at_all() -> None:
    """Where one stream has no noise and no bias against the other, the other still counts for something."""
    for noisy, weight in ((0, 1e-3), (1, 1 - 1e-3)):
        balance = Balance(0.5, momentum=0.0)
        gradients = torch.zeros(4, 2)
        gradients[2 * noisy : 2 * noisy + 2] = torch.tensor([[5.0, 0], [-5, 0]])
        balance.observe(gradients, torch.tensor([0, 0, 1, 1]))
        assert balance.weight == pytest.approx(weight)
