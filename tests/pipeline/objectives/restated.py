"""Every row of the table restated for one pair in plain Python: its formula, its defaults, and other settings to try.

Written from the papers and public code; shares nothing with the implementation, memory of past steps included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.pipeline.objectives.pairs import STEPS, Pair

Steps = list[list[float]]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def logistic(z: float) -> float:
    return softplus(-z)


def sigmoid(x: float) -> float:
    return math.exp(-softplus(-x))


@dataclass
class Said:
    """What a restated row says of one pair: weight * link(gap - margin) + nll, and a term averaged over tokens."""

    gap: float
    margin: float = 0.0
    link: Callable[[float], float] = logistic
    weight: float = 1.0
    nll: float = 0.0
    token_nll: float = 0.0

    def loss_at(self, gap: float) -> float:
        return self.weight * self.link(gap - self.margin) + self.nll


# --- gaps of a pair


def h(x: Pair) -> float:
    return (x.lp_w - x.lr_w) - (x.lp_l - x.lr_l)


def mean_h(x: Pair) -> float:
    return (x.lp_w - x.lr_w) / x.n_w - (x.lp_l - x.lr_l) / x.n_l


def d(x: Pair) -> float:
    return x.lp_w / x.n_w - x.lp_l / x.n_l


# --- memory of past steps


def weighted_steps(steps: Steps, momentum: float) -> list[tuple[float, float]]:
    """(weight, value) of everything seen: a step's weight falls by `momentum` a step, shared by its pairs; sum 1."""
    raw = [momentum ** (len(steps) - 1 - t) for t in range(len(steps))]
    return [(w / sum(raw) / len(step), value) for w, step in zip(raw, steps, strict=True) for value in step]


def mean_spread(steps: Steps, momentum: float) -> tuple[float, float]:
    seen = weighted_steps(steps, momentum)
    mean = math.fsum(w * value for w, value in seen)
    return mean, math.sqrt(math.fsum(w * (value - mean) ** 2 for w, value in seen))


def inclusion(steps: Steps, momentum: float, keep: float) -> Callable[[float], float]:
    """P(kept) = min(1, k w), w Gaussian; k by bisection on the share of the latest step."""
    mean, spread = mean_spread(steps, momentum)

    def kept(value: float, k: float) -> float:
        return min(1.0, k * math.exp(-0.5 * ((value - mean) / spread) ** 2))

    low, high = 0.0, 1e6
    for _ in range(100):
        k = (low + high) / 2
        low, high = (k, high) if sum(kept(v, k) for v in steps[-1]) < keep * len(steps[-1]) else (low, k)
    return lambda value: kept(value, high)


def gamma_margin(seen: list[float], gamma0: float, tau: float) -> Callable[[float], float]:
    """gamma0 q with tau log q + gamma0 sigmoid(gamma0 q - r) = c, c such that the mean over `seen` is gamma0."""

    def solve(r: float, c: float) -> float:
        low, high = (c - gamma0) / tau, c / tau
        for _ in range(60):
            x = (low + high) / 2
            low, high = (low, x) if tau * x + gamma0 * sigmoid(gamma0 * math.exp(x) - r) > c else (x, high)
        return gamma0 * math.exp(low)

    low, high = 0.0, gamma0
    for _ in range(60):
        c = (low + high) / 2
        low, high = (low, c) if sum(solve(r, c) for r in seen) > gamma0 * len(seen) else (c, high)
    return lambda r: solve(r, low)


GAPS, STATISTICS = [gap for gaps, _ in STEPS for gap in gaps], [statistics for _, statistics in STEPS]


# --- the rows: (pair, parameters) -> Said


def dpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x))


def cdpo(x: Pair, c: Any) -> Said:
    e = c.label_smoothing
    return Said(c.beta * h(x), link=lambda z: (1 - e) * logistic(z) + e * logistic(-z))


def rdpo(x: Pair, c: Any) -> Said:
    e = c.label_smoothing
    return Said(c.beta * h(x), link=lambda z: ((1 - e) * logistic(z) - e * logistic(-z)) / (1 - 2 * e))


def ipo(x: Pair, c: Any) -> Said:
    return Said(h(x), 1 / (2 * c.beta), lambda z: z**2)


def ipo_mean(x: Pair, c: Any) -> Said:
    return Said(mean_h(x), 1 / (2 * c.beta), lambda z: z**2)


def hinge(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), c.gamma0, lambda z: max(0.0, -z))


def slic(x: Pair, c: Any) -> Said:
    return Said(x.lp_w - x.lp_l, c.gamma0, lambda z: max(0.0, -z), nll=-c.nll_weight * x.lp_w)


def simpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * d(x), c.gamma0)


def cpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * (x.lp_w - x.lp_l), token_nll=-c.nll_weight * x.lp_w)


def cpo_simpo(x: Pair, c: Any) -> Said:
    return replace(simpo(x, c), token_nll=-c.nll_weight * x.lp_w)


def orpo(x: Pair, c: Any) -> Said:
    def log_odds(mean: float) -> float:
        return mean - math.log(-math.expm1(mean))

    gap = log_odds(x.lp_w / x.n_w) - log_odds(x.lp_l / x.n_l)
    return Said(gap, weight=c.odds_weight, nll=-c.nll_weight * x.lp_w / x.n_w)


def odpo(x: Pair, c: Any) -> Said:
    offset = {"log": math.log, "log1p": math.log1p, "identity": float}[c.offset]
    return Said(c.beta * h(x), c.alpha * offset(max(x.s_w - x.s_l, c.floor)))


def r_dpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), -c.alpha * (x.n_w - x.n_l))


def rpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), nll=-c.nll_weight * x.lp_w / x.n_w)


def sigmoid_norm(x: Pair, c: Any) -> Said:
    return Said(c.beta * mean_h(x))


def beta_dpo(x: Pair, c: Any) -> Said:
    mean, _ = mean_spread(STATISTICS, c.momentum)
    kept = inclusion(STATISTICS, c.momentum, c.keep) if c.keep < 1 else lambda value: 1.0
    shares = [kept(value) for value in STATISTICS[-1]]
    kept_mean = sum(s * v for s, v in zip(shares, STATISTICS[-1], strict=True)) / sum(shares)
    beta = max(c.beta * (1 + c.a * (kept_mean - mean)), 1e-3)
    return Said(beta * h(x), weight=kept(h(x)) / c.keep)


def alpha_dpo(x: Pair, c: Any) -> Said:
    mean, spread = mean_spread(STATISTICS, c.momentum)
    return Said(c.beta * d(x), c.gamma0 + c.beta * c.alpha * (mean_h(x) - mean) / spread)


def amapo(x: Pair, c: Any) -> Said:
    mean, spread = mean_spread(STATISTICS, c.momentum)
    margin = c.beta * math.exp(mean * (mean - d(x)) / spread) if d(x) < mean else 0.0
    return Said(c.beta * d(x), margin)


def madpo(x: Pair, c: Any) -> Said:
    margin, low = x.s_w - x.s_l, 1 / c.c_max
    fall = 1 + (c.c_max - 1) / (1 - low) * math.exp(c.steepness * (abs(margin) - c.threshold))
    amplifier = low + (c.c_max - low) / fall
    weight = sigmoid(amplifier * margin) / sigmoid(margin) if margin > -c.threshold else 1.0
    return Said(c.beta * h(x), weight=weight)


def gdpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * (2 * x.p - 1) * h(x))


def cdpo_soft(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), link=lambda z: x.p * logistic(z) + (1 - x.p) * logistic(-z))


def da_dpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * c.alpha * (1 + abs(x.s_w - x.s_l)) * h(x))


def uni_dpo(x: Pair, c: Any) -> Said:
    weight = sigmoid(c.eta * (x.s_w - x.s_l)) * (1 - sigmoid(c.beta * d(x) - c.fit_margin)) ** c.fit_power
    guard = x.lr_w > x.lp_w and x.s_w >= c.good_score
    return Said(c.beta * mean_h(x), weight=weight, nll=-c.nll_weight * x.lp_w / x.n_w if guard else 0.0)


def focalpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), link=lambda z: sigmoid(z) ** c.focus * logistic(z))


def hypo(x: Pair, c: Any) -> Said:
    return Said(c.beta * ((x.lp_w - x.lp_l) - max(0.0, x.lr_w - x.lr_l)))


def confpo(x: Pair, c: Any) -> Said:
    sides = []
    for tokens in (x.tokens_w, x.tokens_l):
        threshold = math.log(sum(map(math.exp, tokens)) / len(tokens))
        kept = [logp for logp in tokens if logp < threshold] if len(tokens) > 1 else []
        sides.append((sum(kept) / max(1, len(kept)), len(kept)))
    (mean_w, kept_w), (mean_l, kept_l) = sides
    return Said(c.beta * (mean_w - mean_l), c.gamma0, weight=float(bool(kept_w and kept_l)))


def gamma_dpo(x: Pair, c: Any) -> Said:
    gap = c.beta * h(x)
    return Said(gap, gamma_margin(GAPS, c.gamma0, c.tau)(gap) - c.gamma0)


def gamma_simpo(x: Pair, c: Any) -> Said:
    gap = c.beta * d(x)
    return Said(gap, gamma_margin(GAPS, c.gamma0, c.tau)(gap))


# Row: its restatement, the defaults it must have, and other settings to try.
CASES: dict[str, tuple[Callable[[Pair, Any], Said], dict[str, Any], list[dict[str, Any]]]] = {
    "dpo": (dpo, {"beta": 0.1}, [{"beta": 0.37}]),
    "cdpo": (cdpo, {"beta": 0.1, "label_smoothing": 0.1}, [{"beta": 0.5, "label_smoothing": 0.45}]),
    "rdpo": (rdpo, {"beta": 0.1, "label_smoothing": 0.1}, [{"beta": 0.5, "label_smoothing": 0.45}]),
    "ipo": (ipo, {"beta": 0.1}, [{"beta": 0.01}, {"beta": 1.3}]),
    "ipo-mean": (ipo_mean, {"beta": 0.1}, [{"beta": 0.01}, {"beta": 1.3}]),
    "hinge": (hinge, {"beta": 0.1, "gamma0": 1.0}, [{"beta": 0.7, "gamma0": 0.3}, {"gamma0": 0.0}]),
    "slic": (slic, {"gamma0": 1.0, "nll_weight": 0.1}, [{"gamma0": 10.0, "nll_weight": 0.5}]),
    "simpo": (simpo, {"beta": 2.0, "gamma0": 1.0}, [{"beta": 2.5, "gamma0": 1.375}]),
    "cpo": (cpo, {"beta": 0.1, "nll_weight": 1.0}, [{"beta": 0.3, "nll_weight": 0.25}]),
    "cpo-simpo": (
        cpo_simpo,
        {"beta": 2.0, "gamma0": 1.0, "nll_weight": 1.0},
        [{"beta": 10.0, "gamma0": 5.4, "nll_weight": 0.0}],
    ),
    "orpo": (orpo, {"odds_weight": 0.1, "nll_weight": 1.0}, [{"odds_weight": 2.0, "nll_weight": 0.5}]),
    "odpo": (
        odpo,
        {"beta": 0.1, "alpha": 1.0, "offset": "log", "floor": 0.01},
        [
            {"beta": 0.7, "alpha": 0.5, "offset": "log1p"},
            {"alpha": 0.3, "offset": "identity", "floor": 0.5},
            {"floor": 0.2},
        ],
    ),
    "r-dpo": (r_dpo, {"beta": 0.1, "alpha": 0.005}, [{"beta": 0.01, "alpha": 0.07}]),
    "rpo": (rpo, {"beta": 0.1, "nll_weight": 1.0}, [{"beta": 0.3, "nll_weight": 0.005}]),
    "sigmoid-norm": (sigmoid_norm, {"beta": 5.0}, [{"beta": 1.7}]),
    "beta-dpo": (
        beta_dpo,
        {"beta": 0.1, "a": 0.6, "keep": 0.8, "momentum": 0.9},
        [{"beta": 0.3, "a": 0.2, "keep": 0.4, "momentum": 0.5}, {"keep": 1.0, "a": 3.0}, {"a": 40.0}],
    ),
    "alpha-dpo": (
        alpha_dpo,
        {"beta": 10.0, "gamma0": 4.0, "alpha": 0.2, "momentum": 0.9},
        [{"beta": 2.5, "gamma0": 1.5, "alpha": 0.05, "momentum": 0.0}],
    ),
    "amapo": (amapo, {"beta": 3.0, "momentum": 0.9}, [{"beta": 2.5, "momentum": 0.3}]),
    "madpo": (
        madpo,
        {"beta": 0.1, "c_max": 2.0, "steepness": 1.0, "threshold": math.log(0.999 / 0.001)},
        [{"beta": 0.4, "c_max": 4.0, "steepness": 0.5, "threshold": 2.0}],
    ),
    "gdpo": (gdpo, {"beta": 0.1}, [{"beta": 0.3}]),
    "cdpo-soft": (cdpo_soft, {"beta": 0.1}, [{"beta": 0.3}]),
    "da-dpo": (da_dpo, {"beta": 0.1, "alpha": 1.0}, [{"beta": 0.2, "alpha": 0.7}]),
    "uni-dpo": (
        uni_dpo,
        {"beta": 2.0, "eta": 0.7, "fit_power": 3.0, "fit_margin": 1.0, "nll_weight": 0.001, "good_score": 3.2},
        [{"beta": 3.5, "eta": 0.1, "fit_power": 0.5, "fit_margin": -0.8, "nll_weight": 0.4, "good_score": 1.0}],
    ),
    "focalpo": (focalpo, {"beta": 0.1, "focus": 0.05}, [{"beta": 0.2, "focus": 2.0}]),
    "hypo": (hypo, {"beta": 0.1}, [{"beta": 0.3}]),
    "confpo": (confpo, {"beta": 1.5, "gamma0": 1.6}, [{"beta": 2.0, "gamma0": 0.2}]),
    "selective-dpo": (dpo, {"beta": 0.01}, [{"beta": 0.2}]),
    "gamma-dpo": (
        gamma_dpo,
        {"beta": 0.1, "gamma0": 1.0, "tau": 1.0, "solver": "exact"},
        [{"beta": 0.4, "gamma0": 1.5, "tau": 0.3}],
    ),
    "gamma-simpo": (
        gamma_simpo,
        {"beta": 10.0, "gamma0": 4.0, "tau": 10.0, "solver": "exact"},
        [{"beta": 2.5, "gamma0": 3.0, "tau": 3.0}],
    ),
    "mixdpo": (dpo, {"beta": 0.1, "sft_weight": 1.0, "preference": "dpo"}, [{"beta": 0.2}]),
}
