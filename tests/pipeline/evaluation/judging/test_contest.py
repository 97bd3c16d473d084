"""A benchmark before a judge: what is put to it, in which order its replies are read, and whom it is compared with."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.judging import baselines
from pipeline.evaluation.judging.asking import Reply
from pipeline.evaluation.judging.contest import Contest, matches, method_of, questions_of
from pipeline.evaluation.judging.games import Answer, Asked
from pipeline.evaluation.judging.ratings import Turn
from pipeline.evaluation.judging.words import words

Row = dict[str, Any]


def row(question: str, response: str, turn: int = 1, system: str | None = None, **meta: Any) -> Row:
    prompt = [{"role": "system", "content": system}] if system else []
    prompt += [{"role": "user", "content": f"{question}?"}]
    named = {"question_id": question, "turn": turn, "meta": json.dumps(meta), "prompt": json.dumps(prompt)}
    return {**named, "response": response, "tokens": len(response)}


ANSWERS = {
    "base": [row("a", "one"), row("b", "same"), row("c", "three")],
    "trained": [row("a", "eins"), row("b", "same")],  # c did not fit
}


def test_each_benchmark_in_its_own_way_unless_another_is_named() -> None:
    assert method_of("alpaca_eval", False, None) == "preference" and method_of("mine", False, None) == "games"
    assert method_of("alpaca_eval", False, "games") == "games" and method_of("mine", False, "ratings") == "ratings"
    assert method_of("mt_bench", True, None) == method_of("mine", True, None) == "ratings"
    with pytest.raises(UserError, match=r"judge\.methods\.mine=games.*several turns"):
        method_of("mine", True, "games")


def test_a_judge_sees_what_was_said_before_the_question() -> None:
    found = questions_of([row("a", ""), row("b", "", system="Be brief.", category="math")])
    assert found == {"a": Asked("a?"), "b": Asked("system: Be brief.\n\nuser: b?", "math")}


def test_without_a_baseline_the_models_meet_each_other() -> None:
    (match,) = matches("mine", ANSWERS, None)
    assert (match.model, match.against, list(match.questions)) == ("trained", "base", ["a", "b"])
    assert (match.ours["a"], match.theirs["a"]) == (Answer("trained", "eins", 4), Answer("base", "one", 3))


def test_with_a_baseline_both_models_meet_it() -> None:
    base, trained = matches("mine", ANSWERS, {"a": Answer("gpt", "uno"), "c": Answer("o3", "tre")})
    assert (base.model, base.against, list(base.questions)) == ("base", "gpt, o3", ["a", "c"])
    assert (trained.model, trained.against, list(trained.questions)) == ("trained", "gpt", ["a"])


def test_replies_are_read_in_the_order_of_the_requests() -> None:
    """Answers that are alike are not asked about, and take no reply from the others."""
    contest = Contest("mine", "games", words("mine", "games", None), 9, matches("mine", ANSWERS, None))
    assert len(contest.requests()) == 2
    games, rated = contest.read([Reply("[[A>B]]"), Reply("[[A>B]]")])
    assert [(g.question_id, g.model_first, g.points) for g in games] == [
        *(("a", False, 0.0), ("a", True, 1.0)),
        *(("b", False, 0.5), ("b", True, 0.5)),
    ]
    assert rated == []
    with pytest.raises(ValueError, match="longer"):
        contest.read([Reply("[[A>B]]")] * 3)


def test_a_judge_that_begins_to_think_is_asked_anew_and_given_room() -> None:
    """Alone of the preferences; with as many tokens as the settings say, or 4,096."""
    match = matches("alpaca_eval", {"base": [row("a", "one"), row("c", "x")], "trained": ANSWERS["trained"][:1]}, None)
    contest = Contest("alpaca_eval", "preference", words("alpaca_eval", "preference", "own"), 9, match)
    (asked,) = contest.requests()
    for reply in (Reply("<think>"), Reply("<"), Reply("", thoughts="Okay", cut=True)):
        assert contest.further([asked], [reply]) == {0: replace(asked, max_tokens=4096, anew=True)}
        (again,) = replace(contest, thought_tokens=99).further([asked], [reply]).values()
        assert (again.max_tokens, again.first_token, again.messages) == (99, True, asked.messages)
    for reply in (Reply("m", first={"m": -0.1}), Reply(None, "no connection"), Reply("The")):
        assert contest.further([asked], [reply]) == {}


def test_ratings_take_a_reply_each() -> None:
    turns = [Turn.of(model, each) for model, rows in ANSWERS.items() for each in rows]
    contest = Contest("mine", "ratings", words("mine", "ratings", None), 9, turns=turns)
    replies = [Reply(f"[[{n}]]") for n, _ in enumerate(contest.requests(), 3)]
    _, rated = contest.read(replies)
    assert [(each.model, each.question_id, each.rating) for each in rated] == [
        *(("base", "a", 3.0), ("base", "b", 4.0), ("base", "c", 5.0)),
        *(("trained", "a", 6.0), ("trained", "b", 7.0)),
    ]


QUESTIONS = {"1": Asked("One?", "hard_prompt"), "2": Asked("Two?", "creative_writing")}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (
            [{"instruction": "Two?", "output": "2", "generator": "g"}, {"instruction": "Other?", "output": "x"}],
            {"2": Answer("g", "2")},
        ),
        (
            [{"uid": "1", "model": "m", "messages": [{"role": "assistant", "content": {"answer": "1"}}]}],
            {"1": Answer("m", "1")},
        ),
        (
            [{"question_id": 1, "model_id": "m", "choices": [{"turns": ["one"]}]}],
            {"1": Answer("m", "one")},
        ),
        (
            [
                {
                    "question_id": "2",
                    "model_id": "m",
                    "choices": [{"turns": [{"content": "two"}]}],
                    "conv_metadata": {"token_len": 7},
                }
            ],
            {"2": Answer("m", "two", 7)},
        ),
        (
            [{"question_id": "1", "response": "r"}, {"question_id": "1", "response": "again"}],
            {"1": Answer("file", "r")},
        ),
    ],
)
def test_answers_to_compare_with(tmp_path: Path, rows: Sequence[Row], found: dict[str, Answer]) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
    assert baselines.read("mine", str(file), QUESTIONS) == found


def test_a_baseline_s_ids_and_authors(tmp_path: Path) -> None:
    """1.0 is question 1. Two who answered one question are two baselines; to different questions they may be."""
    file = tmp_path / "file.jsonl"

    def read(*rows: Row) -> dict[str, Answer]:
        file.write_text("".join(f"{json.dumps(each)}\n" for each in rows))
        return baselines.read("mine", str(file), QUESTIONS)

    one, two = ({"question_id": n, "response": "r", "model": model} for n, model in ((1.0, "a"), ("2", "b")))
    assert read(one, two) == {"1": Answer("a", "r"), "2": Answer("b", "r")}
    with pytest.raises(UserError, match="question 1 has answers by a and by b"):
        read(one, two | {"question_id": 1})


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text('{"instruction": "Three?", "output": "3"}\n')
    with pytest.raises(UserError, match="none of its rows answers one of the 2 questions"):
        baselines.read("mine", str(file), QUESTIONS)
    with pytest.raises(UserError, match="names no file of answers"):
        baselines.read("mine", None, QUESTIONS)
    with pytest.raises(UserError, match="there is no such file"):
        baselines.read("mine", str(tmp_path / "none.json"), QUESTIONS)
