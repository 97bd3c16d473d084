"""Arena-Hard's style control: chances of a win at equal length and markdown, from the answers beside the battles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import LeftOut, Row, number, question, read, require, text
from pipeline.evaluation.benchmarks.arena_battles import Battle
from pipeline.evaluation.profile import MARKDOWN, without_code
from pipeline.statistics import Interval

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Written:
    """An answer, and its length in tokens where its own metadata count it."""

    text: str
    tokens: int | None


Answers = Mapping[tuple[str, str], Written]  # by (model, question)


def read_answers(paths: Sequence[Path]) -> dict[tuple[str, str], Written]:
    """The answers of model_answer files; one that is given again counts once.

    Raises UserError where a file holds none, or a model has different answers to one question.
    """
    found: dict[tuple[str, str], Written] = {}
    given: dict[tuple[str, str], Path] = {}
    for path in paths:
        rows = read(path, LeftOut())
        require(rows, [("uid", "question_id"), ("messages", "choices")], path, "Arena-Hard answers")
        for row in rows:
            answer, model, asked = answer_of(row), text(row, "model", "model_id"), question(row)
            if answer is None or model is None or asked is None:
                continue
            written, key = Written(answer, tokens_of(row)), (model, asked)
            if found.setdefault(key, written) != written:
                raise UserError(
                    f"--answers {path}: question {asked} has another answer of {model}, or other tokens of it, than in "
                    f"{'the same file' if given[key] == path else given[key]} before",
                    "keep the one that was judged",
                )
            given.setdefault(key, path)
    return found


def styles_of(answers: Answers) -> dict[tuple[str, str], Array]:
    """`style` of each. Raises UserError where the tokens of one are not known."""
    for (model, asked), answer in answers.items():
        if answer.tokens is None:
            problem = f"the answer of {model} to question {asked} has no metadata.token_len"
            raise UserError(f"style control: {problem}", "count the tokens of --answers into their metadata first")
    return {key: style(answer.text, answer.tokens or 0) for key, answer in answers.items()}


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
        model, asked = missing[0]
        raise UserError(
            f"style control: no answer of {model} to question {asked} (and {len(set(missing)) - 1} more)",
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
    return {name: interval_of(chances[:, index], level) for index, name in enumerate(names)}


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


def interval_of(rates_R: Array, level: float) -> Interval:
    """The first rate, between the percentiles of the others."""
    drawn = rates_R[1:][np.isfinite(rates_R[1:])]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if len(drawn) else (rates_R[0], rates_R[0])
    return Interval(float(rates_R[0]), float(low), float(high))


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
