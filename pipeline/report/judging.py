"""From what the judge stage wrote to what the page shows of it: the judge's figures, their breakdown, the verdicts.

Rows are those of `pipeline.results.tables` RESPONSES, GAMES and RATINGS, and of the judge's baselines.parquet.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation import breakdown
from pipeline.evaluation.benchmarks.verdicts import SCALE
from pipeline.evaluation.breakdown import Longer, Value
from pipeline.evaluation.judging.games import Game, shares
from pipeline.evaluation.profile import profile
from pipeline.report.outcomes import MODELS, Judged, Match, Model, OwnFigure, Rated, Saying, Verdict
from pipeline.statistics import Interval, Paired

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A benchmark's questions and the answers to them, all by question id."""

    lengths: Mapping[str, int]  # of the questions, in characters; of a conversation the first question's
    categories: Mapping[str, str]
    answers: Mapping[Model, Mapping[str, str]]  # the first turn's
    baselines: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by name

    @staticmethod
    def of(responses: Mapping[Model, Sequence[Row]], baselines: Sequence[Row] = ()) -> "Asked":
        """From the rows of one benchmark: both models' answers, and those of baselines."""
        first = {model: [row for row in rows if row["turn"] == 1] for model, rows in responses.items()}
        named = {row["question_id"]: category(row) for row in first["base"]}
        others: dict[str, dict[str, str]] = {}
        for row in baselines:
            others.setdefault(row["name"], {})[row["question_id"]] = row["response"]
        return Asked(
            lengths={row["question_id"]: len(question(row)) for row in first["base"]},
            categories={key: name for key, name in named.items() if name},
            answers={model: {row["question_id"]: row["response"] for row in rows} for model, rows in first.items()},
            baselines=others,
        )


def question(row: Row) -> str:
    """What was asked last, of a row of RESPONSES."""
    return str(json.loads(row["prompt"])[-1]["content"])


def category(row: Row) -> str:
    """What the question's owner files it under; empty where that is nothing. AlpacaEval's are its data sets."""
    meta = json.loads(row["meta"])
    return str(next((meta[name] for name in ("dataset", "subcategory", "category") if meta.get(name)), ""))


def judged(
    figures: Row, asked: Asked, games: Sequence[Row], ratings: Sequence[Row], resamples: int, seed: int
) -> Judged:
    """A benchmark's `judged` of the judge's manifest, with the breakdown of its rows of GAMES and RATINGS."""
    kept = ("judge", "wording", "method", "prompt_tokens", "completion_tokens", "dollars", "notes")
    models = figures["ratings"]["models"] if figures["ratings"] else {}
    return Judged(
        **{name: figures[name] for name in kept},
        matches=[_match(match, asked, games, resamples, seed) for match in figures["matches"]],
        baselines={name: profile(list(answers.values())) for name, answers in asked.baselines.items()},
        rated=[_rated(model, models[model], asked, ratings, resamples, seed) for model in MODELS if model in models],
        paired=_paired(figures["paired"]),
        figures=[OwnFigure(**figure) for figure in figures["figures"]],
    )


def _match(match: Row, asked: Asked, games: Sequence[Row], resamples: int, seed: int) -> Match:
    """The figures of the manifest, which are in percent, in the page's shares."""
    model, against, summary = match["model"], match["against"], match["summary"]
    own = [row for row in games if row["model"] == model]
    values = [Value(key, share) for key, share in shares(Game(**row) for row in own).items() if share is not None]
    # A baseline may be of several, each for a category of questions.
    others = {key: text for answers in asked.baselines.values() for key, text in answers.items()}
    theirs = asked.answers["base"] if against == "base" else others
    longer = breakdown.differences(asked.answers[model], theirs)
    compared = [value for value in values if value.question_id in longer]
    parts = breakdown.length_parts(len(compared))
    rate, first = summary["rate"], summary["first_shown"]
    return Match(
        model=model,
        against=against,
        rate=Interval(*(rate[end] / 100 for end in ("value", "low", "high"))) if rate else None,
        first_shown=None if first is None else first / 100,
        **{name: summary[name] for name in ("questions", "games", "alike", "unparsable", "missing")},
        figures=[OwnFigure(**figure) for figure in match["figures"]],
        notes=match["notes"],
        categories=breakdown.by_category(values, asked.categories, resamples, seed),
        prompt_lengths=breakdown.by_number(values, asked.lengths, breakdown.PROMPT_PARTS, resamples, seed),
        longer=[Longer(longer[value.question_id], value.value) for value in compared],
        length_curve=breakdown.by_number(compared, longer, parts, resamples, seed),
    )


def _rated(model: Model, figures: Row, asked: Asked, ratings: Sequence[Row], resamples: int, seed: int) -> Rated:
    own = [row for row in ratings if row["model"] == model and row["rating"] is not None]
    values = [Value(row["question_id"], row["rating"]) for row in own]
    return Rated(
        model=model,
        overall=Interval(**figures["overall"]) if figures["overall"] else None,
        **{name: figures[name] for name in ("turns", "ratings", "unparsable", "missing")},
        categories=breakdown.by_category(values, asked.categories, resamples, seed, SCALE),
        prompt_lengths=breakdown.by_number(values, asked.lengths, breakdown.PROMPT_PARTS, resamples, seed, SCALE),
    )


def _paired(figures: Row | None) -> Paired | None:
    return Paired(**{**figures, "difference": Interval(**figures["difference"])}) if figures else None


def verdicts(games: Iterable[Row], ratings: Iterable[Row]) -> dict[tuple[str, str, int], list[Verdict]]:
    """What a judge made of each answer, by benchmark, question id and turn; the trained model's come first."""
    found: dict[tuple[str, str, int], list[Verdict]] = {}
    played = _by(games, "benchmark", "question_id", "model", "against")
    for (benchmark, question_id, model, against), rows in played.items():
        ((_, share),) = shares(Game(**row) for row in rows).items()
        sayings = [Saying(f"shown {'first' if row['model_first'] else 'second'}", _words(row)) for row in rows]
        found.setdefault((benchmark, question_id, 1), []).append(Verdict(model, against, share, sayings))
    for row in ratings:
        verdict = Verdict(row["model"], None, row["rating"], [Saying("", _words(row))])
        found.setdefault((row["benchmark"], row["question_id"], row["turn"]), []).append(verdict)
    return {key: sorted(own, key=lambda verdict: -MODELS.index(verdict.model)) for key, own in found.items()}


def _by(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Hashable, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _words(row: Row) -> str:
    """The judge's words; where there is no verdict, that first."""
    if row["outcome"] == "alike":
        return "The two answers are one and the same: no judge was asked."
    missing = {"unparsable": "No verdict could be read: ", "missing": "No reply: "}.get(row["outcome"], "")
    return f"{missing}{row['judgment']}"
