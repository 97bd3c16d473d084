"""H, the difference in reward between chosen and rejected, before it is scaled; and the reward of each side.

Each function: (PairBatch, parameters) -> both sides' rewards, [B] each, in nats (mean: nats a token), differentiable.
Notation as in docs/objectives.md: lp and lr are the policy's and the reference's summed log-probs, n the completion's
tokens.
"""

from collections.abc import Callable, Sequence

import torch

from pipeline.objectives.batch import PairBatch
from pipeline.objectives.presets import Values

Sides = Callable[[PairBatch, Values], tuple[torch.Tensor, torch.Tensor]]

_NEVER_CERTAIN = -1e-10  # the mean log-prob at which the odds of a completion stop growing


def log_ratio(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """DPO's implicit reward: the log-ratio to the reference, summed over tokens (arXiv 2305.18290, eq. 5)."""
    return log_ratios(batch)


def mean_log_ratio(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, each side divided by its own number of tokens (Tulu 3, arXiv 2411.15124)."""
    chosen, rejected = log_ratios(batch)
    return chosen / batch.chosen_tokens, rejected / batch.rejected_tokens


def clipped_log_ratio(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """HyPO: the reference's gap counts only where it ranks the pair as the label does (arXiv 2602.11902).

    It is the pair's, and here taken off its chosen side.
    """
    reference_chosen, reference_rejected = batch.need("reference_chosen_logps", "reference_rejected_logps")
    clipped = (reference_chosen - reference_rejected).clamp(min=0)
    return batch.policy_chosen_logps - clipped, batch.policy_rejected_logps


def log_prob(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed log-prob, no reference (CPO, arXiv 2401.08417)."""
    return batch.policy_chosen_logps, batch.policy_rejected_logps


def mean_log_prob(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """SimPO's reward: the mean log-prob of a completion's tokens, no reference (arXiv 2405.14734, eq. 4)."""
    return batch.policy_chosen_logps / batch.chosen_tokens, batch.policy_rejected_logps / batch.rejected_tokens


def log_odds(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """ORPO: logit of a completion's mean token probability, exp(lp / n) (arXiv 2403.07691, eq. 4 and 7)."""

    def logit(logps_B: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
        mean_B = (logps_B / tokens_B).clamp(max=_NEVER_CERTAIN)
        return mean_B - torch.log(-torch.expm1(mean_B))

    chosen = logit(batch.policy_chosen_logps, batch.chosen_tokens)
    return chosen, logit(batch.policy_rejected_logps, batch.rejected_tokens)


def unsure_tokens(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """ConfPO: the mean log-prob of the tokens the policy is unsure of (arXiv 2506.08712); 0 for a side without any."""
    chosen, rejected = batch.need("policy_chosen_token_logps", "policy_rejected_token_logps")

    def mean(side: torch.Tensor) -> torch.Tensor:
        means = [(logps * unsure(logps)).sum() / unsure(logps).sum().clamp(min=1) for logps in side]
        return torch.stack(means) if means else batch.policy_chosen_logps  # which is as empty: all pairs are SFT's

    return mean(chosen), mean(rejected)


def unsure(logps_n: torch.Tensor) -> torch.Tensor:
    """Which tokens of a completion are less likely than its mean token probability, [n] of bool, detached."""
    below_n = logps_n.detach() - logps_n.detach().max()
    return below_n < below_n.exp().mean().log()  # of tokens alike exactly 0: rounding makes none of them unsure


def mixed_mean_log_ratio(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """RainbowPO: mean log-probs, of which a share of the reference's is taken off (arXiv 2410.04203)."""
    reference_chosen, reference_rejected = batch.need("reference_chosen_logps", "reference_rejected_logps")
    share = parameters.number("reference_share")
    chosen = (batch.policy_chosen_logps - share * reference_chosen) / batch.chosen_tokens
    return chosen, (batch.policy_rejected_logps - share * reference_rejected) / batch.rejected_tokens


def bent_mean_log_prob(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """AlphaPO: (1 - p^-alpha) / alpha, p the geometric mean of a completion's token probabilities, so log p where alpha
    is 0 (arXiv 2501.03884).
    """
    alpha = parameters.number("alpha")
    if alpha == 0:
        return mean_log_prob(batch, parameters)

    def bent(logps_B: torch.Tensor, tokens_B: torch.Tensor) -> torch.Tensor:
        return -torch.expm1(-alpha * logps_B / tokens_B) / alpha

    chosen = bent(batch.policy_chosen_logps, batch.chosen_tokens)
    return chosen, bent(batch.policy_rejected_logps, batch.rejected_tokens)


def weighted_tokens(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """TIS-DPO: each token's log-ratio times its weight, which two contrastive models gave it (arXiv 2410.04350)."""
    chosen, rejected = batch.need("chosen_token_weights", "rejected_token_weights")
    return _by_token(batch, chosen, rejected)


def decayed_tokens(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """D2PO: the log-ratio of a completion's token t, from 0, times decay^t (arXiv 2502.14340)."""
    decay = parameters.number("decay")

    def weights(logps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [decay ** torch.arange(len(each)).to(each) for each in logps]

    chosen, rejected = batch.need("policy_chosen_token_logps", "policy_rejected_token_logps")
    return _by_token(batch, weights(chosen), weights(rejected))


def changed_tokens(batch: PairBatch, parameters: Values) -> tuple[torch.Tensor, torch.Tensor]:
    """BMC: tokens that are not the other side's count 1 + min(1 / pi, delta) times, pi the policy's probability and a
    constant to the gradient; the others once (arXiv 2408.07471).
    """
    delta = parameters.number("delta")

    def weights(logps: Sequence[torch.Tensor], changed: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        sides = zip(logps, changed, strict=True)
        return [1 + differs * torch.exp(-each.detach()).clamp(max=delta) for each, differs in sides]

    policy = batch.need("policy_chosen_token_logps", "policy_rejected_token_logps")
    changed = batch.need("chosen_token_weights", "rejected_token_weights")
    return _by_token(batch, *map(weights, policy, changed))


def _by_token(
    batch: PairBatch, chosen_weights: Sequence[torch.Tensor], rejected_weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums of tokens' log-ratios; the policy and the reference have the same weights."""

    def summed(side: str, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        logps, reference = batch.need(f"policy_{side}_token_logps", f"reference_{side}_token_logps")
        sides = zip(weights, logps, reference, strict=True)
        sums = [(weights_n * (logps_n - reference_n)).sum() for weights_n, logps_n, reference_n in sides]
        return torch.stack(sums) if sums else batch.policy_chosen_logps  # which is as empty: all pairs are SFT's

    return summed("chosen", chosen_weights), summed("rejected", rejected_weights)


def log_ratios(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Each side's log-ratio to the reference, summed over tokens: what unary links look at."""
    reference_chosen, reference_rejected = batch.need("reference_chosen_logps", "reference_rejected_logps")
    return batch.policy_chosen_logps - reference_chosen, batch.policy_rejected_logps - reference_rejected


SIDES: dict[str, Sides] = {
    "log-ratio": log_ratio,
    "mean-log-ratio": mean_log_ratio,
    "clipped-log-ratio": clipped_log_ratio,
    "log-prob": log_prob,
    "mixed-mean-log-ratio": mixed_mean_log_ratio,
    "mean-log-prob": mean_log_prob,
    "bent-mean-log-prob": bent_mean_log_prob,
    "log-odds": log_odds,
    "unsure-tokens": unsure_tokens,
    "weighted-tokens": weighted_tokens,
    "decayed-tokens": decayed_tokens,
    "changed-tokens": changed_tokens,
}


def _difference(sides: Sides) -> Callable[[PairBatch, Values], torch.Tensor]:
    def difference(batch: PairBatch, parameters: Values) -> torch.Tensor:
        chosen_B, rejected_B = sides(batch, parameters)
        return chosen_B - rejected_B

    return difference


REWARDS = {name: _difference(sides) for name, sides in SIDES.items()}  # H, [B]
