"""What an objective takes and what it gives. Shapes: B pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

PREFERENCE, SFT = 0, 1  # values of PairBatch.routes


@dataclass(kw_only=True)
class PairBatch:
    """Log-probs are sums over completion tokens, in nats, [B]; token counts are [B] integers.

    A pair routed to SFT carries 0 for its absent rejected side; it never reaches a reward, a margin or a link.
    Scores, label confidence and difficulty stay as the label has them, flipped or not.
    """

    policy_chosen_logps: torch.Tensor
    policy_rejected_logps: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    reference_chosen_logps: torch.Tensor | None = None
    reference_rejected_logps: torch.Tensor | None = None
    chosen_scores: torch.Tensor | None = None
    rejected_scores: torch.Tensor | None = None
    label_confidence: torch.Tensor | None = None  # P(chosen is preferred)
    difficulty: torch.Tensor | None = None
    routes: torch.Tensor | None = None  # [B] of PREFERENCE or SFT; None: all preference
    policy_chosen_token_logps: Sequence[torch.Tensor] | None = None  # B tensors, one log-prob a token
    policy_rejected_token_logps: Sequence[torch.Tensor] | None = None
    # Sums over completion tokens of log sum_v pi(v)^2, the log of the policy's probability to agree with itself there.
    policy_chosen_square_logps: torch.Tensor | None = None
    policy_rejected_square_logps: torch.Tensor | None = None
    # The reference's, as the policy's above; and weights that are fixed before training: for BMC 1 where a token is not
    # the other side's, else 0.
    reference_chosen_token_logps: Sequence[torch.Tensor] | None = None
    reference_rejected_token_logps: Sequence[torch.Tensor] | None = None
    chosen_token_weights: Sequence[torch.Tensor] | None = None
    rejected_token_weights: Sequence[torch.Tensor] | None = None
    # KTO's estimate of KL(policy, reference) in nats, from answers to other prompts: of a whole step, and so the same
    # for each of its pairs.
    step_kl: torch.Tensor | None = None
    # [B, K]: the K strongest features of the policy's states at a side, and what the same are under the reference.
    policy_chosen_features: torch.Tensor | None = None
    policy_rejected_features: torch.Tensor | None = None
    reference_chosen_features: torch.Tensor | None = None
    reference_rejected_features: torch.Tensor | None = None
    sources: torch.Tensor | None = None  # [B] integers: which of the data's sources the label is from
    streams: torch.Tensor | None = None  # [B] integers: which stream the pair is of (streams.py); None: all of one

    def select(self, index: torch.Tensor) -> "PairBatch":
        """The pairs at `index`, as a batch of their own."""
        kept: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            ragged = value is not None and not isinstance(value, torch.Tensor)
            kept[each.name] = [value[i] for i in index.tolist()] if ragged else None if value is None else value[index]
        return PairBatch(**kept)

    def need(self, *names: str) -> list[Any]:
        """These columns. Raises ValueError that names the first one which is absent."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"this objective needs {name}, which the batch does not carry")
        return [getattr(self, name) for name in names]


@dataclass
class Output:
    """What an objective says of a batch. All but the losses are detached, and NaN on pairs not routed to preference."""

    losses_B: torch.Tensor  # differentiable; averaged over the pairs of a step
    token_losses_B: torch.Tensor  # differentiable; averaged over the chosen tokens of a step's preference pairs
    gaps_B: torch.Tensor  # scale * H
    chosen_rewards_B: torch.Tensor  # scale * the reward of each side, of which H is the difference
    rejected_rewards_B: torch.Tensor
    margins_B: torch.Tensor  # what is subtracted from the gap
    shifts_B: torch.Tensor  # the part of it that gamma-PO adds, gamma_i - gamma0
    weights_B: torch.Tensor  # -d loss / d gap; of a unary link at the pair's sum of both rewards
    statistics_B: torch.Tensor  # what a state's memory observes of the pair
    chosen_tokens: torch.Tensor

    @property
    def count(self) -> int:
        """Pairs of either route: what the sum of `losses_B` is divided by."""
        return len(self.losses_B)

    @property
    def token_count(self) -> int:
        """Chosen tokens of the preference pairs: what the sum of `token_losses_B` is divided by."""
        return int(self.chosen_tokens[~self.gaps_B.isnan()].sum())

    def per_pair(self, pairs: int, tokens: int) -> torch.Tensor:
        """A loss a pair, [B], whose mean over all `pairs` of a step is the step's loss.

        `pairs` and `tokens` are counts of the whole step, known before its first forward, so that no split into
        micro-batches or workers changes the answer.
        """
        return self.losses_B + self.token_losses_B * (pairs / max(1, tokens))

    @property
    def loss(self) -> torch.Tensor:
        """The mean loss where this batch is a whole step."""
        return self.per_pair(self.count, self.token_count).sum() / max(1, self.count)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The step's diagnostics over the pairs routed to preference; see diagnostics.py."""
        from pipeline.objectives.diagnostics import diagnose

        kept = ~self.gaps_B.isnan()
        return diagnose(self.gaps_B[kept], self.margins_B[kept], self.shifts_B[kept], self.weights_B[kept])
