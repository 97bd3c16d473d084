"""95 % intervals of figures over prompts. What is resampled is prompts: they differ far more than samples of one."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Interval:
    """A figure and the two ends of its confidence interval, all in the figure's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class WinRate:
    """Counts over prompts, and the mean of their points (win 1, tie 1/2, loss 0)."""

    wins: int
    ties: int
    losses: int
    rate: Interval


def share_of(total: int, share: float) -> Fraction:
    """`share` of `total` as it is written: 0.29 of 100 are 29, and 18.4 % of 375 are 69, where floats fall short."""
    return total * Fraction(str(share))


def bootstrap_mean(
    values: Sequence[float], resamples: int = 2000, seed: int = 0, within: tuple[float, float] = (0.0, 1.0)
) -> Interval:
    """The mean of `values`, one a prompt, with its percentile bootstrap interval; of values alike that of `alike`.

    Raises ValueError without any value.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values: the mean over no prompts has no interval")
    if np.ptp(array) == 0:
        return alike(float(array[0]), array.size, within)
    rng = np.random.default_rng(seed)
    means = [array[rng.integers(array.size, size=array.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


def alike(value: float, trials: int, within: tuple[float, float]) -> Interval:
    """The interval of a mean of so many trials that all gave one value, and that might have given any `within`.

    Resamples of them would all be that value, though the true mean is not known that well: by Wilson's bound as large a
    share of trials may give something else, at either end. Of values of 0 and 1 it is Wilson's interval.
    """
    share = wilson(0.0, trials).high
    low, high = min(value, within[0]), max(value, within[1])
    return Interval(value, value - share * (value - low), value + share * (high - value))


def win_rate(ours: Sequence[float], theirs: Sequence[float], resamples: int = 2000, seed: int = 0) -> WinRate:
    """How often `ours` scores higher than `theirs`; entry i of both is prompt i. Equal scores are a tie."""
    won = points(ours, theirs)
    return WinRate(won.count(1.0), won.count(0.5), won.count(0.0), bootstrap_mean(won, resamples, seed))


def points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """What each prompt counts: win 1, tie 1/2, loss 0."""
    return [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in zip(ours, theirs, strict=True)]


def draws(units: int, resamples: int, seed: int | Sequence[int]) -> npt.NDArray[np.int64]:
    """How often each unit is drawn in each resample of as many units, [resamples, units]."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=resamples)


def clustered_mean(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    resamples: int = 1000,
    seed: int = 0,
    *,
    within: tuple[float, float],
) -> Interval:
    """The mean of `values`, with an interval by resampling the clusters they belong to, such as a prompt's turns.

    Of values alike it is that of `alike`, a cluster a trial.
    """
    array, place = np.asarray(values, dtype=np.float64), {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    if array.size == 0:
        raise ValueError("no values: the mean over no clusters has no interval")
    if np.ptp(array) == 0:
        return alike(float(array[0]), len(place), within)
    of_value = [place[name] for name in clusters]
    counts = draws(len(place), resamples, seed)[:, of_value]
    low, high = np.quantile(counts @ array / counts.sum(1), [0.025, 0.975])
    return Interval(float(array.mean()), float(low), float(high))


@dataclass(frozen=True)
class Paired:
    """Two models, or two judges of one, on the same questions."""

    questions: int
    difference: Interval  # mean of ours - theirs
    higher: int
    equal: int
    lower: int
    p_value: float  # of the sign test: as many or more on one side, were both sides equally likely


def paired(
    ours: Mapping[Any, float],
    theirs: Mapping[Any, float],
    resamples: int = 1000,
    seed: int = 0,
    scale: tuple[float, float] = (0.0, 1.0),
) -> Paired:
    """Ours against theirs, of one scale, over the questions that both have. Raises ValueError where there is none.

    A key is a question, or a question and its turn. A question counts once: turns that both have are averaged first, as
    those of one conversation are no independent trials, of the sign test or of the resamples.
    """
    turns: dict[Any, list[float]] = {}
    for key in ours:
        if key in theirs:
            turns.setdefault(key[0] if isinstance(key, tuple) else key, []).append(ours[key] - theirs[key])
    differences = [fmean(own) for own in turns.values()]
    higher, lower = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    within = scale[0] - scale[1], scale[1] - scale[0]
    interval = clustered_mean(differences, list(turns), resamples, seed, within=within)
    return Paired(len(turns), interval, higher, len(turns) - higher - lower, lower, sign_test(higher, lower))


def sign_test(higher: int, lower: int) -> float:
    """The two-sided exact p-value of so many differences above and below zero."""
    total, fewer = higher + lower, min(higher, lower)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def bin_width(low: float, high: float, most: int = 30) -> float:
    """1, 2 or 5 times a power of ten, so that at most `most` + 1 bins cover all."""
    least = max((high - low) / most, 1e-3 * max(abs(low), abs(high)), 1e-9)
    power = 10.0 ** math.floor(math.log10(least))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
    return float(f"{width:.12g}")


def binned(values: npt.NDArray[np.float64], width: float) -> dict[int, int]:
    """How many values are in each bin that has any: bin b begins at b * width."""
    # A value that lies on an edge but for rounding belongs to the bin that the edge opens.
    bins: npt.NDArray[np.int64] = np.floor(values / width + 1e-9).astype(np.int64)
    found, times = np.unique(bins, return_counts=True)
    return dict(zip(found.tolist(), times.tolist(), strict=True))


# Student's t at 97.5 % for 1 to 10 degrees of freedom; beyond, the first terms of its expansion around the normal's.
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def over_seeds(values: Sequence[float]) -> Interval | None:
    """The mean of runs that differ by their seed alone, with its 95 % interval by Student's t; None of a single run.

    Of two runs the interval is 12.7 standard errors to each side: two say little of how far a third would be.
    """
    runs = len(values)
    if runs < 2:
        return None
    half = _student(runs - 1) * stdev(values) / math.sqrt(runs)
    mean = fmean(values)
    return Interval(mean, mean - half, mean + half)


def _student(freedom: int) -> float:
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def wilson(share: float, trials: int) -> Interval:
    """A share of so many independent trials, with Wilson's 95 % interval. Raises ValueError without any."""
    if trials < 1:
        raise ValueError("no trials: a share of none has no interval")
    z = 1.959964
    middle, spread = share + z * z / (2 * trials), z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2)
    whole = 1 + z * z / trials
    return Interval(share, max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole))


def expected_best(values: Sequence[float]) -> list[float]:
    """The mean, over all ways to pick k of the values, of the best of them; for k from 1 to their number.

    What somebody who makes k such trials may expect of the best one: the i-th smallest of n is the best of
    C(i-1, k-1) of the C(n, k) picks.
    """
    rising, n = sorted(values), len(values)
    return [
        math.fsum(math.comb(i, k - 1) * value for i, value in enumerate(rising)) / math.comb(n, k)
        for k in range(1, n + 1)
    ]


def kappa(ours: Sequence[Hashable], theirs: Sequence[Hashable]) -> float | None:
    """Cohen's kappa of two raters' categories of the same items; None where chance alone would agree always."""
    total = len(ours)
    agreed = sum(a == b for a, b in zip(ours, theirs, strict=True)) / total
    mine, other = Counter(ours), Counter(theirs)
    chance = sum(mine[name] * other[name] for name in mine) / total**2
    return None if chance == 1 else (agreed - chance) / (1 - chance)
