"""Answers, scores and pairs in figures, worked by hand; and what is warned of."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.onpolicy import describing
from pipeline.onpolicy.choosing_blocks import NONE, PAIRS, pair_all
from pipeline.onpolicy.describing import Described, Lengths, describe, warnings
from pipeline.results import tables
from pipeline.settings.onpolicy import Pair, Rate
from tests.pipeline.onpolicy.test_choosing_blocks import Row, candidate, score

Values = Mapping[str, Sequence[float | None]]


def described(tmp: Path, rows: Sequence[Row], scores: Values, coarse: Sequence[str] = (), **pair: Any) -> Described:
    """Of the files that the stages write; `scores` are by rater, a value a row."""
    rated = {name: [score(row, value, name) for row, value in zip(rows, scores[name], strict=True)] for name in scores}
    tables.write(rows, tables.CANDIDATES, tmp / "c.parquet")
    for name, each in rated.items():
        tables.write(each, tables.SCORES, tmp / f"s-{name}.parquet")
    files = [[tmp / f"s-{name}.parquet"] for name in rated]
    counts = pair_all([tmp / "c.parquet"], files, Rate(combine="mean"), Pair(**pair), tmp)
    ledger = {"prompts": counts.prompts, "paired": counts.paired, "unpaired": dict(counts.reasons), "beyond_cap": 0}
    assert tables.read(tmp, tables.UNPAIRED, pattern=NONE).num_rows == counts.reasons.total()
    found = {name: pa.Table.from_pylist(each, schema=tables.SCORES) for name, each in rated.items()}
    selected = tables.read(tmp, tables.SELECTED, pattern=PAIRS)
    return describe(pa.Table.from_pylist(rows, schema=tables.CANDIDATES), found, selected, ledger, coarse)


ROWS = [
    candidate(1, "a", [1, 2, 3, 4], logp=-2.0),
    candidate(1, "b", [1, 2, 9], logp=-6.0),
    candidate(1, "c", [5], "length", logp=-1.0),
    candidate(1, "c", [5], "length", logp=-1.0, sample=3),  # sampled twice
    candidate(2, "a", [7, 8], logp=-4.0),
    candidate(2, "b", [6, 6, 6, 6], logp=-4.0),
    candidate(2, "d", [6, 6, 7], answered_by="chosen", finish_reason="data"),
    candidate(2, "e", [7, 9], logp=-1.5, parent="2/a", prefix_tokens=1),
    candidate(3, "a", [1], logp=-0.5),
    candidate(3, "b", [2], logp=-0.5),
]
FIRST = [3.0, 1.0, 0.0, 0.0, 0.0, 2.0, 5.0, 1.0, 4.0, 4.0]
SECOND = [9.0, 7.0, 8.0, 8.0, 1.0, 2.0, None, 3.0, 0.0, 0.0]


def test_a_table_by_hand(tmp_path: Path) -> None:
    found = described(tmp_path, ROWS, {"one": FIRST, "two": SECOND}, among="trunks")
    assert (found.prompts, found.answers, found.distinct, found.cut) == (3, 10, 9, 2)
    assert (found.sampled, found.branches, found.pairs, found.paired) == (9, 1, 2, 2)
    assert found.unpaired == {"all-equal": 1} and found.without_pair == 1
    every, chosen, rejected, cut = (found.groups[name] for name in ("all", "chosen", "rejected", "cut"))
    # Means of both raters: 1/a 6, 1/b 4 (1/c is cut); 2/b 2, 2/a .5 (2/d has no second score, 2/e is a branch).
    assert (every.answers, chosen.answers, rejected.answers, cut.answers) == (10, 2, 2, 2)
    assert chosen.scores == {"one": 2.5, "two": 5.5} and rejected.scores == {"one": 0.5, "two": 4.0}
    assert (chosen.tokens, chosen.logp, chosen.logp_a_token) == (4.0, -3.0, -6 / 8)
    assert (rejected.logp, rejected.logp_a_token, cut.scores["two"]) == (-5.0, -10 / 5, 8.0)
    assert every.logp == pytest.approx(-20.5 / 9) and every.scores["two"] == pytest.approx(38 / 9)
    lengths = found.lengths
    assert lengths and (lengths.longer, lengths.points) == (1.0, [(1, 2.0), (2, 1.5)])
    assert lengths.correlation == pytest.approx(-1.0)
    assert (found.prefix_width, found.prefixes) == (1.0, {0: 1, 2: 1})
    # Prompt 1 alone has four answers of its own: 3, 1, 0, 0. Of its six pairs three hold 3, two more hold 1.
    one, two = found.rewards["one"], found.rewards["two"]
    assert one.best_of == pytest.approx([1.0, (3 * 3 + 2 * 1) / 6, (3 * 3 + 1) / 4, 3.0]) and one.prompts == 1
    assert (one.scored, one.distinct, two.scored, two.distinct) == (9, 6, 8, 7)
    assert one.counts["all"] and sum(one.counts["all"].values()) == 10 and sum(two.counts["all"].values()) == 9
    assert sum(one.counts["chosen"].values()) == 2 and one.rounded is None
    # Of different answers, within prompts. One: a>b>c, b>e>a, a=b; two: a>c>b, e>b>a, a=b: of six pairs four agree.
    assert found.agreement == [("one", "two", pytest.approx((4 - 2) / 6))]


def test_numbers_of_bfloat16(tmp_path: Path) -> None:
    """At 1 its neighbours are 2**-7 apart, at 0.1 2**-11."""
    rows = [candidate(prompt, name, [prompt, ord(name)]) for prompt in range(4) for name in "ab"]
    values = [1.0, 1.007, 1.0, 1.008, 0.1, 0.1004, 0.1, 0.1005]
    found = described(tmp_path, rows, {"rm": values, "plain": values}, coarse=["rm"])
    assert found.rewards["rm"].rounded == 0.5 and found.rewards["plain"].rounded is None
    assert "Of 50% of the pairs bfloat16 cannot tell apart the two scores by rm." in warnings(found)


def test_nothing_and_no_raters(tmp_path: Path) -> None:
    empty = described(tmp_path, [], {"one": []})
    assert (empty.prompts, empty.groups, empty.rewards, empty.lengths) == (0, {}, {}, None) and not warnings(empty)
    rows = [candidate(1, who, [number], answered_by=who) for number, who in enumerate(("model", "against"))]
    found = described(tmp_path, rows, {}, rule="delta")
    assert found.rewards == {} and found.lengths == Lengths(0.5, None, [])
    alone = described(tmp_path, ROWS[:2], {"one": [None, None]})
    assert alone.rewards == {} and alone.groups.keys() == {"all"} and alone.unpaired == {"unrated": 1}
    with pytest.raises(KeyError, match="1/a"):
        selected = tables.read(tmp_path, tables.SELECTED, pattern=PAIRS)
        described(tmp_path, ROWS[:2], {"one": [1.0, 0.0]})
        selected = tables.read(tmp_path, tables.SELECTED, pattern=PAIRS)
        describe(pa.Table.from_pylist(ROWS[4:], schema=tables.CANDIDATES), {}, selected, {"prompts": 1} | LEDGER)


LEDGER: dict[str, Any] = {"paired": 1, "unpaired": {}, "beyond_cap": 0}
SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.5]), min_size=5, max_size=5)


@given(st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=4))
def test_best_of_k_and_agreement_are_what_they_are_called(given: list[tuple[list[float], list[float]]]) -> None:
    """Against all draws of k, and all pairs, one by one."""
    names = [(f"p{prompt}", f"{prompt}/{sample}") for prompt in range(len(given)) for sample in range(5)]
    schema = tables.CANDIDATES
    rows = [candidate(0, "x", [1], sample=0) | {"prompt_id": prompt, "candidate_id": name} for prompt, name in names]
    scores = {
        f"r{rater}": pa.table(
            {"candidate_id": [name for _, name in names], "score": [value for each in given for value in each[rater]]}
        )
        for rater in (0, 1)
    }
    none = pa.Table.from_pylist([], schema=tables.SELECTED)
    ledger = {"prompts": len(given), "paired": 0, "unpaired": {}, "beyond_cap": 0}
    found = describe(pa.Table.from_pylist(rows[::-1], schema=schema), scores, none, ledger)
    for k, best in enumerate(found.rewards["r0"].best_of, 1):
        draws = [[max(each) for each in itertools.combinations(one, k)] for one, _ in given]
        assert best == pytest.approx(sum(sum(each) / len(each) for each in draws) / len(given))
    assert len(found.rewards["r0"].best_of) == 5
    signs = [
        (math.copysign(a != b, a - b), math.copysign(c != d, c - d))
        for one, other in given
        for (a, c), (b, d) in itertools.combinations(zip(one, other, strict=True), 2)
    ]
    ours, theirs = (sum(abs(each[side]) for each in signs) for side in (0, 1))
    ((_, _, tau),) = found.agreement
    if ours and theirs:
        assert tau == pytest.approx(sum(a * b for a, b in signs) / math.sqrt(ours * theirs))
    else:
        assert tau is None


def test_warnings(tmp_path: Path) -> None:
    """Beyond each bound one, and at the bound none."""
    found = described(tmp_path, ROWS, {"one": FIRST, "two": SECOND}, among="trunks")
    assert warnings(found) == [
        "2 of 9 sampled answers were cut at sample.max_new_tokens.",
        "1 of 3 prompts have no pair, most of them as all-equal.",
        "In 100% of the pairs the longer answer is the chosen one: length may be the reward.",
    ]
    one = found.rewards["one"]
    calm = dataclasses.replace(
        found, cut=1, sampled=5, prompts=10, unpaired={"tie": 2, "cut": 1}, lengths=Lengths(0.65, None, [])
    )
    rewards = {
        "few": dataclasses.replace(one, scored=100, distinct=50),
        "small": dataclasses.replace(one, scored=40, distinct=20, rounded=0.1),
    }
    assert warnings(dataclasses.replace(calm, rewards=rewards)) == []
    rewards["few"] = dataclasses.replace(one, scored=100, distinct=49)
    assert warnings(dataclasses.replace(calm, rewards=rewards)) == [
        "100 scores by few have 49 different values: many answers are equal."
    ]


def test_what_is_drawn_is_bounded_and_the_same_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [candidate(prompt, name, [prompt, *range(size)]) for prompt in range(30) for size, name in enumerate("ab")]
    values = [(number * 7919 % 60) / 7 for number in range(60)]
    every = described(tmp_path, rows, {"one": values}).lengths
    monkeypatch.setattr(describing, "MOST_POINTS", 10)
    some = described(tmp_path, rows, {"one": values}).lengths
    again = described(tmp_path, rows[::-1], {"one": values[::-1]}).lengths
    assert every and some and again and len(every.points) == 30 and len(some.points) == 10
    assert some.points == again.points and {*some.points} <= {*every.points}
    assert (some.longer, some.correlation) == (every.longer, every.correlation)
