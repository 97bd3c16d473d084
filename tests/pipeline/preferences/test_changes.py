"""Which tokens of two completions differ, by hand and for any two."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.preferences.changes import changed

IDS = st.lists(st.integers(3, 8), max_size=30)


def marks(chosen: str, rejected: str) -> tuple[str, str]:
    """With ^ below each letter that is changed."""
    one, other = changed([*map(ord, chosen)], [*map(ord, rejected)])
    return tuple("".join("^" if each else "." for each in side) for side in (one, other))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("same.", "same.", (".....", ".....")),
        ("red car.", "bad car.", ("^^......", "^^......")),
        ("abc", "abXc", ("...", "..^.")),
        ("abXc", "abc", ("..^.", "...")),
        ("", "ab", ("", "^^")),
        ("xy", "ab", ("^^", "^^")),
    ],
)
def test_by_hand(chosen: str, rejected: str, expected: tuple[str, str]) -> None:
    assert marks(chosen, rejected) == expected


@given(IDS, IDS)
def test_what_is_not_changed_is_the_same_on_both_sides(chosen: list[int], rejected: list[int]) -> None:
    differs = changed(chosen, rejected)
    kept = [
        [id_ for id_, is_changed in zip(ids, marks, strict=True) if not is_changed]
        for ids, marks in zip((chosen, rejected), differs, strict=True)
    ]
    assert kept[0] == kept[1]
    assert changed(rejected, chosen) == differs[::-1]
    if chosen == rejected:
        assert not any(differs[0])


def test_frequent_tokens_are_no_junk() -> None:
    """400 tokens of which few are common, 40 of them replaced: difflib's own heuristic finds more than were."""
    draw = random.Random(0)
    common = [draw.choice([5, 6, 7]) if draw.random() < 0.5 else draw.randrange(10, 4000) for _ in range(400)]
    edited = list(common)
    for place in draw.sample(range(400), 40):
        edited[place] = 5000 + place
    one, other = changed(common, edited)
    assert sum(one) == sum(other) == 40
