"""H, the difference in reward between chosen and rejected, before beta.

Each function: PairBatch -> [B], in nats (mean: nats a token), differentiable.
"""

from collections.abc import Callable

import torch

from pipeline.objectives.batch import PairBatch


def log_ratio(batch: PairBatch) -> torch.Tensor:
    """DPO's implicit reward: the log-ratio to the reference, summed over tokens (arXiv 2305.18290, eq. 5)."""
    if batch.reference_chosen_logps is None or batch.reference_rejected_logps is None:
        raise ValueError("this objective needs the reference log-probs of both sides")
    chosen = batch.policy_chosen_logps - batch.reference_chosen_logps
    return chosen - (batch.policy_rejected_logps - batch.reference_rejected_logps)


def mean(batch: PairBatch) -> torch.Tensor:
    """SimPO's reward: the mean log-prob of a completion's tokens, no reference (arXiv 2405.14734, eq. 4)."""
    return batch.policy_chosen_logps / batch.chosen_tokens - batch.policy_rejected_logps / batch.rejected_tokens


REWARDS: dict[str, Callable[[PairBatch], torch.Tensor]] = {"log-ratio": log_ratio, "mean": mean}
