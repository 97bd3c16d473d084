"""What a pair's link is multiplied by. Each function: (the link's losses [B], PairBatch, parameters, state) -> [B].

The losses are detached, and so weights are constants to the gradient, but for Uni-DPO's, whose authors let it flow.
"""

import math
from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.memories import Level, Worst
from pipeline.objectives.presets import Values
from pipeline.objectives.rewards import REWARDS, unsure
from pipeline.objectives.state import State, score_gap


def one(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    return torch.ones_like(batch.policy_chosen_logps)


def constant(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """ORPO's lambda: the link beside the NLL (arXiv 2403.07691, eq. 6)."""
    return one(losses_B, batch, parameters, state) * parameters.number("odds_weight")


def reward_model(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
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
    return torch.where(margin_B <= -threshold, 1.0, ratio_B)


def quality_and_fit(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Uni-DPO: sigmoid(eta (s_w - s_l)) (1 - sigmoid(beta d - fit_margin))^fit_power, d of mean log-probs
    (arXiv 2506.10054). The second factor carries gradient, as in the authors' code.
    """
    chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
    quality_B = torch.sigmoid(parameters.number("eta") * (chosen_B - rejected_B))
    fit_B = torch.sigmoid(
        parameters.number("fit_margin") - parameters.number("beta") * REWARDS["mean-log-prob"](batch, parameters)
    )
    return quality_B * fit_B ** parameters.number("fit_power")


def likely_kept(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """beta-DPO's filter, as its expectation: P(the pair is kept) / share kept (arXiv 2407.08639).

    The authors draw a share of every batch, near-average gaps the likelier; a weight is the same on average and
    draws nothing. The probabilities come from the steps before this one.
    """
    if state.moments is None or state.moments.latest is None:
        return one(losses_B, batch, parameters, state)
    keep = parameters.number("keep")
    return state.moments.inclusion(state.moments.of(batch), keep) / keep


def any_unsure(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """ConfPO: a pair with a side that keeps no token is skipped."""
    chosen, rejected = batch.need("policy_chosen_token_logps", "policy_rejected_token_logps")
    sides = zip(chosen, rejected, strict=True)
    return torch.tensor([all(bool(unsure(logps).any()) for logps in pair) for pair in sides]).to(
        batch.policy_chosen_logps
    )


def like_the_policy(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """WPO: min(1, exp(a_w + a_l)), a a side's mean of log pi(y_t) - log sum_v pi(v)^2 (arXiv 2406.11827).

    Over the policy's own samples a is at most 0 on average: a pair counts as far as the policy might have written it.
    """
    chosen_B, rejected_B = batch.need("policy_chosen_square_logps", "policy_rejected_square_logps")
    chosen_B = (batch.policy_chosen_logps.detach() - chosen_B) / batch.chosen_tokens
    rejected_B = (batch.policy_rejected_logps.detach() - rejected_B) / batch.rejected_tokens
    return torch.exp((chosen_B + rejected_B).clamp(max=0))


def score_certainty(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """CW-PO: 2 sigmoid(s_w - s_l) - 1, s a weak reward model's; 0 where they contradict the label (2603.04968)."""
    return torch.tanh(score_gap(batch, parameters) / 2)


def relative_score_gap(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Scaled DPO: the score gap over its mean in the steps before; 0 where it contradicts the label (2408.09385)."""
    if state.moments is None or not state.moments.mean:  # nothing seen but ties, and what contradicts its label
        chosen_B, rejected_B = batch.need("chosen_scores", "rejected_scores")
        return torch.where(chosen_B < rejected_B, 0.0, 1 + 0 * (chosen_B - rejected_B))  # and NaN is NaN
    return score_gap(batch, parameters) / state.moments.mean


def agreeing(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """Dr. DPO: exp(-loss / beta') over its mean in the steps before, whatever the loss is (arXiv 2407.07880).

    The gradient of -beta' log mean exp(-loss / beta') is the mean of the losses' with these weights, the mean being the
    batch's own; so it is in expectation, and neither micro-batches nor workers are in it.
    """
    memory = state.memory
    assert isinstance(memory, Level)  # Objective.gaps looks at it
    if memory.log_mean is None:
        return one(losses_B, batch, parameters, state)
    return torch.exp(memory.of(losses_B) - memory.log_mean)


def not_the_worst(losses_B: torch.Tensor, batch: PairBatch, parameters: Values, state: State) -> torch.Tensor:
    """RAPPO: 0 for a pair that the reference ranks wrong and whose loss would have been among the `drop` largest of
    these in the step before; else 1 (see memories.py).
    """
    memory = state.memory
    assert isinstance(memory, Worst)
    return (~(memory.of(batch, losses_B) > memory.bound)).to(losses_B)


Weight = Callable[[torch.Tensor, PairBatch, Values, State], torch.Tensor]
WEIGHTS: dict[str, Weight] = {
    "one": one,
    "constant-weight": constant,
    "reward-model": reward_model,
    "quality-and-fit": quality_and_fit,
    "likely-kept": likely_kept,
    "any-unsure": any_unsure,
    "like-the-policy": like_the_policy,
    "score-certainty": score_certainty,
    "relative-score-gap": relative_score_gap,
    "agreeing": agreeing,
    "not-the-worst": not_the_worst,
}
