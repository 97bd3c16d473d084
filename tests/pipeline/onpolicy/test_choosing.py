"""Rules against a table of four answers, worked by hand; and that no prompt is lost."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.onpolicy.choosing import REASONS, Chosen, choose, confidence
from pipeline.onpolicy.choosing_rules import RULES, Answer
from pipeline.onpolicy.combining import combined
from pipeline.settings.onpolicy import Contrast, Pair, Rate

BY = Rate()
# Margins: ab .4, ac .6, ad 1, bc .2, bd .6, cd .4; thirds of the widest: low bc, middle ab ac bd cd, high ad.
A = Answer("a", (1.0,), 10)
B = Answer("b", (0.6,), 40)
C = Answer("c", (0.4,), 30)
D = Answer("d", (0.0,), 12)
FOUR = [C, A, D, B]
MIDDLE = {"high": 0, "middle": 1, "low": 0}


def pairs(answers: list[Answer], rate: Rate = BY, **settings: Any) -> list[str]:
    return named(choose("p", answers, rate, Pair(**settings)))


def named(found: Chosen) -> list[str]:
    assert (found.reason is None) == bool(found.pairs)
    return [each.choice.chosen.candidate_id + each.choice.rejected.candidate_id for each in found.pairs] or [
        str(found.reason)
    ]


def cut(*answers: Answer) -> list[Answer]:
    return [each._replace(cut=each in answers) for each in FOUR]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rule": "best-worst"}, ["ad"]),
        ({"rule": "best-worst", "per_prompt": 9}, ["ad", "bc"]),
        ({"rule": "best-second"}, ["ab"]),
        ({"rule": "all", "per_prompt": 9}, ["ab", "ac", "ad", "bc", "bd", "cd"]),
        ({"rule": "best-random", "per_prompt": 9}, ["ab", "ac", "ad"]),
        ({"rule": "contrast", "contrast": {"high": 1, "low": 0}}, ["ad"]),
        ({"rule": "contrast", "contrast": {"high": 0, "low": 1}}, ["bc"]),
        (
            {"rule": "contrast", "contrast": MIDDLE, "per_prompt": 9},
            ["ab", "ac", "bd", "cd"],
        ),
        ({"rule": "best-worst", "max_margin": 0.9}, ["above-margin"]),
        ({"rule": "best-second", "min_margin": 0.4}, ["ab"]),  # 1.0 - 0.6 is a little less, as floats go
        ({"rule": "best-second", "min_margin": 0.41}, ["below-margin"]),
        ({"rule": "all", "per_prompt": 9, "min_margin": 0.5, "max_margin": 0.7}, ["ac", "bd"]),
        ({"rule": "all", "per_prompt": 9, "max_length_gap": 18}, ["ad", "bc", "cd"]),
        ({"rule": "best-second", "max_length_gap": 29}, ["length-gap"]),
        ({"rule": "best-second", "max_length_gap": 30}, ["ab"]),
        # Scores less a hundredth for each token: a .9, b .2, c .1, d -.12; then a .5, b -1.4, c -1.1, d -.6.
        ({"rule": "best-worst", "length_penalty": 0.01}, ["ad"]),
        ({"rule": "best-worst", "length_penalty": 0.05}, ["ab"]),
        ({"rule": "best-second", "length_penalty": 0.05}, ["ad"]),
    ],
)
def test_rules_on_four_answers(settings: dict[str, Any], expected: list[str]) -> None:
    found = pairs(FOUR, **settings)
    drawn = settings.get("rule") in ("all", "best-random", "contrast")
    assert (sorted(found) if drawn else found) == expected


@pytest.mark.parametrize(
    ("answers", "how", "expected"),
    [
        (cut(A), "drop", ["bd"]),
        (cut(A), "rejected-only", ["bd"]),
        (cut(D), "rejected-only", ["ad"]),
        (cut(D), "drop", ["ac"]),
        (cut(A, B, C), "rejected-only", ["cut"]),  # d may be chosen, and is better than none
        (cut(A, B, D), "drop", ["cut"]),
        (cut(A, B), "drop", ["cd"]),
        (cut(A, B, C, D), "keep", ["ad"]),
    ],
)
def test_cut_answers(answers: list[Answer], how: str, expected: list[str]) -> None:
    assert pairs(answers, cut=how) == expected


def test_answers_alike_are_one() -> None:
    assert pairs([A, A, A]) == ["all-equal"]
    assert pairs([A, D, A, D]) == ["ad"]
    assert pairs([A]) == pairs([]) == ["too-few"]


def test_scores_alike_are_no_pair() -> None:
    same = [each._replace(scores=(0.5,)) for each in FOUR]
    for rule in RULES:
        assert pairs(same, rule=rule) == ["all-equal"]
    two_best = [A, B._replace(scores=(1.0,)), D]
    assert pairs(two_best, rule="best-second") == ["tie"]
    assert pairs(two_best) in (["ad"], ["bd"])
    found = {pairs(two_best, seed=seed)[0] for seed in range(20)}
    assert found == {"ad", "bd"}


def test_of_equals_the_shortest_best_and_the_worst_like_it_in_length() -> None:
    """As in WPO: a and b are best, c and d worst; a is shorter, and c is nearer to it."""
    answers = [Answer("a", (1.0,), 20), Answer("b", (1.0,), 60), Answer("c", (0.0,), 25), Answer("d", (0.0,), 90)]
    assert {tuple(pairs(answers, ties="shortest", seed=seed)) for seed in range(20)} == {("ac",)}
    # One that was cut is better than all, and may not be chosen: its length has no part in it.
    answers = [Answer("e", (2.0,), 100, cut=True), *answers]
    for cut in ("drop", "rejected-only"):
        assert {tuple(pairs(answers, ties="shortest", cut=cut, seed=seed)) for seed in range(20)} == {("ac",)}


def test_without_a_score_an_answer_is_out() -> None:
    assert pairs([A._replace(scores=(None,)), B, D]) == ["bd"]
    assert pairs([A, B._replace(scores=(None,)), C._replace(scores=(None,))]) == ["unrated"]
    both = [A._replace(scores=(1.0, None)), B._replace(scores=(0.5, 0.5)), D._replace(scores=(0.1, 1.0))]
    assert pairs(both, Rate(combine="mean")) == ["db"]


def test_several_raters() -> None:
    """Of scales that are far apart: the first alone finds c the best, ranks find a, votes find a, too."""
    answers = [Answer("a", (2.0, 0.9, 0.9)), Answer("b", (1.0, 0.5, 0.8)), Answer("c", (90.0, 0.1, 0.7))]
    assert pairs(answers, Rate(combine="mean")) == ["cb"]
    # Ranks: a .5 1 1, b 0 .5 .5, c 1 0 0.
    (found,) = choose("p", answers, Rate(combine="mean-rank"), Pair()).pairs
    assert (found.choice.chosen.candidate_id, found.choice.rejected.candidate_id) in (("a", "b"), ("a", "c"))
    assert found.choice.chosen.score == pytest.approx(2.5 / 3) and found.choice.rejected.score == pytest.approx(1 / 3)
    assert pairs(answers, Rate(combine="majority")) == ["ac"]  # best c a a, worst b c c
    assert pairs([a._replace(scores=a.scores[:2]) for a in answers], Rate(combine="majority")) == ["tie"]


def test_scores_alike_but_for_rounding_are_alike() -> None:
    """Sums of the same numbers in another order, and 1 less 70 hundredths beside a half less 20."""
    in_turn = [Answer("a", (0.1, 0.2, 0.3)), Answer("b", (0.3, 0.2, 0.1))]
    assert pairs(in_turn, Rate(combine="mean")) == ["all-equal"]
    less = [Answer("a", (1.0,), 70), Answer("b", (0.5,), 20)]
    assert pairs(less, length_penalty=0.01) == ["all-equal"] and pairs(less, length_penalty=0.0101) == ["ba"]
    assert pairs(less) == ["ab"]


@given(st.lists(st.permutations(range(5)), min_size=2, max_size=7), st.randoms())
def test_what_raters_say_together_does_not_depend_on_their_order(ranks: list[list[int]], random: Any) -> None:
    shuffled = random.sample(ranks, len(ranks))
    for how in ("mean", "mean-rank", "majority"):
        found = combined([*zip(*ranks, strict=True)], how)
        assert found == combined([*zip(*shuffled, strict=True)], how)
    sums = [sum(each) for each in zip(*ranks, strict=True)]
    means = combined([*zip(*ranks, strict=True)], "mean-rank")
    assert [a == b for a, b in itertools.combinations(means, 2)] == [a == b for a, b in itertools.combinations(sums, 2)]


def test_two_models() -> None:
    """Whatever the scores: the model's own answers are chosen, those of the other rejected."""
    answers = [each._replace(answered_by=who) for each, who in zip((A, B, C, D), ["model", "against"] * 2, strict=True)]
    found = pairs(answers, rule="delta", per_prompt=9)
    assert sorted(found) in (["ab", "cd"], ["ad", "cb"])
    unrated = [each._replace(scores=()) for each in answers]
    assert pairs(unrated, rule="delta", per_prompt=9) == found
    assert pairs(answers[:1] * 2, rule="delta") == ["all-equal"]
    assert pairs([answers[0], answers[2]], rule="delta") == ["too-few"]
    assert pairs([answers[0]._replace(cut=True), answers[1]], rule="delta") == ["cut"]
    assert pairs([answers[0], answers[0]._replace(answered_by="against")], rule="delta") == ["all-equal"]
    assert pairs([answers[0], answers[1]._replace(cut=True)], rule="delta", cut="rejected-only") == ["ab"]
    # What both say is no pair of itself, and keeps nobody from being one.
    for both in (answers[:2], answers[1::-1]):
        own = [each._replace(answered_by="model") for each in both]
        for seed in range(8):
            assert pairs([*own, A._replace(answered_by="against")], rule="delta", seed=seed) == ["ba"]
    # Nor does a vote that names nobody.
    votes = [each._replace(scores=score) for each, score in zip(answers[:2], [(1.0, 0.0), (0.0, 1.0)], strict=True)]
    assert pairs(votes, Rate(combine="majority"), rule="delta") == ["ab"]
    assert pairs(votes, Rate(combine="majority")) == ["tie"]


def test_branches_meet_their_siblings() -> None:
    answers = [A, B._replace(family="a"), C._replace(family="a"), D._replace(family="x")]
    assert pairs(answers, among="siblings") == ["bc"]
    assert pairs(answers, among="trunks") == ["too-few"]
    assert pairs([*answers, Answer("e", (0.9,))], among="trunks") == ["ae"]
    two = [*answers, Answer("e", (0.9,), family="x")]
    assert sorted(pairs(two, among="siblings", per_prompt=2)) == ["bc", "ed"]
    assert pairs(two, among="all") == ["ad"]


def test_mixed_contrast_keeps_its_shares() -> None:
    bins = Counter(
        each.bin
        for number in range(400)
        for each in choose(f"p{number}", FOUR, BY, Pair(rule="contrast", contrast=Contrast(high=0.75, low=0.25))).pairs
    )
    assert bins.keys() == {"high", "low"} and abs(bins["high"] - 300) < 3 * math.sqrt(400 * 0.75 * 0.25)
    # Two values have one margin, which is wide: no share makes it narrow.
    assert pairs([A, D], rule="contrast", contrast={"high": 0, "low": 1}) == ["above-margin"]
    assert pairs([A, D], rule="contrast", contrast={"high": 0.1, "low": 0.9}) == ["ad"]


def test_mixed_contrast_keeps_its_shares_within_bounds() -> None:
    """The widest pair is beyond the bound: another wide one takes its place, and not one of another bin."""
    answers = [A, Answer("b", (0.96,)), Answer("c", (0.02,)), D]
    settings = Pair(rule="contrast", max_margin=0.97)
    found = [choose(f"p{number}", answers, BY, settings).pairs[0] for number in range(400)]
    bins = Counter(each.bin for each in found)
    assert bins.keys() == {"high", "low"} and abs(bins["high"] - 200) < 3 * math.sqrt(400 / 4)
    assert {each.choice.margin for each in found if each.bin == "high"} == {0.96}
    assert pairs(answers, rule="contrast", max_margin=0.01) == ["above-margin"]


def test_confidence() -> None:
    assert confidence(2.0, 1.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert confidence(1e6, 1.0) == 1.0 and confidence(0.0, 3.0) == 0.5
    assert confidence(None, 1.0) is None and confidence(1.0, None) is None


ANSWERS = st.lists(
    st.builds(
        Answer,
        st.sampled_from("abcdef"),
        st.sampled_from([(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (1.0, 1.0), (None, 1.0)]),
        st.integers(1, 50),
        st.booleans(),
        st.sampled_from(["model", "against"]),
        st.sampled_from([None, "x", "y"]),
    ),
    max_size=8,
)
RATES = st.builds(Rate, combine=st.sampled_from(["mean", "mean-rank", "majority"]))
SETTINGS = st.builds(
    Pair,
    rule=st.sampled_from([*RULES, "delta"]),
    among=st.sampled_from(["all", "trunks", "siblings"]),
    per_prompt=st.integers(1, 3),
    min_margin=st.sampled_from([0.0, 0.3]),
    max_margin=st.sampled_from([None, 0.6]),
    max_length_gap=st.sampled_from([None, 10]),
    length_penalty=st.sampled_from([0.0, 0.01]),
    cut=st.sampled_from(["drop", "rejected-only", "keep"]),
    ties=st.sampled_from(["drop", "shortest"]),
)


@given(ANSWERS, SETTINGS, RATES, st.randoms())
def test_a_prompt_has_pairs_or_a_reason(answers: list[Answer], pair: Pair, rate: Rate, random: Any) -> None:
    """And they keep the bounds, whatever the order of the answers."""
    # An id stands for one answer: what is said of it is said once.
    said = {each.candidate_id: each for each in answers}
    answers = [
        each._replace(**said[each.candidate_id]._asdict() | {"answered_by": each.answered_by}) for each in answers
    ]
    found = choose("p", answers, rate, pair)
    assert (found.reason in REASONS) != (0 < len(found.pairs) <= pair.per_prompt)
    for chosen, rejected in (each.choice for each in found.pairs):
        assert chosen.candidate_id != rejected.candidate_id
        if pair.rule != "delta":
            assert chosen.value - rejected.value >= max(pair.min_margin - 1e-6, 1e-12)
            assert pair.max_margin is None or chosen.value - rejected.value <= pair.max_margin + 1e-6
        assert pair.max_length_gap is None or abs(chosen.tokens - rejected.tokens) <= pair.max_length_gap
        assert not chosen.cut or pair.cut == "keep"
        assert not rejected.cut or pair.cut != "drop"
        assert pair.among != "siblings" or chosen.family == rejected.family is not None
    random.shuffle(answers)
    assert choose("p", answers, rate, pair) == found


def test_draws_depend_on_the_prompt() -> None:
    found = {tuple(named(choose(f"p{number}", FOUR, BY, Pair(rule="best-random")))) for number in range(30)}
    assert found == {("ab",), ("ac",), ("ad",)}
    assert len({tuple(pairs(list(each), rule="all")) for each in itertools.permutations(FOUR)}) == 1
