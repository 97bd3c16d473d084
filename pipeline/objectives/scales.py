"""What H is multiplied by to make the gap. Each function: (PairBatch, parameters, state) -> number or [B], detached."""

from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values
from pipeline.objectives.state import State

_LEAST = 1e-3  # the beta below which beta-DPO never falls

Scale = torch.Tensor | float


def beta(batch: PairBatch, parameters: Values, state: State) -> Scale:
    return parameters.number("beta")


def one(batch: PairBatch, parameters: Values, state: State) -> Scale:
    """For links that are not scale-free, such as IPO's, where beta sets the target instead."""
    return 1.0


def confidence(batch: PairBatch, parameters: Values, state: State) -> Scale:
    """GDPO: beta (2p - 1) with p = P(chosen is preferred); a coin's label teaches nothing (arXiv 2409.06691)."""
    (p_B,) = batch.need("label_confidence")
    return parameters.number("beta") * (2 * p_B - 1)


def score_gap(batch: PairBatch, parameters: Values, state: State) -> Scale:
    """DA-DPO as released: beta alpha (1 + |score gap|), scores in [0, 1] (arXiv 2601.00623)."""
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    return parameters.number("beta") * parameters.number("alpha") * (1 + (chosen_B - rejected_B).abs())


def step_beta(batch: PairBatch, parameters: Values, state: State) -> Scale:
    """beta-DPO: beta (1 + a (mean of the kept log-ratios - their running mean)) (arXiv 2407.08639).

    Both means are of the steps before this one, so that beta does not depend on micro-batches.
    """
    moments = state.moments
    if moments is None or moments.latest is None or moments.mean is None:
        return parameters.number("beta")
    kept_b = moments.inclusion(moments.latest, parameters.number("keep"))
    kept_mean = (kept_b * moments.latest).sum() / kept_b.sum()
    factor = 1 + parameters.number("a") * float(kept_mean - moments.mean)
    return max(parameters.number("beta") * factor, _LEAST)


SCALES: dict[str, Callable[[PairBatch, Values, State], Scale]] = {
    "beta": beta,
    "one": one,
    "confidence": confidence,
    "score-gap": score_gap,
    "step-beta": step_beta,
}
