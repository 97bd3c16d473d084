"""The table of objectives: a method is a row. Imports no torch, so that a configuration is checked at once.

A row names one function of each kind and the parameters a user may set, with their defaults. The functions live under
the names used here in rewards.py, scales.py, margins.py, links.py, weights.py and auxiliaries.py; objective.py composes
them. `says` gives the paper and its loss in the notation of docs/objectives.md: h is the log-ratio gap, d the gap of
mean log-probs, l(z) = -log sigmoid(z), s a score, n a number of tokens, w chosen, l rejected.
"""

import difflib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.errors import UserError

QUEUE = 2048  # gaps that gamma-PO's margins are solved over, as its authors have it
STEP = "step"  # in their place: the step's own gaps alone
_SMOOTHING = {"label_smoothing": 0.1}
# Came later than results that are there: among the values, and so in an identity, only where they are not these.
_LATER: dict[str, float | str] = {"queue": QUEUE, "centred": True}
# What `margin: gamma` may be told. Not `centred` where a row's own margin is gamma0, so that gamma_i stands whole.
_WHOLE_GAMMA: dict[str, float | str] = {"gamma0": 1.0, "tau": 1.0, "solver": "exact", "queue": QUEUE}
_GAMMA: dict[str, float | str] = {**_WHOLE_GAMMA, "centred": True}


@dataclass(frozen=True)
class Preset:
    says: str
    parameters: Mapping[str, float | str]
    reward: str = "log-ratio"
    scale: str = "beta"
    margin: str = "none"
    link: str = "logistic"
    weight: str = "one"
    auxiliary: str = "none"
    gamma: bool = False  # whether gamma-PO's gamma_i - gamma0 is added to the margin
    statistic: str | None = None  # what is remembered of earlier steps' pairs, where a function asks for it: state.py
    schedule: Mapping[str, Any] = field(default_factory=dict)  # what the schedule does unless told otherwise
    two_streams: bool = False  # whether it weighs two streams of pairs against each other; see streams.py
    routes: bool = False  # whether pairs routed to SFT are taken; the preference side is then another row

    @property
    def functions(self) -> dict[str, str | bool | None]:
        """What is computed: the part of an identity that is not a parameter."""
        kinds = ("reward", "scale", "margin", "link", "weight", "auxiliary", "gamma", "statistic")
        return {kind: getattr(self, kind) for kind in kinds}

    @property
    def elastic(self) -> Mapping[str, float | str]:
        """The parameters that gamma-PO's margin has on this row; none where no margin applies."""
        return {} if self.unary else _WHOLE_GAMMA if self.margin in _BASED else _GAMMA

    @property
    def unary(self) -> bool:
        """Whether the link looks at each side by itself, so that no margin applies."""
        return self.link in _UNARY

    @property
    def favours(self) -> str:
        """Which pairs pull more than they do under the plain link: easy (told apart, or far apart in score), hard (the
        others), or neither. What the schedule does with either is not looked at.
        """
        found = (_FAVOURS[name] for name in self.functions.values() if name in _FAVOURS)
        return "easy" if self.gamma else next(found, "neither")

    @property
    def needs(self) -> list[str]:
        """What a pair must carry beside the policy's log-probs: scores, label_confidence, sources, features; of the
        policy token_logps, square_logps; of the step mismatched answers, each of another prompt.
        """
        return sorted({_NEEDS[name] for name in self.functions.values() if isinstance(name, str) and name in _NEEDS})

    @property
    def token_columns(self) -> tuple[str, ...]:
        """What each token must carry beside the policy's log-prob: the reference's, and perhaps a weight, which is
        made of a contrast of two models, or says whether the token is changed.
        """
        return _TOKEN_COLUMNS.get(self.reward, ())

    def balances(self, values: "Values") -> bool:
        """Whether its two streams' weights are estimated from their gradients."""
        return self.two_streams and values.word("balance") == "least-error"


_BASED = ("constant", "standardised")  # margins of which gamma0 is a part
_UNARY = ("nca", "apo-zero", "apo-down", "bco", "sppo", "sppo-hard", "calibrated", "kto")
_TOKEN_COLUMNS = {
    "weighted-tokens": ("reference", "contrast"),
    "decayed-tokens": ("reference",),
    "changed-tokens": ("reference", "changed"),
}
_FAVOURS: Mapping[Any, str] = {
    **dict.fromkeys(("confidence", "score-gap", "score-offset", "rating", "standardised"), "easy"),
    **dict.fromkeys(("soft", "soft-scores", "trusted", "focal"), "easy"),
    **dict.fromkeys(("score-certainty", "relative-score-gap", "agreeing", "not-the-worst"), "easy"),
    **dict.fromkeys(("misranked", "reward-model", "quality-and-fit"), "hard"),
}
_NEEDS = {
    "score-offset": "scores",
    "score-gap": "scores",
    "reward-model": "scores",
    "quality-and-fit": "scores",
    "confidence": "label_confidence",
    "soft": "label_confidence",
    "unsure-tokens": "token_logps",
    "rating": "scores",
    "soft-scores": "scores",
    "score-certainty": "scores",
    "relative-score-gap": "scores",
    "sppo": "label_confidence",
    "trusted": "sources",
    "like-the-policy": "square_logps",
    **dict.fromkeys(_TOKEN_COLUMNS, "token_logps"),
    "kto": "mismatched",
    "feature-drift": "features",
}

PRESETS: dict[str, Preset] = {
    "dpo": Preset("Rafailov et al., arXiv 2305.18290, eq. 7: l(beta h)", {"beta": 0.1}),
    "cdpo": Preset(
        "Mitchell, 'A note on DPO with noisy preferences', 2023: (1 - e) l(beta h) + e l(-beta h)",
        {"beta": 0.1, **_SMOOTHING},
        link="smoothed",
    ),
    "rdpo": Preset(
        "Chowdhury et al., arXiv 2403.00409: [(1 - e) l(beta h) - e l(-beta h)] / (1 - 2e), e the rate of label flips",
        {"beta": 0.1, **_SMOOTHING},
        link="robust",
    ),
    "ipo": Preset(
        "Azar et al., arXiv 2310.12036, eq. 17: (h - 1 / (2 beta))^2, h of sums as in the paper",
        {"beta": 0.1},
        scale="one",
        margin="inverse-beta",
        link="squared",
    ),
    "ipo-mean": Preset(
        "IPO with each log-ratio divided by its own length, as the authors later advised and TRL computes it",
        {"beta": 0.1},
        reward="mean-log-ratio",
        scale="one",
        margin="inverse-beta",
        link="squared",
    ),
    "hinge": Preset(
        "Liu et al. (RSO), arXiv 2309.06657: max(0, gamma0 - beta h)",
        {"beta": 0.1, "gamma0": 1.0},
        margin="constant",
        link="hinge",
    ),
    "slic": Preset(
        "Zhao et al. (SLiC-HF), arXiv 2305.10425: max(0, gamma0 - lp_w + lp_l) - nll_weight lp_w",
        {"gamma0": 1.0, "nll_weight": 0.1},
        reward="log-prob",
        scale="one",
        margin="constant",
        link="hinge",
        auxiliary="nll-sum",
    ),
    "simpo": Preset(
        "Meng et al., arXiv 2405.14734, eq. 6: l(beta d - gamma0)",
        {"beta": 2.0, "gamma0": 1.0},
        reward="mean-log-prob",
        margin="constant",
    ),
    "cpo": Preset(
        "Xu et al., arXiv 2401.08417: l(beta (lp_w - lp_l)) + nll_weight NLL_w, the NLL a mean over a step's tokens",
        {"beta": 0.1, "nll_weight": 1.0},
        reward="log-prob",
        auxiliary="nll-tokens",
    ),
    "cpo-simpo": Preset(
        "SimPO's loss with CPO's NLL, as the authors of CPO combine them",
        {"beta": 2.0, "gamma0": 1.0, "nll_weight": 1.0},
        reward="mean-log-prob",
        margin="constant",
        auxiliary="nll-tokens",
    ),
    "orpo": Preset(
        "Hong et al., arXiv 2403.07691, eq. 6: NLL_w / n_w + odds_weight l(logit P_w - logit P_l), P = exp(lp / n)",
        {"odds_weight": 0.1, "nll_weight": 1.0},
        reward="log-odds",
        scale="one",
        weight="constant-weight",
        auxiliary="nll-mean",
    ),
    "odpo": Preset(
        "Amini et al., arXiv 2402.10571: l(beta h - alpha f(s_w - s_l)), f = log as published; `offset` may be log1p "
        "or identity; a score gap below `floor` counts as `floor`",
        {"beta": 0.1, "alpha": 1.0, "offset": "log", "floor": 0.01},
        margin="score-offset",
    ),
    "r-dpo": Preset(
        "Park et al., arXiv 2403.19159: l(beta h + alpha (n_w - n_l)); some public code has the opposite sign",
        {"beta": 0.1, "alpha": 0.005},
        margin="length",
    ),
    "rpo": Preset(
        "DPO with NLL: Pang et al., arXiv 2404.19733, eq. 1: l(beta h) + nll_weight NLL_w / n_w",
        {"beta": 0.1, "nll_weight": 1.0},
        auxiliary="nll-mean",
    ),
    "sigmoid-norm": Preset(
        "Length-normalised DPO of Tulu 3, arXiv 2411.15124: l(beta h'), each log-ratio divided by its own length",
        {"beta": 5.0},
        reward="mean-log-ratio",
    ),
    "beta-dpo": Preset(
        "Wu et al., arXiv 2407.08639: l(b h), b = beta (1 + a (mean kept h - its running mean)), near-mean pairs kept",
        {"beta": 0.1, "a": 0.6, "keep": 0.8, "momentum": 0.9},
        scale="step-beta",
        weight="likely-kept",
        statistic="log-ratio",
    ),
    "alpha-dpo": Preset(
        "Wu et al., arXiv 2410.10148: l(beta d - gamma0 - beta alpha z), z the standardised mean log-ratio gap; "
        "settings of Llama-3-8B-Instruct v0.2",
        {"beta": 10.0, "gamma0": 4.0, "alpha": 0.2, "momentum": 0.9},
        reward="mean-log-prob",
        margin="standardised",
        statistic="mean-log-ratio",
    ),
    "amapo": Preset(
        "arXiv 2511.09385: l(beta d - m), m = beta exp(mu (mu - d) / s) where d < mu, else 0",
        {"beta": 3.0, "momentum": 0.9},
        reward="mean-log-prob",
        margin="misranked",
        statistic="mean-log-prob",
    ),
    "madpo": Preset(
        "arXiv 2510.05342: w l(beta h), w = sigmoid(c H) / sigmoid(H), H the margin of a reward model's scores",
        {"beta": 0.1, "c_max": 2.0, "steepness": 1.0, "threshold": math.log(999.0)},
        weight="reward-model",
    ),
    "gdpo": Preset(
        "Furuta et al., arXiv 2409.06691: l(beta (2p - 1) h), p the label's confidence",
        {"beta": 0.1},
        scale="confidence",
    ),
    "cdpo-soft": Preset(
        "cDPO with the label's confidence p: p l(beta h) + (1 - p) l(-beta h)", {"beta": 0.1}, link="soft"
    ),
    "da-dpo": Preset(
        "arXiv 2601.00623, as released: l(beta alpha (1 + |s_w - s_l|) h), scores in [0, 1]",
        {"beta": 0.1, "alpha": 1.0},
        scale="score-gap",
    ),
    "uni-dpo": Preset(
        "arXiv 2506.10054: sigmoid(eta (s_w - s_l)) (1 - sigmoid(beta d - fit_margin))^fit_power l(beta h'), and "
        "nll_weight NLL_w / n_w of good answers that have become less likely",
        {
            "beta": 2.0,
            "eta": 0.7,
            "fit_power": 3.0,
            "fit_margin": 1.0,
            "nll_weight": 0.001,
            "good_score": 3.2,
            "least_fall": 0.001,
        },
        reward="mean-log-ratio",
        weight="quality-and-fit",
        auxiliary="nll-guard",
    ),
    "focalpo": Preset("arXiv 2501.06645: sigmoid(beta h)^focus l(beta h)", {"beta": 0.1, "focus": 0.05}, link="focal"),
    "hypo": Preset(
        "arXiv 2602.11902: l(beta (lp_w - lp_l - max(0, lr_w - lr_l)))", {"beta": 0.1}, reward="clipped-log-ratio"
    ),
    "confpo": Preset(
        "arXiv 2506.08712: SimPO on the tokens less likely than their completion's mean token probability",
        {"beta": 1.5, "gamma0": 1.6},
        reward="unsure-tokens",
        margin="constant",
        weight="any-unsure",
    ),
    "wpo": Preset(
        "Zhou et al., arXiv 2406.11827: min(1, exp(a_w + a_l)) l(beta h), a the mean log pi(y_t) - log sum_v pi(v)^2",
        {"beta": 0.01, "label_smoothing": 0.0},
        link="smoothed",
        weight="like-the-policy",
    ),
    "dpop": Preset(
        "Pal et al. (Smaug), arXiv 2402.13228: l(beta (h - guard max(0, lr_w - lp_w)))",
        {"beta": 0.3, "guard": 50.0},
        margin="chosen-guard",
    ),
    "alpha-po": Preset(
        "arXiv 2501.03884: SimPO with the reward (1 - p^-alpha) / alpha, p the geometric mean of token probabilities",
        {"beta": 2.0, "gamma0": 1.0, "alpha": 0.25},
        reward="bent-mean-log-prob",
        margin="constant",
    ),
    "rainbow-po": Preset(
        "arXiv 2410.04203: -log F(beta (r - (1 - kappa) gamma_h)), r of mean log-probs less kappa of the reference's, "
        "F by `curve` the logistic distribution or Cauchy's",
        {"beta": 10.0, "reference_share": 0.25, "home_advantage": 0.1, "curve": "logistic"},
        reward="mixed-mean-log-ratio",
        margin="home-advantage",
        link="logistic-or-arctan",
    ),
    "rating-dpo": Preset(
        "arXiv 2602.00603: l(beta h - (beta / rating_beta) (s_w - s_l)), of gaps of either sign",
        {"beta": 0.1, "rating_beta": 1.0},
        margin="rating",
    ),
    "mmpo": Preset(
        "Kim et al., EMNLP 2024: cDPO with p = sigmoid(steepness (s_w - s_l))",
        {"beta": 0.1, "steepness": 1.0},
        link="soft-scores",
    ),
    "cw-po": Preset(
        "arXiv 2603.04968: tanh((s_w - s_l) / 2) l(beta h), s a weak reward model's",
        {"beta": 0.1},
        weight="score-certainty",
    ),
    "scaled-dpo": Preset(
        "HelpSteer2-Preference, and RDO, arXiv 2408.09385: (D / E[D]) l(beta h), D = s_w - s_l, or 0 where negative",
        {"beta": 0.1, "momentum": 0.99},
        weight="relative-score-gap",
        statistic="score-gap",
    ),
    "dr-dpo": Preset(
        "Wu et al., arXiv 2407.07880: -beta_prime log E[exp(-l(beta h) / beta_prime)], by its gradient: weights from "
        "the steps before",
        {"beta": 0.1, "beta_prime": 1.0, "momentum": 0.9},
        weight="agreeing",
        statistic="level",
    ),
    "rappo": Preset(
        "RAPPO, ICLR 2026: DPO without the `drop` pairs of a step whose loss is largest, of those with lr_w - lr_l <= "
        "log reference_ratio",
        {"beta": 0.1, "drop": 1, "reference_ratio": 1.0},
        weight="not-the-worst",
        statistic="worst",
    ),
    "re-po": Preset(
        "RE-PO, ICLR 2026: w l(beta h) + (1 - w) l(-beta h), w = P(label right), by how often its source's were",
        {"beta": 0.1, "reliability": 0.9, "adaptation": 0.1},
        link="trusted",
        statistic="reliability",
    ),
    "nca": Preset(
        "Chen et al., arXiv 2402.05369, for pairs: l(z_w) + [l(-z_w) + l(-z_l)] / 2, z = beta (lp - lr) of a side",
        {"beta": 0.1},
        link="nca",
    ),
    "apo-zero": Preset(
        "D'Oosterlinck et al., arXiv 2408.06266, eq. 7: 1 - sigmoid(z_w) + sigmoid(z_l)", {"beta": 0.1}, link="apo-zero"
    ),
    "apo-down": Preset("The same, eq. 8: sigmoid(z_w) + 1 - sigmoid(z_w - z_l)", {"beta": 0.1}, link="apo-down"),
    "bco": Preset(
        "Jung et al., arXiv 2404.04656: l(z_w - d) + l(d - z_l), d the running mean of both sides' rewards",
        {"beta": 0.1, "momentum": 0.999},
        link="bco",
        statistic="middle",
    ),
    "sppo": Preset(
        "Wu et al., arXiv 2405.00675: [(s_w - (p - 1/2) / beta)^2 + (s_l + (p - 1/2) / beta)^2] / 2, s = lp - lr, p "
        "the label's confidence",
        {"beta": 0.001},
        scale="one",
        link="sppo",
    ),
    "sppo-hard": Preset(
        "The same with p = 1 and without the half, as in TRL: (s_w - 1 / (2 beta))^2 + (s_l + 1 / (2 beta))^2",
        {"beta": 0.001},
        scale="one",
        link="sppo-hard",
    ),
    "cal-dpo": Preset(
        "Xiao et al., arXiv 2412.14516: l(h) + [(s_w - 1 / (2 beta))^2 + (s_l + 1 / (2 beta))^2] / 2, s = lp - lr",
        {"beta": 0.001},
        scale="one",
        link="calibrated",
    ),
    "kto": Preset(
        "Ethayarajh et al., arXiv 2402.01306, for pairs: L_D (1 - sigmoid(z_w - z)) + L_U (1 - sigmoid(z - z_l)), z = "
        "beta max(0, mean log-ratio of a step's answers to other prompts)",
        {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
        link="kto",
    ),
    "tis-dpo": Preset(
        "Liu et al., arXiv 2410.04350: l(beta h), h of log-ratios weighted by token; the weights are `weigh`'s",
        {"beta": 0.1},
        reward="weighted-tokens",
    ),
    "d2po": Preset(
        "Shao et al., arXiv 2502.14340: l(beta h), h of log-ratios weighted by decay^t, t the token's place",
        {"beta": 0.1, "decay": 0.98},
        reward="decayed-tokens",
    ),
    "bmc": Preset(
        "Jiang et al., arXiv 2408.07471: l(beta h), h of log-ratios weighted 1 + min(1 / pi, delta) where a token is "
        "not the other side's",
        {"beta": 0.01, "delta": 1.5},
        reward="changed-tokens",
    ),
    "fpo": Preset(
        "Yin et al., arXiv 2411.07618: l(beta (h' - alpha (E_l - E_w))), E the mean squared change of the policy's "
        "`strongest` features of a completion since the reference",
        {"beta": 0.1, "alpha": 0.5, "strongest": 50},
        reward="mean-log-ratio",
        margin="feature-drift",
    ),
    "bvpo": Preset(
        "arXiv 2510.05095: a l(beta h) on answers with their thoughts + (1 - a) l(beta h) on answers without any, a as "
        "given or the one of least mean squared error",
        {"beta": 0.1, "trace_weight": 0.5, "balance": "fixed", "momentum": 0.9},
        two_streams=True,
    ),
    "selective-dpo": Preset(
        "Gao et al., arXiv 2502.09650: DPO on the easier half, easy to hard, by the `difficulty` column",
        {"beta": 0.01},
        schedule={"order": "easy-to-hard", "difficulty": "column", "drop_percentile": 50.0},
    ),
    # The authors publish no settings for it; these move margins by about -0.3 to +0.5 once gaps have spread.
    "gamma-dpo": Preset(
        "Sun et al., arXiv 2506.03690, with DPO: l(beta h - (gamma_i - gamma0))", {"beta": 0.1, **_GAMMA}, gamma=True
    ),
    "gamma-simpo": Preset(
        "Sun et al., arXiv 2506.03690, with SimPO: l(beta d - gamma_i); settings of Llama-3-8B-Instruct",
        {**_WHOLE_GAMMA, "beta": 10.0, "gamma0": 4.0, "tau": 10.0},
        reward="mean-log-prob",
        margin="constant",
        gamma=True,
    ),
    "mixdpo": Preset(
        "arXiv 2602.00954: easy to hard, the hardest pairs to SFT on the chosen side; `preference` is any row above, "
        "whose parameters are set beside it",
        {"preference": "dpo", "sft_weight": 1.0},
        schedule={"order": "easy-to-hard", "sft_percentile": 10.0},
        routes=True,
    ),
}

_CHOICES = {
    "solver": ("exact", "paper"),
    "offset": ("log", "log1p", "identity"),
    "curve": ("logistic", "arctan"),
    "balance": ("fixed", "least-error"),
}
_WHOLE = {"drop": "pairs", "strongest": "features", "queue": "gaps"}  # numbers of what
_WORDS = {"queue": (STEP,)}  # what may stand in a number's place

# Where a parameter may lie, as intervals are written: a round bracket leaves its end out.
_INTERVALS: dict[str, str] = {
    **dict.fromkeys(("beta", "steepness", "floor", "odds_weight"), "(0, inf)"),
    **dict.fromkeys(("rating_beta", "beta_prime", "reference_ratio"), "(0, inf)"),
    **dict.fromkeys(("gamma0", "tau", "alpha", "a", "eta", "fit_power", "focus", "least_fall"), "[0, inf)"),
    **dict.fromkeys(("sft_weight", "nll_weight", "threshold", "guard", "home_advantage", "drop"), "[0, inf)"),
    **dict.fromkeys(("desirable_weight", "undesirable_weight", "delta"), "[0, inf)"),
    **dict.fromkeys(("reference_share", "adaptation", "trace_weight"), "[0, 1]"),
    "reliability": "(0, 1]",
    **dict.fromkeys(("strongest", "queue"), "[1, inf)"),
    **dict.fromkeys(("fit_margin", "good_score"), "(-inf, inf)"),
    "label_smoothing": "[0, 0.5)",
    "momentum": "[0, 1)",
    **dict.fromkeys(("keep", "decay"), "(0, 1]"),
    "c_max": "[1, inf)",
}


class Values(dict[str, float | str]):
    """Every parameter of an objective with its value; one that came later is there where it is not its default."""

    def __missing__(self, key: str) -> float | str:
        return _LATER[key]

    def number(self, key: str) -> float:
        return float(self[key])

    def word(self, key: str) -> str:
        return str(self[key])


def resolve(name: str, given: Mapping[str, Any]) -> tuple[Preset, Values]:
    """The row whose functions are used, and every parameter's value.

    `margin: gamma` adds gamma-PO's margin to a row that has not got it. Raises UserError for an unknown name (the table
    is listed) or parameter, a value of the wrong kind or out of range, or a margin where none applies.
    """
    row = _row(name, "objective.name")
    values = Values(row.parameters)
    if row.routes:
        inner = given.get("preference", values["preference"])
        side = _row(inner, "objective.preference")
        if side.routes or side.schedule:
            problem = f"objective.preference={inner} itself decides what is trained when"
            raise UserError(problem, "choose a preset such as dpo or gamma-dpo")
        row, values = side, Values({**side.parameters, **values, "preference": inner})
    if given.get("margin") == "gamma" and row.unary:
        raise _no_margin(values.get("preference", name))
    if given.get("margin") == "gamma" and not row.gamma:
        row, values = replace(row, gamma=True), Values({**row.elastic, **values})
    for key, value in given.items():
        if key != "margin":
            if key not in values:
                raise _unknown(name, key, values)
            values[key] = _checked(key, value, values[key])
        elif value != "gamma":
            raise UserError(f"objective.margin={value!r} is not a choice", "give gamma, or leave it out")
    if row.two_streams and not row.balances(values) and values["momentum"] != row.parameters["momentum"]:
        problem = f"objective.momentum has no effect with objective.balance={values['balance']}"
        raise UserError(problem, "set objective.balance=least-error, or leave objective.momentum out")
    if values.get("solver") == "paper" and values["queue"] != QUEUE:
        problem = "objective.queue has no effect with objective.solver=paper, which has the published queue"
        raise UserError(problem, "set objective.solver=exact, or leave objective.queue out")
    return row, Values({key: value for key, value in values.items() if value != _LATER.get(key)})


def _no_margin(name: float | str) -> UserError:
    return UserError(
        f"objective.margin=gamma: {name} looks at each side by itself and not at the gap between them, so that "
        "no margin applies to it",
        "leave objective.margin out, or choose a row on the gap, such as dpo",
    )


def _unknown(name: str, key: str, values: Values) -> UserError:
    if near := difflib.get_close_matches(key, values, n=1):
        return UserError(f"objective.{key} is not a parameter of {name}", f"did you mean objective.{near[0]}?")
    if key == "label_smoothing":
        hint = "objective.name=cdpo is DPO with label smoothing, rdpo its unbiased form; either may be a preference"
        return UserError(f"objective.{key} is not a parameter of {name}", hint)
    row = _row(values.get("preference", name), "objective.preference")
    if key == "centred" and row.margin in _BASED:
        problem = f"objective.centred: the own margin of {values.get('preference', name)} is gamma0, so that gamma-PO's"
        return UserError(f"{problem} is gamma_i itself with it", "leave objective.centred out: nothing is taken off")
    side, anew = f"objective.name={name}", name
    if PRESETS[name].routes:
        inner = values["preference"]
        side, anew = f"objective.preference={inner}", f"{{name: {name}, preference: {inner}}}"
    kept = f"; or set objective.margin=gamma, which gives {side} a target margin for each pair"
    kept = kept if key in row.elastic else ""
    hint = f"leave objective.{key} out, or 'objective={anew}', which drops all that the file sets of it{kept}"
    return UserError(f"{side} takes no {key} (it takes {', '.join(sorted(values))}), but objective.{key} is set", hint)


def _checked(key: str, value: Any, default: float | str) -> float | str:
    like = " or ".join((json.dumps(default), *_WORDS.get(key, ())))
    if value is None:
        raise UserError(f"objective.{key} has no value", f"give a value like {like}, or leave it out")
    if value in _WORDS.get(key, ()):
        return str(value)
    wanted = bool if isinstance(default, bool) else str if isinstance(default, str) else (int, float)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        problem = f"objective.{key}={value!r} is a {type(value).__name__}"
        raise UserError(problem, f"give a value like {like}")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"objective.{key}={value!r} is not a choice", f"give one of {', '.join(_CHOICES[key])}")
    if key in _INTERVALS and not _inside(value, _INTERVALS[key]):
        raise UserError(f"objective.{key}={value!r} is out of range", f"give a number in {_INTERVALS[key]}")
    if key in _WHOLE and value != int(value):
        remedy = f"give a number of {_WHOLE[key]}, such as 1"
        raise UserError(f"objective.{key}={value!r} is not a whole number", remedy)
    checked: float | str = value
    return checked


def _inside(value: Any, interval: str) -> bool:
    if abs(value) > sys.float_info.max:  # infinite, or a whole number beyond what a float holds
        return False
    low, high = map(float, interval[1:-1].split(","))
    above, below = (value > low or (interval[0] == "[" and value == low)), (value < high or interval[-1] == "]")
    return above and below and value <= high


def _row(name: Any, key: str) -> Preset:
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{key}={name!r} is not an objective", f"{hint}choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
