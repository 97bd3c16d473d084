"""What an objective takes and what it gives. Shapes: B pairs."""

from dataclasses import dataclass, fields
from typing import Any

import torch

PREFERENCE, SFT = 0, 1  # values of PairBatch.routes


@dataclass(kw_only=True)
class PairBatch:
    """Log-probs are sums over completion tokens, in nats, [B]; token counts are [B] integers.

    A pair routed to SFT carries 0 for its absent rejected side; it never reaches a reward, a margin or a link.
    """

    policy_chosen_logps: torch.Tensor
    policy_rejected_logps: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    reference_chosen_logps: torch.Tensor | None = None
    reference_rejected_logps: torch.Tensor | None = None
    routes: torch.Tensor | None = None  # [B] of PREFERENCE or SFT; None: all preference

    def select(self, index: torch.Tensor) -> "PairBatch":
        """The pairs at `index`, as a batch of their own."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        kept: dict[str, Any] = {name: None if value is None else value[index] for name, value in values.items()}
        return PairBatch(**kept)


@dataclass
class Output:
    """What an objective says of a batch. Gap, margin and weight are NaN on pairs that are not routed to preference."""

    losses_B: torch.Tensor  # differentiable
    gaps_B: torch.Tensor  # beta * H, detached, like the next two
    margins_B: torch.Tensor
    weights_B: torch.Tensor  # -d loss / d gap

    @property
    def loss_sum(self) -> torch.Tensor:
        """The sum over pairs. The caller divides by the pairs of the whole step: no split changes the answer."""
        return self.losses_B.sum()
