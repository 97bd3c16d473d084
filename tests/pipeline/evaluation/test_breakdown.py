"""What the questions got, grouped: by hand, and in agreement with the score of the match."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.breakdown import Value, by_category, by_number, differences, length_parts


def test_categories_by_hand() -> None:
    values = [Value("a", 1.0), Value("b", 0.5), Value("c", 0.0), Value("d", 0.25), Value("e", 1.0)]
    koala, vicuna = by_category(values, {"a": "vicuna", "b": "koala", "c": "koala", "d": "koala"})
    assert (koala.name, koala.questions, koala.mean.value, koala.at) == ("koala", 3, 0.25, None)
    assert 0 <= koala.mean.low < 0.25 < koala.mean.high <= 0.5
    # One question is always drawn again: the interval is that of one trial, and a count says why.
    assert (vicuna.name, vicuna.questions) == ("vicuna", 1)
    assert (vicuna.mean.low, vicuna.mean.value, vicuna.mean.high) == pytest.approx((0.2065, 1.0, 1.0), abs=1e-4)
    (rated,) = by_category([Value("a", 10.0)], {"a": "vicuna"}, scale=(1, 10))
    assert rated.mean.low == pytest.approx(1 + 9 * 0.2065, abs=1e-3)


def test_the_turns_of_a_question_are_drawn_together() -> None:
    """Two questions rated 2, 2 and 8, 8: a resample's mean is 2, 5 or 8, where single turns would give 3.5 too."""
    values = [Value("a", 2.0), Value("a", 2.0), Value("b", 8.0), Value("b", 8.0)]
    (group,) = by_category(values, {"a": "math", "b": "math"})
    assert (group.questions, group.mean.value, group.mean.low, group.mean.high) == (2, 5.0, 2.0, 8.0)


def test_quartiles_by_hand() -> None:
    numbers = {str(number): 10 * number for number in range(1, 9)}
    groups = by_number([Value(name, float(int(name) > 6)) for name in numbers], numbers, 4)
    assert [group.name for group in groups] == ["10 to 20", "30 to 40", "50 to 60", "70 to 80"]
    assert [(group.questions, group.at, group.mean.value) for group in groups] == [
        *((2, 15.0, 0.0), (2, 35.0, 0.0)),
        *((2, 55.0, 0.0), (2, 75.0, 1.0)),
    ]


def test_equal_lengths_stay_together_and_unknown_ones_are_left_out() -> None:
    numbers = dict.fromkeys("abcd", 5) | dict.fromkeys("efgh", -1200)
    groups = by_number([Value(name, 0.5) for name in "abcdefghi"], numbers, 4)
    assert [(group.name, group.questions) for group in groups] == [("\N{MINUS SIGN}1,200", 4), ("5", 4)]
    assert by_number([Value("z", 1.0)], numbers, 4) == []


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.integers(1, 8))
def test_parts_hold_every_value_once_and_do_not_overlap(lengths: list[int], parts: int) -> None:
    numbers = {str(place): length for place, length in enumerate(lengths)}
    groups = by_number([Value(name, 1.0) for name in numbers], numbers, parts, resamples=2)
    assert sum(group.questions for group in groups) == len(lengths) and len(groups) <= parts
    ends = [[int(end.replace("\N{MINUS SIGN}", "-")) for end in group.name.split(" to ")] for group in groups]
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(ends))


def test_the_mean_over_groups_is_the_score() -> None:
    draw = random.Random(3)
    values = [Value(str(place), draw.random()) for place in range(101)]
    groups = by_number(values, {value.question_id: draw.randrange(400) for value in values}, 4)
    total = sum(group.questions * group.mean.value for group in groups)
    assert total / 101 == pytest.approx(sum(value.value for value in values) / 101)


def test_lengths_are_compared_where_both_answered() -> None:
    assert differences({"a": "four", "b": "", "c": "x"}, {"a": "1", "b": "two", "z": "?"}) == {"a": 3, "b": -3}
    assert [length_parts(count) for count in (1, 9, 25, 79, 805)] == [1, 1, 2, 7, 8]
