"""Intervals for figures over prompts. What is resampled is prompts: they differ far more than samples of one prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


def bootstrap_mean(values: Sequence[float], resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """The mean of `values`, one a prompt, with its percentile bootstrap interval.

    Where all values are alike the interval has no width, though the true figure is not known that well.
    Raises ValueError without any value.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("no values: the mean over no prompts has no interval")
    rng = np.random.default_rng(seed)
    means = [array[rng.integers(array.size, size=array.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def win_rate(
    ours: Sequence[float], theirs: Sequence[float], resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> WinRate:
    """How often `ours` scores higher than `theirs`; entry i of both is prompt i. Equal scores are a tie."""
    won = points(ours, theirs)
    return WinRate(won.count(1.0), won.count(0.5), won.count(0.0), bootstrap_mean(won, resamples, seed, level))


def points(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """What each prompt counts: win 1, tie 1/2, loss 0."""
    return [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in zip(ours, theirs, strict=True)]
