"""AlpacaEval's length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475): what is won at equal length.

    logit P(model i beats the baseline on question q) = a tanh(s_iq) + b d_q + c

s is the baseline's length less the model's, in characters, over its standard deviation; d is the question's difficulty,
the same for all models; a, b and c are the model's own, fitted to its preferences together with those of two rewritten
baselines (a longer and a shorter one, of weight 0.1 a row and without c), which tie a to what length alone does. The
length-controlled win rate is the mean of sigmoid(b d_q + c).

Difficulties and the rewritten baselines' preferences are shared coefficients, not something one model's annotations can
give. Those in data/alpaca_eval_length_control.csv are reconstructed from published results: a single difficulty is not
the authors' own, but win rates of 13 models come out within 0.11 points of the published ones, of a model that the
reconstruction never saw within about one.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.statistics import draws

Array = npt.NDArray[np.float64]

PACKAGED = Path(__file__).parent / "data" / "alpaca_eval_length_control.csv"
REWRITTEN = ("verbose", "concise")
REWRITTEN_WEIGHT = 0.1  # of a row: 0.2 over two baselines
_STEPS = 30


@dataclass(frozen=True)
class Coefficients:
    """What the fits of all models share. N questions, 2 rewritten baselines."""

    label: str
    rows: dict[str, int]  # of an instruction's md5
    difficulties_N: Array
    baseline_lengths_N: Array
    rewritten_lengths_2N: Array
    rewritten_preferences_2N: Array  # of the rewritten baseline over the baseline, 0 to 1

    def find(self, instruction: str) -> int | None:
        """The row of a question; None where it is not one of AlpacaEval's."""
        return self.rows.get(hashlib.md5(instruction.encode("utf-8", "surrogatepass")).hexdigest())


@dataclass(frozen=True)
class LengthControlled:
    """Rates in percent. `spread` is what AlpacaEval prints as standard error: of fitted chances, not of the rate."""

    win_rate: float
    spread: float
    low: float  # 95 % bootstrap over questions
    high: float
    weights: tuple[float, float, float]  # a, b, c
    questions: int
    coefficients: str


def read_coefficients(path: Path = PACKAGED) -> Coefficients:
    """Raises UserError where the file is no such table."""
    label = "reconstructed, packaged" if path == PACKAGED else str(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))

        def column(name: str) -> Array:
            return np.array([float(row[name]) for row in rows])

        return Coefficients(
            label,
            {row["instruction_md5"]: number for number, row in enumerate(rows)},
            column("instruction_difficulty"),
            column("baseline_len"),
            np.stack([column(f"gamed_{name}_len") for name in REWRITTEN]),
            np.stack([column(f"gamed_{name}_pref") for name in REWRITTEN]),
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        problem = f"length-control coefficients {path}: {type(error).__name__}: {error}"
        raise UserError(problem, f"give a CSV file with the columns of {PACKAGED.name}") from None


def length_controlled(
    preferences_Q: Sequence[float],
    longer_Q: Sequence[float],
    rows_Q: Sequence[int],
    shared: Coefficients,
    resamples: int = 1000,
    seed: int = 0,
) -> LengthControlled:
    """Of Q questions: P(model preferred), characters by which the baseline is longer, and the coefficients' rows.

    A model whose answers are the baseline's own has 50, as in the original. Raises ValueError without questions.
    """
    preferences, longer, d_Q = np.array(preferences_Q), np.array(longer_Q, float), shared.difficulties_N[list(rows_Q)]
    if not len(preferences):
        raise ValueError("no questions: nothing to control the length of")
    if not longer.any() and (preferences == 0.5).all():
        return LengthControlled(50.0, 0.0, 50.0, 50.0, (0.0, 0.0, 0.0), len(preferences), shared.label)
    counts_RQ = np.concatenate([np.ones((1, len(preferences))), draws(len(preferences), resamples, seed)])
    fit = _fit(preferences, longer, d_Q, counts_RQ[:1], shared, np.zeros((1, 3)))
    weights_R3 = _fit(preferences, longer, d_Q, counts_RQ, shared, fit)  # the resamples' fits are not far from it
    chances_RQ = _sigmoid(weights_R3[:, 1:2] * d_Q + weights_R3[:, 2:])
    rates_R = 100 * (chances_RQ * counts_RQ).sum(1) / counts_RQ.sum(1)
    low, high = np.quantile(rates_R[1:], [0.025, 0.975]) if resamples else (rates_R[0], rates_R[0])
    a, b, c = weights_R3[0].tolist()
    spread = 100 * chances_RQ[0].std(ddof=1) / len(preferences) ** 0.5 if len(preferences) > 1 else 0.0
    return LengthControlled(
        float(rates_R[0]), float(spread), float(low), float(high), (a, b, c), len(preferences), shared.label
    )


def _fit(
    preferences_Q: Array, longer_Q: Array, d_Q: Array, counts_RQ: Array, shared: Coefficients, start_13: Array
) -> Array:
    """Weights [R, 3] of R resamples, each question taken `counts` times, by Newton's method in all of them at once."""
    # The rewritten baselines' rows are the same in every resample.
    longer_2N = shared.baseline_lengths_N - shared.rewritten_lengths_2N
    length_G = np.tanh(longer_2N / longer_2N.std(axis=1, ddof=1, keepdims=True)).ravel()
    d_G, preferences_G = np.tile(shared.difficulties_N, 2), shared.rewritten_preferences_2N.ravel()
    design_G3 = np.stack([length_G, d_G, np.zeros_like(d_G)], axis=1)

    length_RQ = np.tanh(longer_Q / _deviation(longer_Q, counts_RQ))
    ones = np.ones_like(length_RQ)
    design_RQ3 = np.stack([length_RQ, d_Q * ones, ones], axis=2)

    weights_R3 = np.repeat(start_13, len(counts_RQ), axis=0)
    for _ in range(_STEPS):
        chances_RQ = _sigmoid(np.einsum("rqk,rk->rq", design_RQ3, weights_R3))
        chances_RG = _sigmoid(weights_R3 @ design_G3.T)
        gradient = np.einsum("rqk,rq->rk", design_RQ3, counts_RQ * (preferences_Q - chances_RQ))
        gradient += REWRITTEN_WEIGHT * (preferences_G - chances_RG) @ design_G3
        curved_RQ = counts_RQ * chances_RQ * (1 - chances_RQ)
        hessian = np.einsum("rqj,rqk->rjk", design_RQ3 * curved_RQ[:, :, None], design_RQ3, optimize=True)
        curved_RG = REWRITTEN_WEIGHT * chances_RG * (1 - chances_RG)
        hessian += np.einsum("rg,gj,gk->rjk", curved_RG, design_G3, design_G3, optimize=True)
        hessian += 1e-9 * np.eye(3)  # where every preference is 0 or 1 the optimum is at infinity
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        step /= np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 4)  # full Newton steps can overshoot
        weights_R3 += step
        if np.abs(step).max() < 1e-10:
            break
    return weights_R3


def _deviation(longer_Q: Array, counts_RQ: Array) -> Array:
    """The standard deviation [R, 1] of each resample; 1 where all are alike, and then only its sign is used."""
    total = counts_RQ.sum(1, keepdims=True)
    mean = counts_RQ @ longer_Q[:, None] / total
    square = (counts_RQ * (longer_Q - mean) ** 2).sum(1, keepdims=True) / np.maximum(total - 1, 1)
    return np.where(square > 0, np.sqrt(square), 1.0)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))
