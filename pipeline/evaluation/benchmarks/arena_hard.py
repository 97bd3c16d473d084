"""Arena-Hard v0.1 and v2.0 (Li et al. 2024, arXiv 2406.11939): chances of winning against one baseline, from battles.

Every model meets only the baseline, so that the Bradley-Terry fit of v0.1 separates, and its chance of a win is exactly
the mean of the model's points, battles of a strong verdict counted three times. What is resampled for an interval is
questions: the two games of one are not independent. The authors resample battles; `resample="battles"` does as they do.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import LeftOut, Row, number, read, require, text
from pipeline.evaluation.benchmarks.verdicts import arena_game
from pipeline.evaluation.profile import MARKDOWN, without_code
from pipeline.statistics import Interval, draws

Array = npt.NDArray[np.float64]
Version = Literal["v0.1", "v2.0"]
Resample = Literal["questions", "battles"]

LEVEL: Mapping[Version, float] = {"v0.1": 0.95, "v2.0": 0.9}  # of the authors' intervals
QUESTIONS: Mapping[str, int] = {
    "arena-hard-v0.1": 500,
    **{"hard_prompt": 500, "creative_writing": 250, "coding": 253, "math": 247},
}


@dataclass(frozen=True)
class Battle:
    """One game that counts: the model's points are 1 for a win, 1/2 for a tie, 0 for a loss."""

    question: str
    category: str
    model: str
    baseline: str
    points: float
    times: int  # how often it counts
    model_is_first: bool | None = None  # whose answer the judge saw first; None where it saw none, or none says


@dataclass(frozen=True)
class Score:
    """One model's chance of a win against the baseline, in percent, in one category."""

    category: str
    model: str
    baseline: str
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
) -> list[Score]:
    """A score for every category and model of a file of judgments, or of battles as v0.1's tool writes them.

    `styles` holds `style` of the answers by (model, question): with it v2.0's style control is done.
    Raises UserError where the file is neither, or no verdict in it can be used.
    """
    return score(*read_battles(path, version), version, styles, resample, resamples, seed)


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
    categories: dict[str, list[Battle]] = defaultdict(list)
    for battle in battles:
        categories[battle.category].append(battle)
    said = [f"{count} {reason} are left out" for reason, count in left_out.items()]
    return [
        score
        for category, own in sorted(categories.items())
        for score in _scores(category, own, version, styles, resample, resamples, seed, said)
    ]


def points(path: Path, version: Version) -> dict[str, dict[Hashable, float]]:
    """Mean points by model and question, strong verdicts counted three times."""
    found: dict[str, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    for battle in read_battles(path, version)[0]:
        found[battle.model][battle.question] += [battle.points] * battle.times
    return {model: {question: fmean(each) for question, each in own.items()} for model, own in found.items()}


def read_battles(path: Path, version: Version) -> tuple[list[Battle], LeftOut]:
    """The games of a file that count, and what does not."""
    left_out = LeftOut()
    rows = read(path, left_out)
    require(rows, [("games", "winner")], path, "Arena-Hard judgments")
    return battles_of(rows, version, left_out, str(path)), left_out


def battles_of(rows: Sequence[Row], version: Version, left_out: LeftOut, source: str) -> list[Battle]:
    """The games of rows that count. Raises UserError where none does."""
    battles = [battle for row in rows for battle in _battles(row, version, left_out)]
    if not battles:
        raise UserError(f"{source}: no verdict can be used ({left_out})", "mend the judgments, or judge again")
    return battles


def _battles(row: Row, version: Version, left_out: LeftOut) -> list[Battle]:
    question = text(row, "uid", "question_id") or str(row.get("uid", row.get("question_id", "")))
    if "games" not in row:
        return _written_battle(row, question, left_out)
    games, model = row["games"], text(row, "model")
    if not isinstance(games, list) or len(games) != 2 or model is None:
        left_out["rows that hold no two games of a model"] += 1
        return []
    category = text(row, "subcategory", "category") or "arena-hard-v0.1"
    labels = [text(game, "score") if isinstance(game, dict) else None for game in games]
    played = [arena_game(label, model_is_a=number == 1) for number, label in enumerate(labels)]
    if version == "v2.0" and None in played:  # as its authors do: one game without a verdict takes the other along
        left_out["questions with a game that has no verdict"] += 1
        return []
    if without := played.count(None):
        left_out["games without a verdict"] += without
    baseline = text(row, "baseline") or "baseline"
    return [
        Battle(question, category, model, baseline, *one, model_is_first=None if _alike(game) else number == 1)
        for number, (game, one) in enumerate(zip(games, played, strict=True))
        if one
    ]


def _alike(game: Row) -> bool:
    """Whether a verdict is on two answers that are one and the same, as we write it: no judge said a word of them."""
    return game.get("judgment") == {"answer": ""}


def _written_battle(row: Row, question: str, left_out: LeftOut) -> list[Battle]:
    """A row of v0.1's battles: the baseline is model_a, strong verdicts stand there three times already."""
    points = {"model_a": 0.0, "model_b": 1.0, "tie": 0.5, "tie (bothbad)": 0.5}.get(text(row, "winner") or "")
    baseline, model = text(row, "model_a"), text(row, "model_b")
    if points is None or baseline is None or model is None:
        left_out["battles without models or a winner"] += 1
        return []
    return [Battle(question, "arena-hard-v0.1", model, baseline, points, 1)]


def _scores(
    category: str,
    battles: Sequence[Battle],
    version: Version,
    styles: Mapping[tuple[str, str], Array] | None,
    resample: Resample,
    resamples: int,
    seed: int,
    said: Sequence[str],
) -> list[Score]:
    names = sorted({battle.model for battle in battles})
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
        questions = len({battles[index].question for index in own})
        notes = list(said)
        if version == "v2.0" and styles is None:
            notes.append("without style control, which needs the answers")
        if questions < QUESTIONS.get(category, questions):
            notes.append(f"{questions} of {QUESTIONS[category]} questions: not comparable with the leaderboard")
        scores.append(
            Score(
                category,
                name,
                battles[own[0]].baseline,
                _interval(rates, LEVEL[version]),
                questions,
                int(times_RB[0].sum()),
                _first_shown([battles[index] for index in own]),
                controlled.get(name),
                tuple(notes),
            )
        )
    return sorted(scores, key=lambda score: -score.rate.value)


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


def _interval(rates_R: Array, level: float) -> Interval:
    """The first rate, between the percentiles of the others."""
    drawn = rates_R[1:][np.isfinite(rates_R[1:])]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (rates_R[0], rates_R[0])
    return Interval(float(rates_R[0]), float(low), float(high))


def style(answer: str, tokens: int) -> Array:
    """What style control knows of an answer: tokens, headers, list items and bold passages outside of code."""
    prose = without_code(answer)
    return np.array(
        [tokens, *(len(MARKDOWN[name].findall(prose)) for name in ("headers", "list_items", "bold"))], float
    )


def style_differences(ours: Array, theirs: Array) -> Array:
    """v2.0's four features of a pair of answers: relative length, and relative densities of markdown."""
    length = (ours[0] - theirs[0]) / max(ours[0] + theirs[0], 1)
    dense, other = ours[1:] / (ours[0] + 1), theirs[1:] / (theirs[0] + 1)
    return np.array([length, *((dense - other) / (dense + other + 1))])


def style_controlled(
    battles: Sequence[Battle], styles: Mapping[tuple[str, str], Array], counts_RB: Array, level: float
) -> dict[str, Interval]:
    """Chances of a win at equal style, by model: one logistic fit of v2.0 over all models of a category.

    Each model has a strength, and the four standardised style features share theirs. Raises UserError where an answer's
    style is not known.
    """
    names = sorted({battle.model for battle in battles})
    missing = [key for battle in battles for key in _sides(battle) if key not in styles]
    if missing:
        model, question = missing[0]
        raise UserError(
            f"style control: no answer of {model} to question {question} (and {len(set(missing)) - 1} more)",
            "give --answers the answer files of all models and of the baseline, or leave it out",
        )
    raw = np.array([style_differences(*(styles[key] for key in _sides(battle))) for battle in battles])
    weight = np.array([battle.times for battle in battles], float)
    repeated = np.repeat(raw, weight.astype(int), axis=0)
    spread = repeated.std(axis=0, ddof=1)
    features = (raw - repeated.mean(axis=0)) / np.where(spread > 0, spread, 1)
    design = np.concatenate([np.eye(len(names))[[names.index(battle.model) for battle in battles]], features], axis=1)
    points = np.array([battle.points for battle in battles])
    fitted = np.array([_logistic(design, points, weight * counts) for counts in counts_RB])
    chances = 50 * (1 + np.tanh(fitted[:, : len(names)] / 2))
    return {name: _interval(chances[:, index], level) for index, name in enumerate(names)}


def _sides(battle: Battle) -> tuple[tuple[str, str], tuple[str, str]]:
    return (battle.model, battle.question), (battle.baseline, battle.question)


def _logistic(design_BK: Array, points_B: Array, weights_B: Array) -> Array:
    """Weights [K] of a logistic fit to soft outcomes, by Newton's method; a trace of a penalty keeps it finite."""
    weights_K = np.zeros(design_BK.shape[1])
    for _ in range(50):
        chances = 0.5 * (1 + np.tanh(design_BK @ weights_K / 2))
        gradient = design_BK.T @ (weights_B * (points_B - chances)) - 1e-6 * weights_K
        hessian = (design_BK * (weights_B * chances * (1 - chances))[:, None]).T @ design_BK
        step = np.linalg.solve(hessian + 1e-6 * np.eye(len(weights_K)), gradient)
        step /= max(1.0, float(np.abs(step).max()) / 4)
        weights_K += step
        if np.abs(step).max() < 1e-9:
            break
    return weights_K


def read_styles(paths: Sequence[Path]) -> dict[tuple[str, str], Array]:
    """Styles of the answers of model_answer files, by (model, question).

    Lengths are the tokens that an answer's own metadata count. Raises UserError where a file holds no answers, or no
    such counts.
    """
    found: dict[tuple[str, str], Array] = {}
    for path in paths:
        rows = read(path, LeftOut())
        require(rows, [("uid", "question_id"), ("messages", "choices")], path, "Arena-Hard answers")
        for row in rows:
            answer, model = answer_of(row), text(row, "model", "model_id")
            if answer is None or model is None:
                continue
            tokens = tokens_of(row)
            if tokens is None:
                raise UserError(f"{path}: answers without metadata.token_len", "count their tokens into metadata first")
            question = text(row, "uid", "question_id") or str(row.get("uid", row.get("question_id")))
            found[model, question] = style(answer, tokens)
    return found


def tokens_of(row: Row) -> int | None:
    """The length of an answer as its own metadata count it; None where they do not."""
    metadata = row.get("metadata") or row.get("conv_metadata") or {}
    found = number(metadata.get("token_len")) if isinstance(metadata, dict) else None
    return None if found is None else int(found)


def answer_of(row: Row) -> str | None:
    """The last assistant message: `messages` as v2.0 writes them, `choices[0].turns` as v0.1 and FastChat do."""
    try:
        last = row["messages"][-1]["content"] if "messages" in row else row["choices"][0]["turns"][-1]
    except (LookupError, TypeError):
        return None
    for name in ("content", "answer"):
        last = last.get(name, last) if isinstance(last, dict) else last
    return last if isinstance(last, str) else None
