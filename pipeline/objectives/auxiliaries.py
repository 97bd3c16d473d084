"""A likelihood term on the chosen side, beside the link. Each function: (PairBatch, parameters) -> [B], in nats."""

from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values


def none(batch: PairBatch, parameters: Values) -> torch.Tensor:
    return torch.zeros_like(batch.policy_chosen_logps)


def nll_sum(batch: PairBatch, parameters: Values) -> torch.Tensor:
    """-lp_w: SLiC's regulariser (arXiv 2305.10425), a pair's sum; CPO's, where a step's tokens share one mean."""
    return -parameters.number("nll_weight") * batch.policy_chosen_logps


def nll_mean(batch: PairBatch, parameters: Values) -> torch.Tensor:
    """-lp_w / n_w: each pair's mean, as in ORPO and DPO with NLL (arXiv 2404.19733, eq. 1)."""
    return nll_sum(batch, parameters) / batch.chosen_tokens


def nll_guard(batch: PairBatch, parameters: Values) -> torch.Tensor:
    """Uni-DPO: the mean NLL of good answers, score at least `good_score`, that have become less likely.

    By more than `least_fall` nats a token: else rounding decides while the policy is still the reference.
    """
    reference_B, scores_B = batch.need("reference_chosen_logps", "chosen_scores")
    fall_B = (reference_B - batch.policy_chosen_logps.detach()) / batch.chosen_tokens
    fallen_B = fall_B > parameters.number("least_fall")
    return nll_mean(batch, parameters) * (fallen_B & (scores_B >= parameters.number("good_score")))


AUXILIARIES: dict[str, Callable[[PairBatch, Values], torch.Tensor]] = {
    "none": none,
    "nll-sum": nll_sum,
    "nll-tokens": nll_sum,
    "nll-mean": nll_mean,
    "nll-guard": nll_guard,
}
PER_TOKEN = {"nll-tokens"}  # averaged over a step's tokens, not over its pairs
