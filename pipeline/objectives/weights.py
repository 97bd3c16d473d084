"""What a pair's link is multiplied by. Each function: (PairBatch, parameters, state) -> [B].

Constants to the gradient, but for Uni-DPO's, whose authors let it flow.
"""

import math
from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values
from pipeline.objectives.rewards import mean_log_prob, unsure
from pipeline.objectives.state import State


def one(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    return torch.ones_like(batch.policy_chosen_logps)


def constant(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """ORPO's lambda: the link beside the NLL (arXiv 2403.07691, eq. 6)."""
    return one(batch, parameters, state) * parameters.number("odds_weight")


def reward_model(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """MADPO: sigmoid(c H) / sigmoid(H) where H > -threshold, else 1; H the reward model's margin (arXiv 2510.05342).

    c runs from c_max for near-ties to 1 / c_max for wide margins, through 1 at the threshold.
    """
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    margin_B, c_max = chosen_B - rejected_B, parameters.number("c_max")
    threshold, steepness = parameters.number("threshold"), parameters.number("steepness")
    # (c_max - 1) / (1 - 1 / c_max) is c_max, also where both are 0.
    rise_B = torch.sigmoid(-(steepness * (margin_B.abs() - threshold) + math.log(c_max)))
    c_B = 1 / c_max + (c_max - 1 / c_max) * rise_B
    ratio_B = torch.exp(torch.nn.functional.logsigmoid(c_B * margin_B) - torch.nn.functional.logsigmoid(margin_B))
    return torch.where(margin_B > -threshold, ratio_B, 1.0)


def quality_and_fit(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Uni-DPO: sigmoid(eta (s_w - s_l)) (1 - sigmoid(beta d - fit_margin))^fit_power, d of mean log-probs
    (arXiv 2506.10054). The second factor carries gradient, as in the authors' code.
    """
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    quality_B = torch.sigmoid(parameters.number("eta") * (chosen_B - rejected_B))
    fit_B = torch.sigmoid(parameters.number("fit_margin") - parameters.number("beta") * mean_log_prob(batch))
    return quality_B * fit_B ** parameters.number("fit_power")


def likely_kept(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """beta-DPO's filter, as its expectation: P(the pair is kept) / share kept (arXiv 2407.08639).

    The authors draw a share of every batch, near-average gaps the likelier; a weight is the same on average and
    draws nothing. The probabilities come from the steps before this one.
    """
    if state.moments is None or state.moments.latest is None:
        return one(batch, parameters, state)
    keep = parameters.number("keep")
    return state.moments.inclusion(state.moments.of(batch), keep) / keep


def any_unsure(batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """ConfPO: a pair with a side that keeps no token is skipped."""
    chosen, rejected = batch.need("policy_chosen_token_logps", "policy_rejected_token_logps")
    sides = zip(chosen, rejected, strict=True)
    return torch.tensor([all(bool(unsure(logps).any()) for logps in pair) for pair in sides]).to(
        batch.policy_chosen_logps
    )


WEIGHTS: dict[str, Callable[[PairBatch, Values, State], torch.Tensor]] = {
    "one": one,
    "constant-weight": constant,
    "reward-model": reward_model,
    "quality-and-fit": quality_and_fit,
    "likely-kept": likely_kept,
    "any-unsure": any_unsure,
}
