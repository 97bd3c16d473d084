"""Order, routes and flips on cases small enough to work by hand."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Schedule
from pipeline.errors import UserError
from pipeline.schedule import Candidate, make_schedule, margin, uniform

# Score margins: a 0.1, b 0.4, c -0.2, d 0.8.
SCORED = [Candidate("a", 0.6, 0.5), Candidate("b", 0.9, 0.5), Candidate("c", 0.1, 0.3), Candidate("d", 0.9, 0.1)]


def schedule(pairs: list[Candidate], **settings: Any) -> list[dict[str, Any]]:
    return make_schedule(pairs, Schedule(**settings))


def ids(rows: list[dict[str, Any]]) -> str:
    return "".join(row["pair_id"] for row in rows)


def sft(rows: list[dict[str, Any]]) -> set[str]:
    return {row["pair_id"] for row in rows if row["route"] == "sft"}


def test_order_by_hand() -> None:
    easy = schedule(SCORED, order="easy-to-hard")
    assert ids(easy) == "dbac" and ids(schedule(SCORED, order="hard-to-easy")) == "cabd"
    assert [row["position"] for row in easy] == [0, 1, 2, 3]
    assert [row["difficulty"] for row in easy] == pytest.approx([-0.8, -0.4, -0.1, 0.2])


@pytest.mark.parametrize(
    ("percentile", "expected"), [(0, ""), (24.9, ""), (25, "c"), (50, "ca"), (74, "ca"), (100, "abcd")]
)
def test_percentile_takes_the_hardest_rounded_down(percentile: float, expected: str) -> None:
    assert sft(schedule(SCORED, order="easy-to-hard", sft_percentile=percentile)) == set(expected)


@pytest.mark.parametrize(("below", "expected"), [(-1.0, ""), (0.0, "c"), (0.4, "ca"), (5.0, "abcd")])
def test_threshold_is_strict(below: float, expected: str) -> None:
    assert sft(schedule(SCORED, sft_below=below)) == set(expected)


def test_margins_by_hand() -> None:
    pair = Candidate("a", 0.6, 0.5, chosen_logps=-12.0, rejected_logps=-10.0, chosen_tokens=6, rejected_tokens=4)
    assert margin(pair, "score-margin") == pytest.approx(0.1)
    assert margin(pair, "reference-gap") == -2.0
    assert margin(pair, "reference-gap-per-token") == pytest.approx(-2.0 + 2.5)
    assert margin(Candidate("a"), "reference-gap") is None


def test_ties_are_broken_by_a_hash_of_seed_and_id() -> None:
    tied = [Candidate(f"pair-{i}", 1.0, 0.5) for i in range(6)]
    expected = sorted((pair.pair_id for pair in tied), key=lambda pair_id: uniform("tie", 7, pair_id))
    assert [row["pair_id"] for row in schedule(tied, order="hard-to-easy", seed=7)] == expected
    assert sft(schedule(tied, order="hard-to-easy", seed=7, sft_percentile=50)) == set(expected[:3])
    assert [row["pair_id"] for row in schedule(tied, order="hard-to-easy", seed=8)] != expected


@given(
    order=st.permutations(range(12)),
    settings=st.fixed_dictionaries(
        {
            "order": st.sampled_from(["shuffle", "easy-to-hard", "hard-to-easy"]),
            "sft_percentile": st.sampled_from([None, 33.0]),
            "flip_fraction": st.sampled_from([0.0, 0.3]),
            "epochs": st.integers(1, 2),
        }
    ),
)
def test_the_order_of_the_input_does_not_matter(order: list[int], settings: dict[str, Any]) -> None:
    pairs = [Candidate(f"p{i}", (i % 4) / 4, 0.5) for i in range(12)]
    assert schedule([pairs[i] for i in order], **settings) == schedule(pairs, **settings)


def test_flips_are_of_the_pair_and_near_the_fraction() -> None:
    pairs = [Candidate(f"p{i}", i / 4000, 0.0) for i in range(4000)]
    flipped = {row["pair_id"] for row in schedule(pairs, order="shuffle", flip_fraction=0.2) if row["flipped"]}
    sigma = math.sqrt(0.2 * 0.8 / 4000)
    assert abs(len(flipped) / 4000 - 0.2) < 4 * sigma
    again = schedule(pairs, order="easy-to-hard", flip_fraction=0.2, epochs=2)
    assert {row["pair_id"] for row in again if row["flipped"]} == flipped
    more = {row["pair_id"] for row in schedule(pairs, order="shuffle", flip_fraction=0.4) if row["flipped"]}
    assert flipped < more  # a larger share flips the same pairs and others
    other = {row["pair_id"] for row in schedule(pairs, order="shuffle", flip_fraction=0.2, seed=1) if row["flipped"]}
    assert len(flipped & other) / 4000 == pytest.approx(0.04, abs=4 * math.sqrt(0.04 * 0.96 / 4000))


def test_scores_and_difficulty_are_blind_to_flips() -> None:
    plain = schedule(SCORED, order="easy-to-hard", sft_percentile=50)
    noisy = schedule(SCORED, order="easy-to-hard", sft_percentile=50, flip_fraction=1.0)
    assert all(row["flipped"] for row in noisy)
    assert [row | {"flipped": False} for row in noisy] == plain


def test_epochs_repeat_every_pair_shuffled_anew() -> None:
    pairs = [Candidate(f"p{i:02}", 1.0, 0.0) for i in range(20)]
    rows = schedule(pairs, order="shuffle", epochs=3)
    epochs = [[row["pair_id"] for row in rows[20 * k : 20 * (k + 1)]] for k in range(3)]
    assert [row["position"] for row in rows] == list(range(60))
    assert all(sorted(epoch) == [pair.pair_id for pair in pairs] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != sorted(epochs[0])


@pytest.mark.parametrize("lacking", [None, math.nan, math.inf])
@pytest.mark.parametrize("settings", [{"order": "easy-to-hard"}, {"sft_percentile": 10}, {"sft_below": 0.0}])
def test_a_pair_without_a_margin_is_named_where_one_is_needed(lacking: float | None, settings: dict[str, Any]) -> None:
    pairs = [*SCORED, Candidate("no-score", lacking, 0.5)]
    with pytest.raises(UserError, match=r"score-margin: pair no-score .*\n.*reference-gap-per-token"):
        schedule(pairs, **settings)
    assert len(schedule(pairs, order="shuffle")) == 5
