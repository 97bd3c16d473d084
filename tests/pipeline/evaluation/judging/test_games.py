"""Two models' answers before a judge: in which order they are shown, what its reply means, and what counts."""

import math

import pytest

from pipeline.evaluation.benchmarks.verdicts import is_switched
from pipeline.evaluation.judging.asking import Reply
from pipeline.evaluation.judging.games import (
    Answer,
    Asked,
    Game,
    Match,
    fixtures,
    further,
    read,
    request,
    shares,
    summarise,
)
from pipeline.evaluation.judging.words import Method, words


def match(*questions: str, theirs: str = "their answer", benchmark: str = "mine") -> Match:
    return Match(
        benchmark,
        "trained",
        {name: Asked(f"text of {name}") for name in questions},
        {name: Answer("trained", "our answer") for name in questions},
        {name: Answer("gpt", theirs) for name in questions},
    )


def test_both_orders_or_the_one_of_alpaca_evals_seed() -> None:
    one = match("a", "b", "c", "d")
    assert fixtures(one, "games") == [(name, first) for name in "abcd" for first in (False, True)]
    drawn = fixtures(one, "preference")
    assert drawn == [(name, is_switched(f"text of {name}")) for name in "abcd"] and len({f for _, f in drawn}) == 2


@pytest.mark.parametrize("method", ["games", "preference"])
def test_what_is_asked(method: Method) -> None:
    for first in (False, True):
        asked = request(match("a"), ("a", first), method, words("mine", method, None), max_tokens=99)
        told = asked.messages[1]["content"]
        assert (told.index("our answer") < told.index("their answer")) == first and "text of a" in told
        assert (asked.max_tokens, asked.first_token) == ((1, True) if method == "preference" else (99, False))


@pytest.mark.parametrize(
    ("reply", "model_first", "expected"),
    [
        ("so [[A>>B]]", True, ("read", 1.0, 3)),
        ("so [[A>>B]]", False, ("read", 0.0, 3)),
        ("so [[B>A]]", False, ("read", 1.0, 1)),
        ("so [[A=B]]", True, ("read", 0.5, 1)),
        ('It says "[[A>>B]]", which is no reason. [[B>A]]', True, ("read", 0.0, 1)),
        ("A is better", True, ("unparsable", None, 0)),
        ("<think>[[A>>B]]?</think>[[B>A]]", False, ("read", 1.0, 1)),
        ("the prompt opened it: [[A>>B]]</think>[[B>A]]", False, ("read", 1.0, 1)),
        ("<think>[[A>>B]]", True, ("unparsable", None, 0)),
        ("[[A]]", True, ("unparsable", None, 0)),
        (None, True, ("missing", None, 0)),
    ],
)
def test_what_words_mean(reply: str | None, model_first: bool, expected: tuple[object, ...]) -> None:
    game = read(match("a"), ("a", model_first), "games", Reply(reply, "no connection" if reply is None else ""))
    assert (game.outcome, game.points, game.times) == expected
    assert game.judgment == (reply if reply is not None else "no connection")
    assert (game.benchmark, game.question_id, game.model, game.against) == ("mine", "a", "trained", "gpt")


def test_arena_hard_v01_takes_no_verdict_from_labels_that_contradict_each_other() -> None:
    reply = Reply("first [[B>A]], no: [[A>B]]")
    old, new = (read(match("a", benchmark=f"arena_hard_{v}"), ("a", True), "games", reply) for v in ("v0.1", "v2.0"))
    assert (old.outcome, old.points) == ("unparsable", None) and (new.outcome, new.points) == ("read", 1.0)


def test_labels_among_thoughts_contradict_none() -> None:
    reply = Reply("<think>[[A>>B]], no.</think> [[B>A]]")
    game = read(match("a", benchmark="arena_hard_v0.1"), ("a", True), "games", reply)
    assert (game.outcome, game.points) == ("read", 0.0)


def test_arena_hard_v01_asks_once_more_where_there_is_no_label() -> None:
    asked = request(match("a"), ("a", True), "games", words("mine", "games", None), max_tokens=99)
    again = further("arena_hard_v0.1", "games", asked, Reply("A is better"))
    assert again is not None and again.max_tokens == 99
    assert again.messages[:-1] == (*asked.messages, {"role": "assistant", "content": "A is better"})
    assert again.messages[-1]["role"] == "user" and "[[" not in again.messages[-1]["content"]
    for reply in (Reply("[[A>B]]"), Reply("[[A>B]] or [[B>A]]"), Reply(None, "no connection")):
        assert further("arena_hard_v0.1", "games", asked, reply) is None
    assert further("arena_hard_v2.0", "games", asked, Reply("A is better")) is None
    # Of one that thinks it is shown its words; one that never came to a word has nothing to go on from.
    again = further("arena_hard_v0.1", "games", asked, Reply("<think>[[A>B]]</think>A is better"))
    assert again is not None and again.messages[-2]["content"] == "A is better"
    for wordless in (Reply("<think>A"), Reply("<think>A</think>\n"), Reply("", thoughts="A", cut=True)):
        assert further("arena_hard_v0.1", "games", asked, wordless) is None


def test_a_reply_and_what_was_said_when_asked_on() -> None:
    first = Reply("A is better", "", 10, 3, cut=True)
    assert first.then(Reply("[[A>B]]", "", 15, 2)) == Reply("A is better\n[[A>B]]", "", 25, 5)
    assert first.then(Reply(None, "no connection")) == Reply(None, "no connection", 10, 3)
    thought = Reply("<think>", "", 10, 1).then(Reply("<think>so</think>m", "", 10, 9, {"m": -0.1}), anew=True)
    assert thought == Reply("<think>so</think>m", "", 20, 10, {"m": -0.1})


@pytest.mark.parametrize(
    ("first", "model_first", "points"),
    [
        ({"m": math.log(0.6), "M": math.log(0.2), "x": -3.0}, False, 0.25),  # m is shown first: the other's
        ({"m": math.log(0.6), "M": math.log(0.2)}, True, 0.75),
        ({"m": -0.1}, True, 1.0),
        ({"Yes": -0.1}, True, None),
        ({}, True, None),
    ],
)
def test_what_log_probs_mean(first: dict[str, float], model_first: bool, points: float | None) -> None:
    game = read(match("a"), ("a", model_first), "preference", Reply("m", first=first))
    assert game.points == (None if points is None else pytest.approx(points))
    assert game.outcome == ("unparsable" if points is None else "read")


def test_answers_that_are_alike_are_a_tie() -> None:
    one = match("a", theirs="our answer")
    assert one.alike("a") and not match("a").alike("a")
    game = read(one, ("a", True), "games", None)
    assert (game.outcome, game.points, game.times) == ("alike", 0.5, 1)


def played(question: str, *replies: str | None) -> list[Game]:
    return [read(match(question), (question, bool(n)), "games", Reply(each)) for n, each in enumerate(replies)]


def test_figures_by_hand() -> None:
    """q1: lost, won strongly: 3/4. q2: tie and lost: 1/4. q3 and q4 lack a verdict, and are no ties."""
    games = played("q1", "[[A>B]]", "[[A>>B]]") + played("q2", "[[A=B]]", "[[B>A]]")
    games += played("q3", "[[B>A]]", None) + played("q4", "hm", "[[A>B]]")
    assert shares(games) == {"q1": 0.75, "q2": 0.25, "q3": None, "q4": None}
    score = summarise(games, resamples=100, seed=0)
    assert score.rate is not None and score.rate.value == pytest.approx(50)
    assert (score.questions, score.games, score.read, score.unparsable, score.missing) == (2, 8, 6, 1, 1)
    # The answer shown first got 1, 1, 1/2, 0, 0 and 1.
    assert score.first_shown == pytest.approx(100 * 3.5 / 6)


def test_a_tie_of_answers_that_are_alike_says_nothing_of_the_place() -> None:
    one = match("q1", theirs="our answer")
    games = [read(one, ("q1", first), "games", None) for first in (False, True)] + played("q2", "[[A>B]]", "[[A>B]]")
    score = summarise(games, resamples=100, seed=0)
    assert score.rate is not None and score.rate.value == 50
    assert (score.questions, score.alike, score.read, score.first_shown) == (2, 2, 2, 100)


def test_no_verdict_at_all_is_no_score() -> None:
    score = summarise(played("q", None, "hm"), resamples=100, seed=0)
    assert (score.rate, score.questions, score.first_shown) == (None, 0, None)
