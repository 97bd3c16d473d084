"""MT-Bench (Zheng et al. 2023, arXiv 2306.05685): a judge's ratings from 1 to 10, of two turns of 80 questions."""

import reprlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import (
    ALL,
    CONTRADICTING,
    REPEATED,
    LeftOut,
    Row,
    Wanted,
    identified,
    judge_of,
    number,
    question,
    read_numbered,
    require,
    require_one,
    text,
)
from pipeline.evaluation.benchmarks.thoughts import opened, spoken
from pipeline.evaluation.benchmarks.verdicts import SCALE, rating
from pipeline.statistics import Interval, clustered_mean

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
FIRST_QUESTION, PER_CATEGORY = 81, 10
QUESTIONS = PER_CATEGORY * len(CATEGORIES)
JUDGMENTS = 2 * QUESTIONS  # a turn each
_CATEGORY_OF = {str(FIRST_QUESTION + place): CATEGORIES[place // PER_CATEGORY] for place in range(QUESTIONS)}


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
    judge: str | None  # None where the file does not say
    overall: Interval  # 95 % bootstrap over questions
    turns: dict[int, float]
    categories: dict[str, float]
    ratings: int
    unparsable: int
    notes: tuple[str, ...]


def category_of(question: str) -> str | None:
    """The category of one of the 80 questions, by its number; None for any other."""
    return _CATEGORY_OF.get(question)


@dataclass(frozen=True)
class Ratings:
    """What can be used of one judge's judgments of one model, and what cannot."""

    model: str
    judge: str | None
    found: list[Rating]
    unparsable: int
    differ: int  # stored scores that are not what the judgment says
    thoughts: int  # stored scores that are not what the judge said after its thoughts, which counts
    left_out: LeftOut
    baseline: None = None  # answers are rated, not compared


def score_file(path: Path, resamples: int = 1000, seed: int = 0, wanted: Wanted = ALL) -> list[Score]:
    """A score for every model and judge of a file of FastChat judgments. Raises UserError where it is none."""
    read = read_ratings(path, wanted)
    for each in read:
        _require_any(each, f"{path}: {each.model}")
    scores = [_score(ratings, resamples, seed) for ratings in read]
    return sorted(scores, key=lambda score: -score.overall.value)


def score_rows(rows: Sequence[Row], resamples: int = 1000, seed: int = 0) -> Score:
    """The score of one model's judgments. Raises UserError where none of them can be used."""
    return _score(_ratings(text(rows[0], "model") or "", judge_of(rows[0]), rows, LeftOut()), resamples, seed)


def points(path: Path, wanted: Wanted = ALL) -> dict[str, dict[Hashable, float]]:
    """Ratings by model, and by question and turn.

    Raises UserError where no rating of a model can be used, or they are of several judges.
    """
    read = read_ratings(path, wanted)
    require_one(read, str(path))
    for each in read:
        _require_any(each, f"{path}: {each.model}")
    return {each.model: {(one.question, one.turn): one.value for one in each.found} for each in read}


def read_ratings(path: Path, wanted: Wanted = ALL) -> list[Ratings]:
    """Those of a file that are wanted, by model and judge.

    Rows on questions that are none of the benchmark's are left out, unless all are: a set of one's own is rated as one.
    Raises UserError where there are no others, most are of such questions, or turns are counted from 0.
    """
    unread = LeftOut()
    numbered = read_numbered(path, unread)
    require(numbered.values(), [("question_id", "uid"), ("score", "judgment")], path, "MT-Bench judgments")
    turns = Counter(number(row.get("turn")) for row in numbered.values())
    if turns[0] and not turns[2]:
        problem = f"{path}: {turns[0]} rows are of turn 0, and none of turn 2: turns that are counted from 0"
        raise UserError(problem, "count them from 1, as FastChat does")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in identified(_of_the_benchmark(numbered, unread, path), unread):
        groups.setdefault((text(row, "model", "model_id") or "", judge_of(row) or ""), []).append(row)
    if not groups:
        raise UserError(f"{path}: no verdict can be used ({unread})", "mend the judgments, or judge again")
    return wanted.of(
        [_ratings(model, judge or None, own, LeftOut(unread)) for (model, judge), own in sorted(groups.items())],
        str(path),
    )


def _of_the_benchmark(numbered: dict[int, Row], left_out: LeftOut, path: Path) -> dict[int, Row]:
    """The rows but for those on questions of others, which are counted; all of them where none is MT-Bench's."""
    named = {number: asked for number, row in numbered.items() if (asked := question(row)) is not None}
    others = {number: asked for number, asked in named.items() if category_of(asked) is None}
    if len(others) in (0, len(named)):
        return numbered
    first = f"row {next(iter(others))}: {reprlib.repr(next(iter(others.values())))}"
    if 2 * len(others) > len(named):
        raise UserError(
            f"{path}: {len(others)} of {len(named)} rows are on questions that are none of MT-Bench's ({first})",
            f"give the rows of its questions, {FIRST_QUESTION} to {FIRST_QUESTION + QUESTIONS - 1}, or the others, in "
            "a file of their own",
        )
    left_out[f"whose question is none of MT-Bench's ({first})"] += len(others)
    return {number: row for number, row in numbered.items() if number not in others}


def _ratings(model: str, judge: str | None, rows: Sequence[Row], left_out: LeftOut) -> Ratings:
    found: dict[tuple[str, int], Rating] = {}
    unparsable = differ = thoughts = 0
    judgments = opened([text(row, "judgment") or "" for row in rows])
    for row, words in zip(rows, judgments, strict=True):
        asked, turn = question(row) or "", number(row.get("turn", 1))
        stored, read_again = number(row.get("score")), rating(words)
        thought = spoken(words) != words
        value = stored if "score" in row and (not thought or stored == -1) else read_again
        if value is None or value == -1:  # how FastChat writes a verdict that it could not read, words and thoughts
            unparsable += 1
        elif turn not in (1, 2):
            left_out["of no turn 1 or 2"] += 1
        elif earlier := found.get((asked, int(turn))):
            left_out[REPEATED if earlier.value == value else CONTRADICTING] += 1
        else:
            differ += not thought and read_again is not None and read_again != value
            thoughts += thought and "score" in row and stored != value
            found[asked, int(turn)] = Rating(asked, int(turn), category_of(asked), value)
    return Ratings(model, judge, list(found.values()), unparsable, differ, thoughts, left_out)


def _require_any(read: Ratings, what: str) -> None:
    if not read.found:
        why = f"{read.unparsable} unparsable; {read.left_out}" if read.left_out else f"{read.unparsable} unparsable"
        raise UserError(f"{what}: no rating can be used ({why})", "mend the judgments, or judge again")


def _score(read: Ratings, resamples: int, seed: int) -> Score:
    _require_any(read, read.model)
    ratings = read.found
    notes = [f"{count} rows {reason} are left out" for reason, count in read.left_out.items()]
    if read.unparsable:
        notes.append(f"{read.unparsable} verdicts could not be read and count for nothing")
    if read.differ:
        notes.append(f"{read.differ} stored scores are not what the judgment says")
    if read.thoughts:
        notes.append(f"{read.thoughts} stored scores were read out of the judge's thoughts: its words count")
    if beyond := sum(not SCALE[0] <= each.value <= SCALE[1] for each in ratings):
        notes.append(f"{beyond} ratings are outside of 1 to 10, and count as in the original")
    if others := {each.question for each in ratings if each.category is None}:
        told = reprlib.repr(min(others))
        notes.append(
            f"{len(others)} questions are none of MT-Bench's (such as {told}): not comparable with its leaderboard"
        )
    elif len(ratings) < JUDGMENTS:
        notes.append(f"{len(ratings)} of {JUDGMENTS} ratings: not comparable with the leaderboard")
    values = [each.value for each in ratings]
    return Score(
        model=read.model,
        judge=read.judge,
        overall=clustered_mean(values, [each.question for each in ratings], resamples, seed, within=SCALE),
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
