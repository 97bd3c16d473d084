"""Every row of the table restated for one pair in plain Python: its formula, its defaults, and other settings to try.

Written from the papers and public code; shares nothing with the implementation, memory of past steps included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.pipeline.objectives.pairs import PROBABILITIES, STEP_KL, STEPS, Pair, weights

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


GAPS, STATISTICS = [gap for gaps, *_ in STEPS for gap in gaps], [statistics for _, statistics, _ in STEPS]


def queue(c: Any) -> list[float]:
    """The gaps that margins are solved over: so many of the latest, or those of the latest step."""
    length = getattr(c, "queue", 2048)
    return STEPS[-1][0] if length == "step" else GAPS[-length:]


# --- the rows: (pair, parameters) -> Said


def dpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x))


def fpo(x: Pair, c: Any) -> Said:
    moved_w, moved_l = (
        sum((now - was) ** 2 for now, was in zip(features, before, strict=True)) / len(features)
        for features, before in ((x.features_w, x.were_w), (x.features_l, x.were_l))
    )
    return Said(c.beta * mean_h(x), margin=c.beta * c.alpha * (moved_l - moved_w))


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
    guard = (x.lr_w - x.lp_w) / x.n_w > c.least_fall and x.s_w >= c.good_score
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


def wpo(x: Pair, c: Any) -> Said:
    likely = x.lp_w / x.n_w - x.squares_w / x.n_w + x.lp_l / x.n_l - x.squares_l / x.n_l
    return replace(cdpo(x, c), weight=min(1.0, math.exp(likely)))


def dpop(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), c.beta * c.guard * max(0.0, x.lr_w - x.lp_w - 1e-4 * x.n_w))


def alpha_po(x: Pair, c: Any) -> Said:
    def bent(mean: float) -> float:
        return (1 - math.exp(mean) ** -c.alpha) / c.alpha if c.alpha else mean

    return Said(c.beta * (bent(x.lp_w / x.n_w) - bent(x.lp_l / x.n_l)), c.gamma0)


def rainbow_po(x: Pair, c: Any) -> Said:
    def cauchy(z: float) -> float:
        return -math.log(0.5 + math.atan(z) / math.pi if z > -1 else math.atan(-1 / z) / math.pi)

    k = c.reference_share
    reward = (x.lp_w - k * x.lr_w) / x.n_w - (x.lp_l - k * x.lr_l) / x.n_l
    link = {"logistic": logistic, "arctan": cauchy}[c.curve]
    return Said(c.beta * reward, c.beta * (1 - k) * c.home_advantage, link)


def rating_dpo(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), c.beta / c.rating_beta * (x.s_w - x.s_l))


def mmpo(x: Pair, c: Any) -> Said:
    return cdpo_soft(x._replace(p=sigmoid(c.steepness * (x.s_w - x.s_l))), c)


def cw_po(x: Pair, c: Any) -> Said:
    return Said(c.beta * h(x), weight=max(0.0, 2 * sigmoid(x.s_w - x.s_l) - 1))


def scaled_dpo(x: Pair, c: Any) -> Said:
    mean, _ = mean_spread(STATISTICS, c.momentum)
    return Said(c.beta * h(x), weight=max(0.0, x.s_w - x.s_l) / mean)


def dr_dpo(x: Pair, c: Any) -> Said:
    """What was seen is -loss / beta'."""
    seen = weighted_steps(STATISTICS, c.momentum)
    mean = math.fsum(w * math.exp(value) for w, value in seen)
    return Said(c.beta * h(x), weight=math.exp(-logistic(c.beta * h(x)) / c.beta_prime) / mean)


def rappo(x: Pair, c: Any) -> Said:
    """The first step is passed over."""
    latest = sorted(STATISTICS[-1])
    bound = math.inf if not c.drop else latest[-c.drop] if c.drop <= len(latest) else -math.inf
    wrong = x.lr_w - x.lr_l <= math.log(c.reference_ratio)
    return Said(c.beta * h(x), weight=float(not (wrong and logistic(c.beta * h(x)) > bound)))


def re_po(x: Pair, c: Any) -> Said:
    share = {0: c.reliability, 1: c.reliability}
    for probabilities, (*_, sources) in zip(PROBABILITIES, STEPS, strict=True):
        for source in set(sources):
            own = [p for p, s in zip(probabilities, sources, strict=True) if s == source]
            share[source] = (1 - c.adaptation) * share[source] + c.adaptation * sum(own) / len(own)
    p, q, eta = sigmoid(c.beta * h(x)), sigmoid(-c.beta * h(x)), share[x.source]
    w, v = (each / (p * eta + q * (1 - eta)) for each in (p * eta, q * (1 - eta)))  # 1 - w would lose digits
    return Said(c.beta * h(x), link=lambda z: w * logistic(z) + v * logistic(-z))


def unary(x: Pair, scale: float, loss: Callable[[float, float], float]) -> Said:
    """A loss of both sides' rewards; what moves with the gap are both, by a half of it each."""
    z_w, z_l = scale * (x.lp_w - x.lr_w), scale * (x.lp_l - x.lr_l)
    both = z_w + z_l
    return Said(z_w - z_l, link=lambda gap: loss((both + gap) / 2, (both - gap) / 2))


def nca(x: Pair, c: Any) -> Said:
    return unary(x, c.beta, lambda w, r: logistic(w) + logistic(-w) / 2 + logistic(-r) / 2)


def apo_zero(x: Pair, c: Any) -> Said:
    return unary(x, c.beta, lambda w, r: 1 - sigmoid(w) + sigmoid(r))


def apo_down(x: Pair, c: Any) -> Said:
    return unary(x, c.beta, lambda w, r: sigmoid(w) + 1 - sigmoid(w - r))


def bco(x: Pair, c: Any) -> Said:
    d = c.beta * mean_spread(STATISTICS, c.momentum)[0]
    return unary(x, c.beta, lambda w, r: logistic(w - d) + logistic(d - r))


def sppo(x: Pair, c: Any) -> Said:
    return unary(x, 1, lambda w, r: ((w - (x.p - 0.5) / c.beta) ** 2 + (r - (0.5 - x.p) / c.beta) ** 2) / 2)


def sppo_hard(x: Pair, c: Any) -> Said:
    return unary(x, 1, lambda w, r: (w - 0.5 / c.beta) ** 2 + (r + 0.5 / c.beta) ** 2)


def cal_dpo(x: Pair, c: Any) -> Said:
    target = 1 / (2 * c.beta)
    return unary(x, 1, lambda w, r: logistic(w - r) + ((w - target) ** 2 + (r + target) ** 2) / 2)


def kto(x: Pair, c: Any) -> Said:
    z = c.beta * STEP_KL

    def loss(w: float, r: float) -> float:
        return c.desirable_weight * (1 - sigmoid(w - z)) + c.undesirable_weight * (1 - sigmoid(z - r))

    return unary(x, c.beta, loss)


def by_token(x: Pair, beta: float, weight: Callable[[int, float, float], float]) -> Said:
    """DPO whose log-ratios are weighed: by a token's place, the policy's log-prob, and the weight it was given."""

    def side(logps: list[float], reference: list[float]) -> float:
        given = weights(len(logps))
        return math.fsum(
            weight(t, p, given[t]) * (p - q) for t, (p, q) in enumerate(zip(logps, reference, strict=True))
        )

    return Said(beta * (side(x.tokens_w, x.reference_w) - side(x.tokens_l, x.reference_l)))


def tis_dpo(x: Pair, c: Any) -> Said:
    return by_token(x, c.beta, lambda t, p, given: given)


def d2po(x: Pair, c: Any) -> Said:
    return by_token(x, c.beta, lambda t, p, given: c.decay**t)


def bmc(x: Pair, c: Any) -> Said:
    return by_token(x, c.beta, lambda t, p, given: 1 + given * min(math.exp(min(-p, 700.0)), c.delta))


def gamma_dpo(x: Pair, c: Any) -> Said:
    gap = c.beta * h(x)
    taken_off = c.gamma0 if getattr(c, "centred", True) else 0.0
    return Said(gap, gamma_margin(queue(c), c.gamma0, c.tau)(gap) - taken_off)


def gamma_simpo(x: Pair, c: Any) -> Said:
    gap = c.beta * d(x)
    return Said(gap, gamma_margin(queue(c), c.gamma0, c.tau)(gap))


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
        {
            "beta": 2.0,
            "eta": 0.7,
            "fit_power": 3.0,
            "fit_margin": 1.0,
            "nll_weight": 0.001,
            "good_score": 3.2,
            "least_fall": 0.001,
        },
        [
            {
                "beta": 3.5,
                "eta": 0.1,
                "fit_power": 0.5,
                "fit_margin": -0.8,
                "nll_weight": 0.4,
                "good_score": 1.0,
                "least_fall": 0.3,
            }
        ],
    ),
    "focalpo": (focalpo, {"beta": 0.1, "focus": 0.05}, [{"beta": 0.2, "focus": 2.0}]),
    "hypo": (hypo, {"beta": 0.1}, [{"beta": 0.3}]),
    "confpo": (confpo, {"beta": 1.5, "gamma0": 1.6}, [{"beta": 2.0, "gamma0": 0.2}]),
    "wpo": (wpo, {"beta": 0.01, "label_smoothing": 0.0}, [{"beta": 0.3, "label_smoothing": 0.2}]),
    "dpop": (dpop, {"beta": 0.3, "guard": 50.0}, [{"beta": 0.1, "guard": 0.7}]),
    "alpha-po": (
        alpha_po,
        {"beta": 2.0, "gamma0": 1.0, "alpha": 0.25},
        [{"beta": 3.0, "gamma0": 0.3, "alpha": 1.5}, {"alpha": 0.0}],
    ),
    "rainbow-po": (
        rainbow_po,
        {"beta": 10.0, "reference_share": 0.25, "home_advantage": 0.1, "curve": "logistic"},
        [{"curve": "arctan"}, {"beta": 0.7, "reference_share": 0.9, "home_advantage": 2.0, "curve": "arctan"}],
    ),
    "rating-dpo": (rating_dpo, {"beta": 0.1, "rating_beta": 1.0}, [{"beta": 0.3, "rating_beta": 0.05}]),
    "mmpo": (mmpo, {"beta": 0.1, "steepness": 1.0}, [{"beta": 0.4, "steepness": 0.2}]),
    "cw-po": (cw_po, {"beta": 0.1}, [{"beta": 0.7}]),
    "scaled-dpo": (scaled_dpo, {"beta": 0.1, "momentum": 0.99}, [{"beta": 0.3, "momentum": 0.2}]),
    "dr-dpo": (
        dr_dpo,
        {"beta": 0.1, "beta_prime": 1.0, "momentum": 0.9},
        [{"beta": 0.4, "beta_prime": 3.0, "momentum": 0.0}, {"momentum": 0.5}],
    ),
    "rappo": (
        rappo,
        {"beta": 0.1, "drop": 1, "reference_ratio": 1.0},
        [{"drop": 2, "beta": 0.3}, {"drop": 3, "reference_ratio": 3.0}, {"drop": 0}],
    ),
    "re-po": (
        re_po,
        {"beta": 0.1, "reliability": 0.9, "adaptation": 0.1},
        [{"beta": 0.5, "reliability": 0.6, "adaptation": 0.5}, {"adaptation": 0.0}],
    ),
    "nca": (nca, {"beta": 0.1}, [{"beta": 0.7}]),
    "apo-zero": (apo_zero, {"beta": 0.1}, [{"beta": 0.7}]),
    "apo-down": (apo_down, {"beta": 0.1}, [{"beta": 0.7}]),
    "bco": (bco, {"beta": 0.1, "momentum": 0.999}, [{"beta": 0.7, "momentum": 0.5}]),
    "sppo": (sppo, {"beta": 0.001}, [{"beta": 0.4}]),
    "sppo-hard": (sppo_hard, {"beta": 0.001}, [{"beta": 0.4}]),
    "cal-dpo": (cal_dpo, {"beta": 0.001}, [{"beta": 0.4}]),
    "kto": (
        kto,
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        [{"beta": 0.6, "desirable_weight": 1.33, "undesirable_weight": 0.5}],
    ),
    "tis-dpo": (tis_dpo, {"beta": 0.1}, [{"beta": 0.7}]),
    "d2po": (d2po, {"beta": 0.1, "decay": 0.98}, [{"beta": 0.3, "decay": 0.5}]),
    "bmc": (bmc, {"beta": 0.01, "delta": 1.5}, [{"beta": 0.2, "delta": 30.0}, {"delta": 0.3}]),
    "fpo": (fpo, {"beta": 0.1, "alpha": 0.5, "strongest": 50}, [{"beta": 2.0, "alpha": 3.0}, {"alpha": 0.0}]),
    # Of one stream; how two are weighed stands in test_streams.py.
    "bvpo": (dpo, {"beta": 0.1, "trace_weight": 0.5, "balance": "fixed", "momentum": 0.9}, [{"beta": 0.2}]),
    "selective-dpo": (dpo, {"beta": 0.01}, [{"beta": 0.2}]),
    "gamma-dpo": (
        gamma_dpo,
        {"beta": 0.1, "gamma0": 1.0, "tau": 1.0, "solver": "exact"},
        [
            {"beta": 0.4, "gamma0": 1.5, "tau": 0.3},
            {"centred": False, "gamma0": 1.5, "tau": 0.3},
            {"queue": 3, "beta": 0.4, "tau": 0.3},
            {"queue": "step", "tau": 0.3, "centred": False},
        ],
    ),
    "gamma-simpo": (
        gamma_simpo,
        {"beta": 10.0, "gamma0": 4.0, "tau": 10.0, "solver": "exact"},
        [{"beta": 2.5, "gamma0": 3.0, "tau": 3.0}, {"queue": "step", "tau": 3.0}, {"queue": 1, "tau": 3.0}],
    ),
    "mixdpo": (dpo, {"beta": 0.1, "sft_weight": 1.0, "preference": "dpo"}, [{"beta": 0.2}]),
}
