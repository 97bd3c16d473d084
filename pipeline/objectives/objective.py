"""An objective is a composition: reward, scale, margin, link, route. Which functions, a row of presets.py says."""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.objectives.batch import SFT, Output, PairBatch
from pipeline.objectives.gamma import GammaState, NoState
from pipeline.objectives.links import LINKS
from pipeline.objectives.margins import MARGINS, STATEFUL, State
from pipeline.objectives.presets import Preset, check_parameters, resolve
from pipeline.objectives.rewards import REWARDS

QUEUE = 2048  # gaps remembered, as the authors of gamma-PO have it


@dataclass(frozen=True)
class Objective:
    """One row of the table with every parameter's value. Built by `build`; it holds no state and no tensors."""

    preset: Preset
    parameters: dict[str, Any]

    def __call__(self, batch: PairBatch, state: State) -> Output:
        """loss_i = link(beta * H_i - margin_i) where routed to preference, sft_weight * NLL per token where to SFT."""
        zeros_B = torch.zeros_like(batch.policy_chosen_logps)
        losses_B, gaps_B, margins_B, weights_B = zeros_B, zeros_B + torch.nan, zeros_B + torch.nan, zeros_B + torch.nan
        is_sft_B = torch.zeros_like(zeros_B, dtype=torch.bool) if batch.routes is None else batch.routes == SFT

        sft = is_sft_B.nonzero().squeeze(1)
        if len(sft):
            nll = -batch.policy_chosen_logps[sft] / batch.chosen_tokens[sft]
            losses_B = losses_B.index_put((sft,), self.parameters["sft_weight"] * nll)

        preferred = (~is_sft_B).nonzero().squeeze(1)
        if len(preferred):
            gaps = self.gaps(batch.select(preferred))
            margins = MARGINS[self.preset.margin](gaps.detach(), self.parameters, state).to(gaps)
            losses_B = losses_B.index_put((preferred,), LINKS[self.preset.link](gaps - margins, self.parameters))
            gaps_B[preferred], margins_B[preferred] = gaps.detach(), margins
            weights_B[preferred] = self._weights(gaps.detach() - margins)
        return Output(losses_B, gaps_B.detach(), margins_B.detach(), weights_B.detach())

    def gaps(self, batch: PairBatch) -> torch.Tensor:
        """beta * H, [B]."""
        return self.parameters["beta"] * REWARDS[self.preset.reward](batch)

    def initial_state(self, capacity: int = QUEUE, gaps: torch.Tensor | None = None) -> State:
        """What is remembered between steps: at most `capacity` gaps, where the margin asks for any.

        `gaps`: the gaps of the untrained policy, where they are known beforehand and not all zero.
        """
        if self.preset.margin not in STATEFUL:
            return NoState()
        return GammaState(self.parameters["gamma0"], self.parameters["tau"], max(1, min(QUEUE, capacity)), gaps)

    def _weights(self, z_B: torch.Tensor) -> torch.Tensor:
        """-d loss / d gap, [B]; also asked for while gradients are off."""
        with torch.enable_grad():
            z_B = z_B.detach().requires_grad_()
            return -torch.autograd.grad(LINKS[self.preset.link](z_B, self.parameters).sum(), z_B)[0]


def build(name: str, **parameters: Any) -> Objective:
    """An objective by its name in the table. Raises UserError for an unknown name or parameter, or one out of range."""
    check_parameters(name, parameters)
    preset, values = resolve(name, parameters)
    return Objective(preset, values)
