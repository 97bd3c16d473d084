"""Arena-Hard v0.1 and v2.0 (Li et al. 2024, arXiv 2406.11939): chances of winning against one baseline, from battles.

Every model meets only the baseline, so that the Bradley-Terry fit of v0.1 separates, and its chance of a win is exactly
the mean of the model's points, battles of a strong verdict counted three times. What is resampled for an interval is
questions: the two games of one are not independent. The authors resample battles; `resample="battles"` does as they do.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np

from pipeline.evaluation.benchmarks.annotations import ALL, LeftOut, Wanted, require_one
from pipeline.evaluation.benchmarks.arena_battles import Battle, Version, read_battles
from pipeline.evaluation.benchmarks.arena_style import Array, interval_of, style_controlled
from pipeline.statistics import Interval, draws

Resample = Literal["questions", "battles"]

LEVEL: Mapping[Version, float] = {"v0.1": 0.95, "v2.0": 0.9}  # of the authors' intervals
QUESTIONS: Mapping[str, int] = {
    **{"arena-hard-v0.1": 500, "arena-hard-v2.0": 750},  # of verdicts without a category
    **{"hard_prompt": 500, "creative_writing": 250, "coding": 253, "math": 247},
}
BASELINES: Mapping[str, Version] = {  # the authors'
    **{"gpt-4-0314": "v0.1", "o3-mini-2025-01-31": "v2.0", "gemini-2.0-flash-001": "v2.0"}
}


@dataclass(frozen=True)
class Score:
    """One model's chance of a win against the baseline, in percent, in one category."""

    category: str
    model: str
    baseline: str
    judge: str | None  # None where the file does not say
    rate: Interval
    questions: int
    battles: int  # as they count
    first_shown: float | None  # mean points of the answer shown first, in percent: 50 without a bias
    style_controlled: Interval | None
    notes: tuple[str, ...]


def score_file(
    path: Path,
    version: Version,
    styles: Mapping[tuple[str, str], Array] | None = None,
    resample: Resample = "questions",
    resamples: int = 1000,
    seed: int = 0,
    wanted: Wanted = ALL,
) -> list[Score]:
    """A score for every category, baseline, judge and model that is wanted of a file of judgments, or of battles as
    v0.1's tool writes them.

    `styles` holds `style` of the answers by (model, question): with it v2.0's style control is done.
    Raises UserError where the file is neither, or no verdict in it can be used.
    """
    return score(*read_battles(path, version, wanted), version, styles, resample, resamples, seed)


def score(
    battles: Sequence[Battle],
    left_out: LeftOut,
    version: Version,
    styles: Mapping[tuple[str, str], Array] | None = None,
    resample: Resample = "questions",
    resamples: int = 1000,
    seed: int = 0,
) -> list[Score]:
    """The same of battles that were read already."""
    contests: dict[tuple[str, str, str], list[Battle]] = defaultdict(list)
    for battle in battles:
        contests[battle.category, battle.baseline, battle.judge or ""].append(battle)
    said = [f"{count} {reason} are left out" for reason, count in left_out.items()]
    return [
        score
        for _, own in sorted(contests.items())
        for score in _scores(own, version, styles, resample, resamples, seed, said)
    ]


def points(path: Path, version: Version, wanted: Wanted = ALL) -> dict[str, dict[Hashable, float]]:
    """Mean points by model and question, strong verdicts counted three times.

    Raises UserError where a model's verdicts in one category are of several baselines or judges.
    """
    battles, _ = read_battles(path, version, wanted)
    for category in {battle.category for battle in battles}:
        require_one([battle for battle in battles if battle.category == category], f"{path}, {category}")
    found: dict[str, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    for battle in battles:
        found[battle.model][battle.question] += [battle.points] * battle.times
    return {model: {question: fmean(each) for question, each in own.items()} for model, own in found.items()}


def _scores(
    battles: Sequence[Battle],
    version: Version,
    styles: Mapping[tuple[str, str], Array] | None,
    resample: Resample,
    resamples: int,
    seed: int,
    said: Sequence[str],
) -> list[Score]:
    """Of battles in one category, against one baseline, by one judge: a score a model."""
    names, category = sorted({battle.model for battle in battles}), battles[0].category
    counts_RB = _draws([battle.question for battle in battles], resample, resamples, seed)
    controlled: dict[str, Interval] = {}
    if styles is not None:
        controlled = style_controlled(battles, styles, counts_RB, LEVEL[version])
    scores = []
    for name in names:
        own = [index for index, battle in enumerate(battles) if battle.model == name]
        points = np.array([battles[index].points for index in own])
        times_RB = counts_RB[:, own] * np.array([battles[index].times for index in own])
        with np.errstate(invalid="ignore"):  # a resample may hold no battle of a model
            rates = 100 * (times_RB @ points) / times_RB.sum(1)
        of_model = [battles[index] for index in own]
        questions = len({battle.question for battle in of_model})
        scores.append(
            Score(
                category,
                name,
                battles[0].baseline,
                battles[0].judge,
                interval_of(rates, LEVEL[version]),
                questions,
                int(times_RB[0].sum()),
                _first_shown(of_model),
                controlled.get(name),
                (*said, *_notes(of_model, questions, version, styles is not None)),
            )
        )
    return sorted(scores, key=lambda score: -score.rate.value)


def _notes(battles: Sequence[Battle], questions: int, version: Version, controlled: bool) -> Iterator[str]:
    """What must be said of a score over a model's battles in one category."""
    baseline, category = battles[0].baseline, battles[0].category
    if version == "v2.0" and not controlled:
        yield "without style control, which needs the answers"
    if (other := BASELINES.get(baseline, version)) != version:
        yield f"{baseline} is the baseline of Arena-Hard {other}, not of {version}"
    if differ := sum(battle.differs for battle in battles):
        yield f"{differ} stored labels are not what the judgment says"
    if category not in QUESTIONS:
        yield f"{category} is no category of Arena-Hard's: not comparable with its leaderboard"
    if questions < QUESTIONS.get(category, questions):
        yield f"{questions} of {QUESTIONS[category]} questions: not comparable with the leaderboard"


def _first_shown(battles: Sequence[Battle]) -> float | None:
    known = [battle for battle in battles if battle.model_is_first is not None]
    return 100 * fmean(b.points if b.model_is_first else 1 - b.points for b in known) if known else None


def _draws(questions: Sequence[str], resample: Resample, resamples: int, seed: int) -> Array:
    """How often each battle is drawn, [1 + resamples, battles]; the first row is all of them once."""
    units: list[Hashable] = list(questions) if resample == "questions" else list(range(len(questions)))
    place = {name: number for number, name in enumerate(dict.fromkeys(units))}
    of_battle = [place[name] for name in units]
    drawn = draws(len(place), resamples, seed)
    return np.concatenate([np.ones((1, len(questions))), drawn[:, of_battle]])
