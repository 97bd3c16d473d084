import itertools
import math
from statistics import fmean

import pytest

from pipeline.statistics import (
    bootstrap_mean,
    clustered_mean,
    expected_best,
    kappa,
    over_seeds,
    paired,
    sign_test,
    wilson,
    win_rate,
)


def test_values_that_are_alike_have_the_interval_that_so_few_can_have():
    """Every resample is that value; Wilson's bound says how many others there may be: of none in 10, 27.75 %."""
    won, lost, tied = (bootstrap_mean([value] * 10) for value in (1.0, 0.0, 0.5))
    assert (won.low, won.high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert (lost.low, lost.high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert (tied.value, tied.low, tied.high) == pytest.approx((0.5, 0.5 - 0.2775 / 2, 0.5 + 0.2775 / 2), abs=1e-4)
    assert win_rate([1.0] * 10, [0.0] * 10).rate == won
    equal = paired(dict.fromkeys(range(10), 7.0), dict.fromkeys(range(10), 7.0), scale=(1, 10)).difference
    assert (equal.low, equal.value, equal.high) == pytest.approx((-9 * 0.2775, 0.0, 9 * 0.2775), abs=1e-3)
    conversations = clustered_mean([10.0] * 20, [*range(10)] * 2, within=(1, 10))
    assert (conversations.low, conversations.high) == pytest.approx((10 - 9 * 0.2775, 10.0), abs=1e-3)


def test_the_interval_has_the_width_that_normal_theory_gives():
    values = [0.0, 1.0] * 200  # standard error of the mean: 0.5 / sqrt(400) = 0.025
    interval = bootstrap_mean(values, resamples=4000)
    assert interval.value == 0.5
    assert math.isclose(interval.low, 0.5 - 1.96 * 0.025, abs_tol=0.004)
    assert math.isclose(interval.high, 0.5 + 1.96 * 0.025, abs_tol=0.004)


def test_the_seed_decides_the_resamples():
    values = [0.1, 0.4, 0.5, 0.9, 1.0]
    assert bootstrap_mean(values, 200, seed=1) == bootstrap_mean(values, 200, seed=1)
    assert bootstrap_mean(values, 200, seed=1) != bootstrap_mean(values, 200, seed=2)


def test_win_rate_by_hand():
    result = win_rate([1.0, 0.5, 0.5, 0.0], [0.0, 0.5, 0.25, 1.0])
    assert (result.wins, result.ties, result.losses) == (2, 1, 1)
    assert result.rate.value == 2.5 / 4
    assert 0 <= result.rate.low <= result.rate.value <= result.rate.high <= 1


def test_the_two_sides_of_a_win_rate_add_up_to_one():
    a, b = [0.2, 0.9, 0.9, 0.4, 0.1], [0.3, 0.3, 0.9, 0.2, 0.0]
    assert win_rate(a, b).rate.value + win_rate(b, a).rate.value == pytest.approx(1)


def test_nothing_to_average_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([])
    with pytest.raises(ValueError):
        win_rate([1.0], [1.0, 0.0])


def test_sign_test_by_hand():
    assert sign_test(0, 0) == sign_test(3, 3) == 1.0
    assert sign_test(5, 0) == pytest.approx(2 / 32)
    assert sign_test(1, 4) == pytest.approx(2 * (1 + 5) / 32)


def test_kappa_by_hand():
    """Cohen's own kind of table: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no."""
    ours = ["y"] * 25 + ["n"] * 25
    theirs = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert kappa(ours, theirs) == pytest.approx((0.7 - 0.5) / (1 - 0.5))
    assert kappa(["y"], ["y"]) is None


def test_paired_takes_what_both_have():
    found = paired({1: 1.0, 2: 0.5, 3: 0.0}, {2: 0.5, 1: 0.25, 4: 9.0}, resamples=50)
    assert (found.questions, found.higher, found.equal, found.lower) == (2, 1, 1, 0)
    assert found.difference.value == pytest.approx(0.375)
    with pytest.raises(ValueError, match="no values"):
        paired({1: 1.0}, {2: 1.0})


def test_the_turns_of_a_question_are_resampled_together() -> None:
    """Of two questions, one differs by 1 in both turns, the other by 0: a resample has 0, 1/2 or 1, never 1/4."""
    ours = {("a", 1): 1.0, ("a", 2): 1.0, ("b", 1): 0.0, ("b", 2): 0.0}
    theirs = dict.fromkeys(ours, 0.0)
    found = paired(ours, theirs, resamples=400)
    assert (found.difference.low, found.difference.value, found.difference.high) == (0.0, 0.5, 1.0)
    assert {round(100 * paired(ours, theirs, 1, seed).difference.low) for seed in range(40)} == {0, 50, 100}


def test_a_conversation_is_one_trial_of_the_sign_test() -> None:
    """Four conversations of two turns, all won: p is 2 / 2^4, not 2 / 2^8. Of a third, one turn is there alone."""
    ours = {(name, turn): 8.0 for name in "abcd" for turn in (1, 2)}
    theirs = dict.fromkeys(ours, 5.0)
    found = paired(ours, theirs, resamples=50)
    assert (found.questions, found.higher, found.p_value) == (4, 4, pytest.approx(0.125))
    even = paired({("a", 1): 9.0, ("a", 2): 1.0, ("b", 1): 3.0}, {("a", 1): 5.0, ("a", 2): 5.0, ("b", 2): 9.0}, 50)
    assert (even.questions, even.higher, even.equal, even.lower) == (1, 0, 1, 0)  # 4 more, and 4 less
    some = paired({("a", 1): 9.0, ("a", 2): 1.0, ("b", 1): 3.0}, {("a", 1): 5.0, ("b", 1): 4.0}, 50)
    assert (some.questions, some.higher, some.lower, some.difference.value) == (2, 1, 1, 1.5)  # of turns that both have


def test_clusters_are_drawn_whole():
    """Two clusters, of two equal values each: a resample is one of them, the other, or both."""
    found = clustered_mean([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], resamples=400, within=(0, 1))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    many = clustered_mean([0.0, 1.0] * 200, list(range(400)), resamples=400, within=(0, 1))
    assert many.high - many.low < 0.12


def test_the_expected_best_of_k_by_hand() -> None:
    """Of 1, 2 and 4: one is 7/3 in the mean; of the three pairs the best are 2, 4 and 4; of all three 4."""
    assert expected_best([4, 1, 2]) == pytest.approx([7 / 3, 10 / 3, 4])
    values = [0.3, 0.9, 0.1, 0.5, 0.5]
    for k, found in enumerate(expected_best(values), 1):
        assert found == pytest.approx(fmean(max(pick) for pick in itertools.combinations(values, k)))
    assert expected_best([0.5]) == [0.5] and expected_best([]) == []


def test_an_interval_over_seeds() -> None:
    two = over_seeds([0.6, 0.7])
    assert two is not None and (two.value, two.low, two.high) == pytest.approx((0.65, 0.0147, 1.2853), abs=1e-4)
    three = over_seeds([1, 2, 3])  # half of it: 4.3027 / sqrt(3)
    assert three is not None and (three.low, three.high) == pytest.approx((-0.4841, 4.4841), abs=1e-3)
    many = over_seeds([0, 1] * 10)  # t of 19 degrees of freedom is 2.0930, and the standard deviation 0.51299
    assert many is not None and many.high - many.low == pytest.approx(2 * 2.0930 * 0.51299 / 20**0.5, abs=1e-4)
    assert over_seeds([0.6]) is None and over_seeds([]) is None


def test_wilsons_interval() -> None:
    half = wilson(0.5, 100)
    assert (half.low, half.high) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    whole = wilson(1.0, 10)
    assert (whole.low, whole.high) == pytest.approx((0.7225, 1.0), abs=1e-4)
    with pytest.raises(ValueError, match="no trials"):
        wilson(0.5, 0)
