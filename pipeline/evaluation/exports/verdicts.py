"""Our verdicts in the formats of the benchmarks' own tools, and scored as those score them.

| benchmark | rows |
|---|---|
| arena_hard_v0.1, arena_hard_v2.0 | Arena-Hard's model_judgment: {uid, category, judge, model, baseline, games[2]} |
| any that is rated | FastChat's: {question_id, turn, model, judge, judgment, score} |
| others | AlpacaEval's annotations: {instruction, output_1, output_2, generator_1, generator_2, preference} |

Output 1 and assistant A of the first game are the baseline's. What has no verdict is null (AlpacaEval, Arena-Hard) or
-1 (FastChat, where the judge's words could not be read); a rating that is missing has no row.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, arena_style, mt_bench
from pipeline.evaluation.benchmarks.annotations import LeftOut
from pipeline.evaluation.benchmarks.arena_battles import ARENA, Version, battles_of
from pipeline.evaluation.benchmarks.length_control import read_coefficients
from pipeline.evaluation.benchmarks.verdicts import arena_label
from pipeline.evaluation.judging.games import Game, Match, shares
from pipeline.evaluation.judging.ratings import Rated
from pipeline.statistics import Interval

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark's own, with its interval where it has one."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "%"

    @staticmethod
    def of(label: str, interval: Interval, unit: str = "%") -> "Figure":
        return Figure(label, interval.value, interval.low, interval.high, unit)


Figures = tuple[list[Figure], list[str]]  # and what must be said of them


def of_match(
    match: Match,
    games: Sequence[Game],
    judge: str,
    metas: Mapping[str, Row],
    names: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of Arena-Hard's or AlpacaEval's kind. `metas` are the questions', `names` what to write for our models."""
    names = names or {}
    if match.benchmark in ARENA:
        return _arena_rows(match, games, judge, metas, names)
    rows = []
    for name, share in shares(games).items():
        question = {"dataset": metas[name].get("dataset", ""), "instruction": match.questions[name].text}
        by = match.theirs[name].by
        outputs = {"output_1": match.theirs[name].text, "generator_1": names.get(by, by)}
        outputs |= {"output_2": match.ours[name].text, "generator_2": names.get(match.model, match.model)}
        outputs["annotator"] = judge
        words = [game.judgment for game in games if game.question_id == name]
        rows.append(
            {**question, **outputs, "preference": None if share is None else 1 + share, "raw_completion": words}
        )
    return rows


def _arena_rows(
    match: Match, games: Sequence[Game], judge: str, metas: Mapping[str, Row], names: Mapping[str, str]
) -> list[Row]:
    by_question: dict[str, list[Game]] = {}
    for game in sorted(games, key=lambda game: game.model_first):
        by_question.setdefault(game.question_id, []).append(game)
    key = "uid" if match.benchmark == "arena_hard_v2.0" else "question_id"
    return [
        {
            key: name,
            **{each: metas[name][each] for each in ("category", "subcategory") if each in metas[name]},
            "judge": judge,
            "model": names.get(match.model, match.model),
            "baseline": names.get(match.theirs[name].by, match.theirs[name].by),
            "games": [{"score": _label(game), "judgment": {"answer": game.judgment}} for game in by_question[name]],
        }
        for name in match.questions
        if name in by_question
    ]


def _label(game: Game) -> str | None:
    return "A=B" if game.outcome == "alike" else arena_label(game.judgment) if game.outcome == "read" else None


def of_ratings(rated: Sequence[Rated], names: Mapping[str, str], judge: str) -> list[Row]:
    """FastChat's rows. `names` are the names to write of our models."""
    return [
        {
            "question_id": int(each.question_id) if each.question_id.isdecimal() else each.question_id,
            "model": names[each.model],
            "judge": [judge, "single-v1"],
            "judgment": each.judgment,
            "score": -1 if each.rating is None else each.rating,
            "turn": each.turn,
            "tstamp": 0,
        }
        for each in rated
        if each.outcome != "missing"
    ]


def figures(match: Match, rows: Sequence[Row], resamples: int, seed: int) -> Figures:
    """The benchmark's own figures of rows that `of_match` made; none where no verdict can be used."""
    if match.benchmark in ARENA:
        return _arena_figures(match, rows, ARENA[match.benchmark], resamples, seed)
    if match.benchmark != "alpaca_eval" or all(row["preference"] is None for row in rows):
        return [], []
    score = alpaca_eval.score_rows(rows, read_coefficients(), resamples, seed)
    # The win rate itself is that of the match.
    found = [Figure("standard error", score.standard_error), Figure("discrete win rate", score.discrete_win_rate)]
    notes = list(score.notes)
    if one := score.length_controlled:
        found.append(Figure("length-controlled win rate", one.win_rate, one.low, one.high))
        notes.append(f"length control: {one.questions} questions, coefficients {one.coefficients}")
    return found, notes


def _arena_figures(match: Match, rows: Sequence[Row], version: Version, resamples: int, seed: int) -> Figures:
    left_out = LeftOut()
    try:
        battles = battles_of(rows, version, left_out, match.benchmark)
    except UserError:  # the summary of the match says why
        return [], []
    styles = _styles(match, rows) if version == "v2.0" else None
    found, notes = [], []
    for score in arena_hard.score(battles, left_out, version, styles, resamples=resamples, seed=seed):
        level = f"{arena_hard.LEVEL[version]:.0%} interval"
        found.append(Figure.of(f"{score.category}: score, {level}", score.rate))
        if score.style_controlled:
            found.append(Figure.of(f"{score.category}: style-controlled, {level}", score.style_controlled))
        notes += [f"{score.category}: {note}" for note in score.notes]
    if styles:
        notes.append("style control: lengths are in each answerer's own tokens, where the original takes GPT-4o's")
    return found, notes


def _styles(match: Match, rows: Sequence[Row]) -> dict[tuple[str, str], arena_style.Array] | None:
    """Both sides' styles; None where the tokens of an answer are not known."""
    found = {}
    for name in match.questions:
        for by, answer in ((rows[0]["model"], match.ours[name]), (match.theirs[name].by, match.theirs[name])):
            if answer.tokens is None:
                return None
            found[by, name] = arena_style.style(answer.text, answer.tokens)
    return found


def rating_figures(rows: Sequence[Row], resamples: int, seed: int) -> Figures:
    """MT-Bench's figures of the rows of one model."""
    if all(row["score"] == -1 for row in rows):
        return [], []
    score = mt_bench.score_rows(rows, resamples, seed)
    found = [Figure.of(f"{score.model}: overall", score.overall, unit="")]
    found += [Figure(f"{score.model}: turn {turn}", mean, unit="") for turn, mean in score.turns.items()]
    return found, [f"{score.model}: {note}" for note in score.notes]


def as_text(rows: Sequence[Row], lines: bool) -> str:
    """JSON, or JSON Lines."""
    if lines:
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    return json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n"
