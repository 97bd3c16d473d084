"""Our verdicts as the benchmarks' own tools have them, scored as those score them; numbers by hand."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from pipeline.evaluation.benchmarks.length_control import read_coefficients
from pipeline.evaluation.exports.verdicts import ARENA, as_text, figures, of_match, of_ratings, rating_figures
from pipeline.evaluation.judging.asking import Reply
from pipeline.evaluation.judging.games import Answer, Asked, Game, Match, Outcome, fixtures, read, summarise
from pipeline.evaluation.judging.ratings import Rated, Turn, read_rating
from pipeline.evaluation.judging.words import Method

NAMES = {"trained": "our-model", "base": "small-model"}


def match(benchmark: str, *questions: str, tokens: int | None = 3) -> Match:
    return Match(
        benchmark,
        "trained",
        {name: Asked(f"{name}?") for name in questions},
        {name: Answer("trained", f"ours on {name}", 2) for name in questions},
        {name: Answer("gpt", f"**theirs** on {name}", tokens) for name in questions},
    )


def game(benchmark: str, question: str, first: bool, points: float | None, judgment: str, times: int = 1) -> Game:
    outcome: Outcome = "unparsable" if points is None else "read"
    return Game(benchmark, question, "trained", "gpt", first, outcome, points, 0 if points is None else times, judgment)


def test_alpaca_evals_annotations_and_their_win_rate(tmp_path: Path) -> None:
    one = match("alpaca_eval", "a", "b", "c")
    played = [game("alpaca_eval", "a", True, 0.25, "m"), game("alpaca_eval", "b", False, 1.0, "M")]
    played.append(game("alpaca_eval", "c", False, None, "none"))
    rows = of_match(one, played, "judge", {"a": {"dataset": "koala"}, "b": {}, "c": {}}, NAMES)
    assert rows[0] == {
        "dataset": "koala",
        "instruction": "a?",
        **{"output_1": "**theirs** on a", "generator_1": "gpt", "output_2": "ours on a", "generator_2": "our-model"},
        **{"annotator": "judge", "preference": 1.25, "raw_completion": ["m"]},
    }
    assert [row["preference"] for row in rows] == [1.25, 2.0, None]
    found, notes = figures(one, rows, 100, 0)
    assert [each.label for each in found] == ["standard error", "discrete win rate"]  # not AlpacaEval's questions
    assert [each.value for each in found] == pytest.approx([37.5, 50.0])
    assert any("1 rows without a preference" in note for note in notes)
    file = tmp_path / "annotations.json"
    file.write_text(as_text(rows, lines=False))
    (score,) = alpaca_eval.score_file(file, read_coefficients(), 100)
    assert score.win_rate.value == pytest.approx(62.5) and score.model == "our-model"


def test_alpaca_evals_own_code_finds_the_same_in_our_export(peers: None) -> None:
    """The package itself, on draws, ties of identical answers and verdicts that are missing."""
    from alpaca_eval.metrics import get_winrate

    points = [0.25, 1.0, 0.5, 0.0, 0.9031, None, 0.5]
    names = [f"q{n}" for n in range(len(points))]
    one = match("alpaca_eval", *names)
    played = [
        game("alpaca_eval", name, n % 2 == 0, p, "m") for n, (name, p) in enumerate(zip(names, points, strict=True))
    ]
    rows = of_match(one, played, "judge", {name: {} for name in names}, NAMES)
    theirs = get_winrate(json.loads(as_text(rows, lines=False)))
    ours = alpaca_eval.score_rows(rows, read_coefficients(), 100)
    assert ours.win_rate.value == pytest.approx(theirs["win_rate"], abs=1e-9)
    assert ours.standard_error == pytest.approx(theirs["standard_error"], abs=1e-9)
    assert ours.discrete_win_rate == pytest.approx(theirs["discrete_win_rate"], abs=1e-9)
    for name in ("n_wins", "n_wins_base", "n_draws", "n_total"):
        assert getattr(ours, name) == theirs[name]


def test_arena_hards_judgments_and_their_score(tmp_path: Path) -> None:
    """Won strongly and lost: (3 + 0) / 4. A question that lacks a verdict is left out, as its authors do."""
    one = match("arena_hard_v2.0", "a", "b")
    played = [
        game("arena_hard_v2.0", "a", True, 1.0, "[[A>>B]]", 3),
        game("arena_hard_v2.0", "a", False, 0.0, "[[A>B]]"),
    ]
    played += [game("arena_hard_v2.0", "b", False, None, "hm"), game("arena_hard_v2.0", "b", True, 1.0, "[[A>B]]")]
    meta = {"category": "hard_prompt", "subcategory": "math"}
    rows = of_match(one, played, "judge", {"a": meta, "b": meta}, NAMES)
    assert [row["games"] for row in rows] == [
        [{"score": "A>B", "judgment": {"answer": "[[A>B]]"}}, {"score": "A>>B", "judgment": {"answer": "[[A>>B]]"}}],
        [{"score": None, "judgment": {"answer": "hm"}}, {"score": "A>B", "judgment": {"answer": "[[A>B]]"}}],
    ]
    assert (rows[0]["uid"], rows[0]["model"], rows[0]["baseline"]) == ("a", "our-model", "gpt")
    unnamed = of_match(one, played, "judge", {"a": meta, "b": meta})
    found, notes = figures(one, unnamed, 100, 0)
    assert found[0].label == "math: score, 90% interval" and found[0].value == pytest.approx(75)
    assert len(found) == 2 and "style-controlled" in found[1].label
    assert any("1 questions with a game that has no verdict are left out" in note for note in notes)
    without, _ = figures(match("arena_hard_v2.0", "a", "b", tokens=None), unnamed, 100, 0)
    assert len(without) == 1  # lengths are not known: no style control
    file = tmp_path / "judgments.jsonl"
    file.write_text(as_text(rows, lines=True))
    (score,) = arena_hard.score_file(file, "v2.0", resamples=100)
    assert score.rate.value == pytest.approx(75) and score.model == "our-model"


@pytest.mark.parametrize("benchmark", ["alpaca_eval", "arena_hard_v0.1", "arena_hard_v2.0"])
def test_who_was_shown_first_is_the_same_in_the_report_and_in_our_export(tmp_path: Path, benchmark: str) -> None:
    """Answers that are alike, which no judge saw, tell nothing of the place."""
    preferred = benchmark == "alpaca_eval"
    words = ["[[A>B]]", "[[A>>B]]", "[[A=B]]", "[[B>A]]", "[[A>B]]", None, "[[A>B]]", "[[A>B]]"]
    replies = [Reply(each, "" if each else "no connection") for each in words]
    if preferred:
        replies = [Reply("m", first={"m": math.log(p), "M": math.log(1 - p)}) for p in (0.9, 0.2, 0.7, 0.99)]
    one = match(benchmark, *"abcdef")
    same = {name: one.ours[name] if name in "ad" else answer for name, answer in one.theirs.items()}
    one = dataclasses.replace(one, theirs=same)
    method: Method = "preference" if preferred else "games"
    said = iter(replies)
    played = [
        read(one, fixture, method, None if one.alike(fixture[0]) else next(said)) for fixture in fixtures(one, method)
    ]
    file = tmp_path / "export.json"
    rows = of_match(one, played, "judge", {name: {"category": "c"} for name in "abcdef"}, NAMES)
    file.write_text(as_text(rows, lines=False))
    scores: list[Any] = (
        alpaca_eval.score_file(file, read_coefficients(), 100)
        if preferred
        else arena_hard.score_file(file, ARENA[benchmark], resamples=100)
    )
    assert scores[0].first_shown == pytest.approx(summarise(played, 100, 0).first_shown)
    assert scores[0].first_shown != pytest.approx(50)


def test_no_verdict_at_all_is_no_figure() -> None:
    for benchmark in ("alpaca_eval", "arena_hard_v0.1", "arena_hard_v2.0", "mine"):
        one = match(benchmark, "a")
        rows = of_match(one, [game(benchmark, "a", first, None, "") for first in (False, True)], "judge", {"a": {}})
        assert figures(one, rows, 100, 0) == ([], [])


def rated(turn: int, rating: float | None, question: str = "81") -> Rated:
    words: Any = "" if rating is None else f"[[{rating}]]"
    before = ({"role": "user", "content": "?"},)
    return read_rating(Turn("trained", question, turn, "writing", before, "answer", ()), Reply(words))


def test_fastchats_judgments_and_their_means(tmp_path: Path) -> None:
    found = [rated(1, 8.0), rated(2, 5.0), rated(1, None, "82"), rated(2, 7.0, "82")]
    missing = read_rating(Turn("trained", "83", 1, None, (), "", ()), Reply(None, "no connection"))
    rows = of_ratings([*found, missing], NAMES, "judge")
    assert [(row["question_id"], row["turn"], row["score"]) for row in rows] == [
        *((81, 1, 8.0), (81, 2, 5.0)),
        *((82, 1, -1), (82, 2, 7.0)),
    ]
    shown, notes = rating_figures(rows, 100, 0)
    assert [(each.label, each.value) for each in shown] == [
        *(("our-model: overall", pytest.approx(20 / 3)), ("our-model: turn 1", 8.0), ("our-model: turn 2", 6.0)),
    ]
    assert any("1 verdicts could not be read" in note for note in notes)
    file = tmp_path / "judge_single.jsonl"
    file.write_text(as_text(rows, lines=True))
    (score,) = mt_bench.score_file(file, 100)
    assert score.overall.value == pytest.approx(20 / 3)
    assert rating_figures(of_ratings([found[2]], NAMES, "judge"), 100, 0) == ([], [])


def test_lines_are_lines(tmp_path: Path) -> None:
    rows = [{"a": "x\u2028y"}, {"a": "z"}]
    assert as_text(rows, lines=True).split("\n") == [json.dumps(row, ensure_ascii=False) for row in rows] + [""]
    assert json.loads(as_text(rows, lines=False)) == rows
