"""A benchmark before a judge: what is put to it, in which order its replies are read, and whom it is compared with."""

import json
from collections.abc import Sequence
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


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.jsonl"
    file.write_text('{"instruction": "Three?", "output": "3"}\n')
    with pytest.raises(UserError, match="none of its rows answers one of the 2 questions"):
        baselines.read("mine", str(file), QUESTIONS)
    with pytest.raises(UserError, match="names no file of answers"):
        baselines.read("mine", None, QUESTIONS)
    with pytest.raises(UserError, match="there is no such file"):
        baselines.read("mine", str(tmp_path / "none.json"), QUESTIONS)
