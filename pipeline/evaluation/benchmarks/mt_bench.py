"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): a judge's ratings from 1 to 10, of two turns of 80 questions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import LeftOut, Row, by, number, read, require, text
from pipeline.evaluation.benchmarks.verdicts import rating
from pipeline.statistics import Interval, clustered_mean

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_QUESTION, PER_CATEGORY = 81, 10
JUDGMENTS = 160


@dataclass(frozen=True)
class Rating:
    question: str
    turn: int
    category: str | None
    value: float


@dataclass(frozen=True)
class Score:
    """One model's mean ratings. The overall one is over all rows, not the mean of the turns' means."""

    model: str
    overall: Interval  # 95 % bootstrap over questions
    turns: dict[int, float]
    categories: dict[str, float]
    ratings: int
    unparsable: int
    notes: tuple[str, ...]


def category_of(question: str) -> str | None:
    """The category of one of the 80 questions, by its number; None for any other."""
    if not question.isdecimal() or len(question) > 4:
        return None
    place = (int(question) - FIRST_QUESTION) // PER_CATEGORY
    return CATEGORIES[place] if 0 <= place < len(CATEGORIES) else None


@dataclass(frozen=True)
class Ratings:
    """What can be used of one model's judgments, and what cannot."""

    model: str
    found: list[Rating]
    unparsable: int
    differ: int  # stored scores that are not what the judgment says
    left_out: LeftOut


def score_file(path: Path, resamples: int = 1000, seed: int = 0) -> list[Score]:
    """A score for every model of a file of FastChat judgments. Raises UserError where it is none."""
    scores = [_score(ratings, resamples, seed) for ratings in read_models(path)]
    return sorted(scores, key=lambda score: -score.overall.value)


def score_rows(rows: Sequence[Row], resamples: int = 1000, seed: int = 0) -> Score:
    """The score of one model's judgments. Raises UserError where none of them can be used."""
    return _score(_ratings(text(rows[0], "model") or "", rows, LeftOut()), resamples, seed)


def points(path: Path) -> dict[str, dict[Hashable, float]]:
    """Ratings by model, and by question and turn."""
    return {each.model: {(one.question, one.turn): one.value for one in each.found} for each in read_models(path)}


def read_models(path: Path) -> list[Ratings]:
    unread = LeftOut()
    rows = read(path, unread)
    require(rows, [("question_id",), ("score", "judgment")], path, "MT-Bench judgments")
    return [_ratings(name, own, LeftOut(unread)) for name, own in by(rows, "model", "model_id").items()]


def _ratings(model: str, rows: Sequence[Row], left_out: LeftOut) -> Ratings:
    found: dict[tuple[str, int], Rating] = {}
    unparsable = differ = 0
    for row in rows:
        question, turn = str(row.get("question_id")), number(row.get("turn", 1))
        words, stored = text(row, "judgment"), number(row.get("score"))
        read_again = rating(words) if words is not None else None
        value = stored if "score" in row else read_again
        if value is None or value == -1:  # how FastChat writes a verdict that it could not read
            unparsable += 1
        elif turn not in (1, 2):
            left_out["of no turn 1 or 2"] += 1
        elif (question, int(turn)) in found:
            left_out["for a question and turn that have one already"] += 1
        else:
            differ += read_again is not None and read_again != value
            found[question, int(turn)] = Rating(question, int(turn), category_of(question), value)
    return Ratings(model, list(found.values()), unparsable, differ, left_out)


def _score(read: Ratings, resamples: int, seed: int) -> Score:
    ratings = read.found
    if not ratings:
        why = f"{read.unparsable} unparsable; {read.left_out}"
        raise UserError(f"{read.model}: no rating can be used ({why})", "mend the judgments, or judge again")
    notes = [f"{count} rows {reason} are left out" for reason, count in read.left_out.items()]
    if read.unparsable:
        notes.append(f"{read.unparsable} verdicts could not be read and count for nothing")
    if read.differ:
        notes.append(f"{read.differ} stored scores are not what the judgment says")
    if beyond := sum(not 1 <= each.value <= 10 for each in ratings):
        notes.append(f"{beyond} ratings are outside of 1 to 10, and count as in the original")
    if len(ratings) < JUDGMENTS:
        notes.append(f"{len(ratings)} of {JUDGMENTS} ratings: not comparable with the leaderboard")
    return Score(
        model=read.model,
        overall=clustered_mean([each.value for each in ratings], [each.question for each in ratings], resamples, seed),
        turns={turn: _mean([r for r in ratings if r.turn == turn]) for turn in sorted({r.turn for r in ratings})},
        categories={
            name: _mean(own) for name in CATEGORIES if (own := [each for each in ratings if each.category == name])
        },
        ratings=len(ratings),
        unparsable=read.unparsable,
        notes=tuple(notes),
    )


def _mean(ratings: Sequence[Rating]) -> float:
    return float(np.mean([each.value for each in ratings]))
