"""Order, routes and flips on cases small enough to work by hand."""

import math
import re
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.randomness import uniform
from pipeline.results.tables import SCHEDULE
from pipeline.settings.config import RunConfig
from pipeline.settings.training import Schedule
from pipeline.training import schedule as module
from pipeline.training.schedule import make_schedule, margins
from tests.pipeline.training import restated_schedule
from tests.pipeline.training.restated_schedule import Candidate, rows_of_schedule, scheduled_rows, table_of

# Score margins: a 0.1, b 0.4, c -0.2, d 0.8.
SCORED = [Candidate("a", 0.6, 0.5), Candidate("b", 0.9, 0.5), Candidate("c", 0.1, 0.3), Candidate("d", 0.9, 0.1)]
BY = ("score-margin", "reference-gap", "reference-gap-per-token", "column")


def schedule(pairs: list[Candidate], **settings: Any) -> list[dict[str, Any]]:
    return scheduled_rows(pairs, Schedule(**settings))


def ids(rows: list[dict[str, Any]]) -> str:
    return "".join(row["pair_id"] for row in rows)


def routed(rows: list[dict[str, Any]], route: str) -> str:
    """The ids of a route, in the table's order."""
    return ids([row for row in rows if row["route"] == route])


def sft(rows: list[dict[str, Any]]) -> set[str]:
    return {row["pair_id"] for row in rows if row["route"] == "sft"}


def trained(rows: list[dict[str, Any]]) -> list[str]:
    return [row["pair_id"] for row in rows if row["route"] != "drop"]


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


def test_at_random_the_seed_decides_who_goes_to_sft_whatever_the_scores() -> None:
    def taken(seed: int, scored: bool = True) -> set[str]:
        pairs = [Candidate(f"p{i}", i / 40 if scored else None, 0.0 if scored else None) for i in range(40)]
        return sft(schedule(pairs, order="shuffle", difficulty="random", sft_percentile=25, seed=seed))

    assert len(taken(0)) == 10 and taken(0) == taken(0, scored=False) != taken(1)
    rows = schedule(SCORED, order="easy-to-hard", difficulty="random")
    found = {row["pair_id"]: row["difficulty"] for row in rows}
    assert found == {pair: -uniform("difficulty", 0, pair) for pair in "abcd"}
    assert list(found.values()) == sorted(found.values())


@pytest.mark.parametrize(("below", "expected"), [(-1.0, ""), (0.0, "c"), (0.4, "ca"), (5.0, "abcd")])
def test_threshold_is_strict(below: float, expected: str) -> None:
    assert sft(schedule(SCORED, sft_below=below)) == set(expected)


def test_a_percentage_means_what_is_written() -> None:
    pairs = [Candidate(f"p{i}", i / 375, 0.0) for i in range(375)]
    assert 375 * 18.4 / 100 < 69  # in floats
    assert len(sft(schedule(pairs, order="shuffle", sft_percentile=18.4))) == 69


@pytest.mark.parametrize(
    ("settings", "expected"),  # hardest first: c, a, b, d
    [
        ({"drop_percentile": 0}, ("dbac", "", "")),
        ({"drop_percentile": 24.9}, ("dbac", "", "")),
        ({"drop_percentile": 50}, ("db", "", "ca")),
        ({"drop_percentile": 50, "drop": "easiest"}, ("ac", "", "bd")),
        ({"drop_percentile": 99.9}, ("d", "", "cab")),
        ({"drop_percentile": 99.9, "drop": "easiest"}, ("c", "", "abd")),
        ({"drop_percentile": 25, "sft_percentile": 25}, ("db", "a", "c")),  # a share of all four, of the kept hardest
        ({"drop_percentile": 25, "drop": "easiest", "sft_percentile": 50}, ("b", "ac", "d")),
        ({"drop_percentile": 50, "sft_percentile": 75}, ("", "db", "ca")),  # more than are kept: all of them
        ({"drop_percentile": 25, "sft_below": 0.2}, ("db", "a", "c")),
    ],
)
def test_drops_come_first_and_stand_last(settings: dict[str, Any], expected: tuple[str, str, str]) -> None:
    rows = schedule(SCORED, order="easy-to-hard", **settings)
    assert tuple(routed(rows, route) for route in ("preference", "sft", "drop")) == expected
    assert ids(rows).endswith(expected[2]) and [row["position"] for row in rows] == [0, 1, 2, 3]


def test_a_dropped_pair_stands_once_however_many_epochs() -> None:
    rows = schedule(SCORED, order="hard-to-easy", drop_percentile=50, epochs=3, flip_fraction=1.0)
    assert ids(rows) == "bd" * 3 + "ca" and [row["position"] for row in rows] == list(range(8))
    assert all(row["flipped"] for row in rows)


def test_windows_by_hand() -> None:
    pairs = [Candidate(f"p{i}", difficulty=i) for i in range(7)]
    settings: dict[str, Any] = {"difficulty": "column", "order": "easy-to-hard", "seed": 5, "epochs": 2}
    rows = trained(schedule(pairs, window=3, **settings))
    for epoch in range(2):
        for run, got in (("012", rows[:3]), ("345", rows[3:6]), ("6", rows[6:7])):
            assert got == sorted((f"p{i}" for i in run), key=lambda pair_id: uniform("window", 5, epoch, pair_id))
        rows = rows[7:]
    assert schedule(pairs, window=1, **settings) == schedule(pairs, **settings)
    assert schedule(pairs, window=7, **settings) != schedule(pairs, **settings)


def test_a_window_needs_an_order() -> None:
    with pytest.raises(UserError, match=r"schedule.window=4 .*order=shuffle.*\n.*easy-to-hard") as caught:
        Schedule(order="shuffle", window=4)
    with pytest.raises(UserError, match=re.escape(caught.value.problem)):  # the order that the objective asks for
        RunConfig.model_validate({"model": {"source": "m"}, "objective": "dpo", "schedule": {"window": 4}})
    mixed = RunConfig.model_validate({"model": {"source": "m"}, "objective": "mixdpo", "schedule": {"window": 4}})
    assert mixed.schedule.window == 4


def test_margins_by_hand() -> None:
    pair = Candidate("a", 0.6, 0.5, chosen_logps=-12.0, rejected_logps=-10.0, chosen_tokens=6, rejected_tokens=4)

    def margin(pair: Candidate, by: str) -> Any:
        (value,) = margins(table_of([pair]), by).to_pylist()
        return value

    assert margin(pair, "score-margin") == pytest.approx(0.1)
    assert margin(pair, "reference-gap") == -2.0
    assert margin(pair, "reference-gap-per-token") == pytest.approx(-2.0 + 2.5)
    assert margin(Candidate("a", 0.6, 0.5, difficulty=2.5), "column") == -2.5
    for by in BY:
        assert margin(Candidate("a"), by) is None
        assert margins(table_of([pair]).select(["pair_id"]), by).to_pylist() == [None]


def test_the_data_s_own_difficulty_orders_and_needs_no_scores() -> None:
    hardness = {"a": 3.0, "b": -1.0, "c": 0.0, "d": 7.5}
    pairs = [Candidate(pair_id, difficulty=value) for pair_id, value in hardness.items()]
    rows = schedule(pairs, difficulty="column", order="easy-to-hard", drop_percentile=25)
    assert ids(rows) == "bcad" and routed(rows, "drop") == "d"
    assert {row["pair_id"]: row["difficulty"] for row in rows} == hardness


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
            "order": st.sampled_from(["easy-to-hard", "hard-to-easy"]),
            "window": st.sampled_from([None, 3]),
            "sft_percentile": st.sampled_from([None, 33.0]),
            "drop_percentile": st.sampled_from([None, 30.0]),
            "flip_fraction": st.sampled_from([0.0, 0.3]),
            "epochs": st.integers(1, 2),
        }
    ),
)
def test_the_order_of_the_input_does_not_matter(order: list[int], settings: dict[str, Any]) -> None:
    pairs = [Candidate(f"p{i}", (i % 4) / 4, 0.5) for i in range(12)]
    assert schedule([pairs[i] for i in order], **settings) == schedule(pairs, **settings)
    shuffled = settings | {"order": "shuffle", "window": None}
    assert schedule([pairs[i] for i in order], **shuffled) == schedule(pairs, **shuffled)


@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=25),
    order=st.sampled_from(["shuffle", "easy-to-hard", "hard-to-easy"]),
    window=st.integers(1, 30),
    epochs=st.integers(1, 3),
    drop=st.sampled_from(["hardest", "easiest"]),
    tenths=st.integers(0, 999),  # of a percent, dropped
    to_sft=st.floats(0, 100),
    seed=st.integers(0, 99),
)
def test_every_pair_is_trained_once_an_epoch_or_dropped_once(
    scores: list[float], order: str, window: int, epochs: int, drop: str, tenths: int, to_sft: float, seed: int
) -> None:
    pairs = [Candidate(f"p{i}", score, 0.0) for i, score in enumerate(scores)]
    settings: dict[str, Any] = {"order": order, "seed": seed, "flip_fraction": 0.5}
    plain = schedule(pairs, **settings)
    cuts: dict[str, Any] = {"drop": drop, "drop_percentile": tenths / 10, "sft_percentile": to_sft}
    if order != "shuffle":
        cuts["window"] = window
    rows = schedule(pairs, **settings, **cuts, epochs=epochs)

    assert [row["position"] for row in rows] == list(range(len(rows)))
    kept = len(trained(rows)) // epochs
    left_out = [row["pair_id"] for row in rows[kept * epochs :]]
    assert routed(rows, "drop") == "".join(left_out) and len(left_out) == len(pairs) * tenths // 1000
    for epoch in range(epochs):
        here = [row["pair_id"] for row in rows[kept * epoch : kept * (epoch + 1)]]
        assert sorted(here + left_out) == sorted(pair.pair_id for pair in pairs)
        if order != "shuffle":  # never across a window: a pair stays in its run of the order without windows
            straight = [row["pair_id"] for row in plain if row["pair_id"] in set(here)]
            for start in range(0, kept, window):
                assert sorted(here[start : start + window]) == sorted(straight[start : start + window])
    easy, hard = ([row["difficulty"] for row in rows if row["route"] == route] for route in ("preference", "sft"))
    assert max(easy, default=-math.inf) <= min(hard, default=math.inf)
    noisy = {row["pair_id"]: row["flipped"] for row in plain}  # of the pairs alone: whatever becomes of them
    assert all(row["flipped"] == noisy[row["pair_id"]] for row in rows)


def flipped(pairs: list[Candidate], **settings: Any) -> set[str]:
    return {row["pair_id"] for row in schedule(pairs, **{"order": "shuffle"} | settings) if row["flipped"]}


@pytest.mark.parametrize(
    ("pairs", "share", "count"), [(24, 0.25, 6), (448, 0.2, 90), (448, 0.4, 179), (100, 0.29, 29), (10, 0.04, 0)]
)
def test_as_many_are_flipped_as_the_share_says(pairs: int, share: float, count: int) -> None:
    candidates = [Candidate(f"p{i}", i, 0.0) for i in range(pairs)]
    for seed in range(5):
        assert len(flipped(candidates, flip_fraction=share, seed=seed)) == count
    rows = schedule(candidates, order="easy-to-hard", flip_fraction=share, epochs=2, drop_percentile=50)
    assert len({row["pair_id"] for row in rows if row["flipped"]}) == count  # of all, whatever their route


@given(st.integers(0, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_a_larger_share_flips_the_same_pairs_and_others(count: int, one: float, other: float, seed: int) -> None:
    pairs = [Candidate(f"p{i}") for i in range(count)]
    less, more = (flipped(pairs, flip_fraction=share, seed=seed) for share in sorted((one, other)))
    assert less <= more and abs(len(more) - max(one, other) * count) <= 0.5 + 1e-9


def test_flips_are_of_the_pair_and_the_seed() -> None:
    pairs = [Candidate(f"p{i}", i / 4000, 0.0) for i in range(4000)]
    one = flipped(pairs, flip_fraction=0.2)
    assert flipped(pairs[::-1], flip_fraction=0.2, order="easy-to-hard", epochs=2) == one
    both = len(one & flipped(pairs, flip_fraction=0.2, seed=1)) / 4000
    assert both == pytest.approx(0.04, abs=4 * math.sqrt(0.04 * 0.96 / 4000))
    half = flipped(pairs[::2], flip_fraction=0.2)  # in a part of the data almost the same of its pairs
    assert len(half) == 400 and len(half - one) < 50


def test_scores_and_difficulty_are_blind_to_flips() -> None:
    settings: dict[str, Any] = {"order": "easy-to-hard", "sft_percentile": 50, "drop_percentile": 25, "window": 2}
    plain, noisy = schedule(SCORED, **settings), schedule(SCORED, **settings, flip_fraction=1.0)
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
@pytest.mark.parametrize(
    "settings", [{"order": "easy-to-hard"}, {"sft_percentile": 10}, {"sft_below": 0.0}, {"drop_percentile": 10}]
)
def test_a_pair_without_a_margin_is_named_where_one_is_needed(lacking: float | None, settings: dict[str, Any]) -> None:
    pairs = [*SCORED, Candidate("no-score", lacking, 0.5)]
    with pytest.raises(UserError, match=r"score-margin: pair no-score .*\n.*reference-gap-per-token"):
        schedule(pairs, **settings)
    assert len(schedule(pairs, order="shuffle")) == 5
    assert len(schedule(pairs, order="shuffle", difficulty="column")) == 5


def test_the_remedy_is_that_of_the_difficulty_asked_for() -> None:
    known = Candidate("known", 1.0, 0.0, -1.0, -2.0, difficulty=1.0)
    with pytest.raises(UserError, match=r"difficulty=column: pair bare .*\n.*data.difficulty_column"):
        schedule([known, Candidate("bare", 1.0, 0.0, -1.0, -2.0)], order="easy-to-hard", difficulty="column")
    unscored = [Candidate("known", None, None, -1.0, -2.0), Candidate("bare", 1.0, 0.0, difficulty=1.0)]
    with pytest.raises(UserError, match=r"difficulty=reference-gap: pair bare .*\n.*reference log-probs"):
        schedule(unscored, order="easy-to-hard", difficulty="reference-gap")
    assert len(schedule(unscored[:1], order="easy-to-hard", difficulty="reference-gap")) == 1


# Few of each, so that pairs tie; what has no finite value; both zeros.
_VALUES = st.sampled_from([None, 0.0, -0.0, 0.25, 1.0, 0.1 + 0.2, -3.5, 1e300, math.nan, math.inf, -math.inf])
_FINITE = st.sampled_from([0.0, -0.0, 0.25, 1.0, -3.5])


def candidates(values: st.SearchStrategy[float | None]) -> st.SearchStrategy[list[Candidate]]:
    counts = st.integers(1, 3)
    known = st.tuples(values, values, values, values, counts, counts, values)
    ids = st.text(st.characters(codec="utf-8"), max_size=3) | st.integers(0, 2**128 - 1).map("{:032x}".format)
    each = st.tuples(ids, known).map(lambda pair: Candidate(pair[0], *pair[1]))
    return st.lists(each, max_size=30, unique_by=lambda pair: pair.pair_id)


@st.composite
def all_settings(draw: st.DrawFn) -> Schedule:
    order: Any = draw(st.sampled_from([None, "shuffle", "easy-to-hard", "hard-to-easy"]))
    share = st.none() | st.sampled_from([0.0, 10.0, 33.3, 50.0, 99.9])
    return Schedule(
        order=order,
        window=None if order == "shuffle" else draw(st.none() | st.integers(1, 40)),
        difficulty=draw(st.sampled_from(BY)),
        drop_percentile=draw(share),
        drop=draw(st.sampled_from(["hardest", "easiest"])),
        sft_percentile=draw(share),
        sft_below=draw(st.none() | _FINITE),
        flip_fraction=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        epochs=draw(st.integers(1, 3)),
        seed=draw(st.sampled_from([0, 7, -1, 10**12])),
    )


def bits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with numbers as their bytes: 0.0 and -0.0 are two, NaN is itself."""
    return [
        row | {"difficulty": None if row["difficulty"] is None else struct.pack("d", row["difficulty"])} for row in rows
    ]


@pytest.mark.parametrize("hashes", [2**56, 3])  # with a hash of three values most of what ties is alike in it, too
@given(pairs=candidates(_FINITE) | candidates(_VALUES), settings=all_settings())
def test_columns_are_the_definition_to_the_last_bit(hashes: int, pairs: list[Candidate], settings: Schedule) -> None:
    def coarse(*key: object) -> float:
        return int(uniform(*key) * hashes) / hashes

    def coarse_of_rows(pair_ids: Any, rows: Any, *key: object) -> Any:
        return np.floor(uniforms(pair_ids, rows, *key) * hashes) / hashes

    uniforms = module.uniforms
    with pytest.MonkeyPatch.context() as patch:
        if hashes < 2**56:
            patch.setattr(module, "uniforms", coarse_of_rows)
            patch.setattr(restated_schedule, "uniform", coarse)
        try:
            expected = rows_of_schedule(pairs, settings)
        except UserError as error:
            with pytest.raises(UserError, match=re.escape(str(error))):
                scheduled_rows(pairs, settings)
        else:
            assert bits(scheduled_rows(pairs, settings)) == bits(expected)


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=80)), st.integers(-(10**20), 10**20), st.text())
def test_hashes_of_columns_are_the_hashes_of_rows(pair_ids: list[str], seed: int, word: str) -> None:
    word = word.encode(errors="replace").decode()
    found = module.uniforms(pa.array(pair_ids, pa.large_string()), np.arange(len(pair_ids)), word, seed)
    assert found.tolist() == [uniform(word, seed, pair_id) for pair_id in pair_ids]


def test_the_table_is_laid_out_in_groups() -> None:
    pairs = [Candidate(f"p{i}", i % 5, 0.0) for i in range(50)]
    made = make_schedule(table_of(pairs), Schedule(order="shuffle", epochs=2, flip_fraction=0.1, drop_percentile=20))
    groups = list(made.tables(rows=9))
    assert [group.num_rows for group in groups] == [9] * 10 and all(group.schema == SCHEDULE for group in groups)
    rows = pa.concat_tables(groups).to_pylist()
    assert rows == pa.concat_tables(made.tables()).to_pylist()
    counts = {route: len([row for row in rows if row["route"] == route]) for route in ("preference", "sft", "drop")}
    noisy = len([row for row in rows if row["flipped"] and row["route"] != "drop"])
    assert made.counts() == counts | {"flipped": noisy}


def test_what_has_values_of_its_own_is_not_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    uniforms = module.uniforms

    def counted(pair_ids: Any, rows: Any, *key: object) -> Any:
        hashed.append(len(rows))
        return uniforms(pair_ids, rows, *key)

    monkeypatch.setattr(module, "uniforms", counted)
    pairs = table_of([Candidate(f"p{i}", float(min(i, 90)), 0.0) for i in range(100)])  # the last ten tie
    make_schedule(pairs, Schedule(order="easy-to-hard"))
    assert hashed == [10]
    hashed.clear()
    make_schedule(pairs, Schedule(order="shuffle", epochs=2))
    assert hashed == [100, 100]


def test_labels_the_other_way_round() -> None:
    """All of them, so that what noise had flipped is right again, and nothing else of the schedule moves."""
    for fraction in (0.0, 0.5, 1.0):
        given = {"order": "easy-to-hard", "flip_fraction": fraction, "epochs": 2}
        right, wrong = schedule(SCORED, **given), schedule(SCORED, **given, swap_labels=True)
        for a, b in zip(right, wrong, strict=True):
            assert b["flipped"] is not a["flipped"] and a | {"flipped": None} == b | {"flipped": None}
    assert schedule(SCORED, swap_labels=True) == schedule(SCORED, flip_fraction=1.0)
