"""Target margins: what a gap must exceed. Each function: (gaps [B], PairBatch, parameters, state) -> [B], a constant to
the gradient unless it is named in DIFFERENTIABLE; the gaps are detached either way. gamma-PO's margin is not among
them: it is added to any of these, as gamma_i - gamma0 (see objective.py).

A new margin is a function here, a name in MARGINS and a row in presets.py.
"""

from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values
from pipeline.objectives.state import State

_ROUNDING = 1e-4  # nats a token: what float32 may put between a policy and a reference that are the same


def none(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    return torch.zeros_like(gaps_B)


def constant(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """SimPO's gamma (arXiv 2405.14734, eq. 6); the hinge's delta."""
    return torch.full_like(gaps_B, parameters.number("gamma0"))


def inverse_beta(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """IPO's target, 1 / (2 beta), where the gap is H itself (arXiv 2310.12036, eq. 17)."""
    return torch.full_like(gaps_B, 1 / (2 * parameters.number("beta")))


def length(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """R-DPO: -alpha (n_w - n_l), so that a longer winner pulls less (arXiv 2403.19159)."""
    return -parameters.number("alpha") * (batch.chosen_tokens - batch.rejected_tokens).to(gaps_B)


def score_offset(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """ODPO: alpha f(s_w - s_l), f = log as published (arXiv 2402.10571), or log1p or identity.

    A score gap below `floor` counts as `floor`: the logarithm has no value at a tie.
    """
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    difference_B = (chosen_B - rejected_B).clamp(min=parameters.number("floor"))
    shapes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"log": torch.log, "log1p": torch.log1p}
    shaped_B = shapes.get(parameters.word("offset"), torch.clone)(difference_B)
    return (parameters.number("alpha") * shaped_B).to(gaps_B)


def standardised(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """alpha-DPO: gamma0 + beta alpha z, z the pair's mean log-ratio standardised (arXiv 2410.10148)."""
    margins_B = constant(gaps_B, batch, parameters, state)
    if state.moments is None or not state.moments.spread:
        return margins_B
    z_B = state.moments.standardise(state.moments.of(batch))
    return margins_B + parameters.number("beta") * parameters.number("alpha") * z_B.to(gaps_B)


def misranked(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """AMaPO: beta exp(mu (mu - d) / s) where d < mu, else 0; d is the pair's H (arXiv 2511.09385)."""
    if state.moments is None or state.moments.mean is None or not state.moments.spread:
        return torch.zeros_like(gaps_B)
    d_B = state.moments.of(batch).to(gaps_B)
    raised_B = parameters.number("beta") * torch.exp(-state.moments.mean * state.moments.standardise(d_B))
    return torch.where(d_B < state.moments.mean, raised_B, 0.0)


def rating(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Rating-based DPO: (beta / rating_beta) (s_w - s_l), of either sign (arXiv 2602.00603)."""
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    return (parameters.number("beta") / parameters.number("rating_beta") * (chosen_B - rejected_B)).to(gaps_B)


def home_advantage(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """RainbowPO: beta (1 - kappa) gamma_h, kappa the reference's share in the reward (arXiv 2410.04203)."""
    margin = (1 - parameters.number("reference_share")) * parameters.number("home_advantage")
    return torch.full_like(gaps_B, parameters.number("beta") * margin)


def chosen_guard(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Smaug's DPO-positive: beta guard max(0, lr_w - lp_w), through which a fallen lp_w is pulled up (2402.13228).

    A fall within rounding is none: policy and reference begin alike, and the slope there would be decided by chance.
    """
    (reference_B,) = batch.need("reference_chosen_logps")
    fall_B = reference_B - batch.policy_chosen_logps - _ROUNDING * batch.chosen_tokens.to(reference_B)
    return parameters.number("beta") * parameters.number("guard") * torch.relu(fall_B)


def feature_drift(gaps_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """FPO: beta alpha (E_l - E_w), E the mean squared change of a side's strongest features; E_w, the chosen side's, is
    a constant (arXiv 2411.07618).
    """
    names = ("policy_chosen_features", "reference_chosen_features", "policy_rejected_features")
    chosen_BK, before_BK, rejected_BK, was_BK = batch.need(*names, "reference_rejected_features")
    moved_B = (rejected_BK - was_BK).square().mean(1) - (chosen_BK - before_BK).square().mean(1).detach()
    return (parameters.number("beta") * parameters.number("alpha") * moved_B).to(gaps_B)


MARGINS: dict[str, Callable[[torch.Tensor, PairBatch, Values, State], torch.Tensor]] = {
    "none": none,
    "constant": constant,
    "inverse-beta": inverse_beta,
    "length": length,
    "score-offset": score_offset,
    "standardised": standardised,
    "misranked": misranked,
    "rating": rating,
    "home-advantage": home_advantage,
    "chosen-guard": chosen_guard,
    "feature-drift": feature_drift,
}
DIFFERENTIABLE = {"chosen-guard", "feature-drift"}  # through which the loss's gradient flows, too
