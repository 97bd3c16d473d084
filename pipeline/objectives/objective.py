"""An objective is a composition: reward, scale, margin, link, weight, auxiliary, route. A row of presets.py says which.

loss_i = weight_i * link(scale_i * H_i - margin_i) + auxiliary_i   where routed to preference
loss_i = sft_weight * NLL_i per token                              where routed to SFT
"""

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.objectives.auxiliaries import AUXILIARIES, PER_TOKEN
from pipeline.objectives.batch import SFT, Output, PairBatch
from pipeline.objectives.links import LINKS
from pipeline.objectives.margins import MARGINS
from pipeline.objectives.presets import Preset, Values, resolve
from pipeline.objectives.published import PublishedState
from pipeline.objectives.rewards import REWARDS
from pipeline.objectives.scales import SCALES
from pipeline.objectives.state import QUEUE, GammaState, Moments, State
from pipeline.objectives.weights import WEIGHTS


@dataclass(frozen=True)
class Objective:
    """One row of the table with every parameter's value. Built by `build`; it holds no state and no tensors."""

    preset: Preset
    parameters: Values

    def __call__(self, batch: PairBatch, state: State) -> Output:
        """Losses, gaps, margins and weights of a batch. Leaves the state as it is: `state.observe` is the caller's."""
        size = len(batch.policy_chosen_logps)
        everyone = torch.arange(size, device=batch.policy_chosen_logps.device)
        is_sft_B = torch.zeros_like(everyone, dtype=torch.bool) if batch.routes is None else batch.routes == SFT
        sft, preferred = everyone[is_sft_B], everyone[~is_sft_B]

        def spread(values: torch.Tensor, fill: float = torch.nan) -> torch.Tensor:
            empty_B = torch.full((size,), fill, dtype=values.dtype, device=values.device)
            return empty_B.index_put((preferred,), values)

        # By index: what an absent side computes must not reach a gradient, even times 0.
        pairs = batch.select(preferred)
        gaps, margins, shifts = self._gaps_and_margins(pairs, state)
        weights = WEIGHTS[self.preset.weight](pairs, self.parameters, state)
        losses = weights * LINKS[self.preset.link](gaps - margins, pairs, self.parameters)
        auxiliary = AUXILIARIES[self.preset.auxiliary](pairs, self.parameters)
        per_token = self.preset.auxiliary in PER_TOKEN
        losses_B = spread(losses if per_token else losses + auxiliary, 0.0)
        if len(sft):
            if "sft_weight" not in self.parameters:
                raise ValueError("pairs are routed to SFT, which only mixdpo takes")
            nll = -batch.policy_chosen_logps[sft] / batch.chosen_tokens[sft]
            losses_B = losses_B.index_put((sft,), self.parameters.number("sft_weight") * nll.to(losses_B))
        return Output(
            losses_B=losses_B,
            token_losses_B=spread(auxiliary, 0.0) if per_token else torch.zeros_like(losses_B),
            gaps_B=spread(gaps.detach()),
            margins_B=spread(margins),
            shifts_B=spread(shifts),
            weights_B=spread(weights.detach() * self._slopes(gaps.detach() - margins, pairs)),
            statistics_B=spread(state.moments.of(pairs) if state.moments else gaps.detach()),
            chosen_tokens=batch.chosen_tokens,
        )

    def reward_gaps(self, batch: PairBatch) -> torch.Tensor:
        """H, [B]: positive where the policy ranks the pair as its label does."""
        return REWARDS[self.preset.reward](batch)

    def gaps(self, batch: PairBatch, state: State) -> torch.Tensor:
        """scale * H, [B]."""
        return SCALES[self.preset.scale](batch, self.parameters, state) * self.reward_gaps(batch)

    def initial_state(self, capacity: int = QUEUE, untrained: PairBatch | None = None) -> State:
        """What is remembered between steps, at most `capacity` gaps of it.

        `untrained` are pairs as the untrained policy sees them, the cached log-probs on both sides. The state starts
        from their gaps, unless these are zero for every pair, as a gap to the reference is: that teaches it nothing.
        """
        gamma: GammaState | PublishedState | None = None
        if self.preset.gamma:
            gamma0, tau = self.parameters.number("gamma0"), self.parameters.number("tau")
            if self.parameters.word("solver") == "paper":
                gamma = PublishedState(gamma0, tau, seed=0)
            else:
                gamma = GammaState(gamma0, tau, max(1, min(QUEUE, capacity)))
        statistic = self.preset.statistic
        moments = Moments(statistic, self.parameters.number("momentum")) if statistic else None
        state = State(gamma, moments)
        if untrained is not None and (gamma or moments):
            gaps_B = self.gaps(untrained, state)
            if gamma and bool(gaps_B.any()):
                gamma.observe(gaps_B)
            if moments:
                moments.start(moments.of(untrained))
        return state

    def _gaps_and_margins(self, pairs: PairBatch, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gaps, whole margins, and the part of the margins that gamma-PO adds: gamma_i - gamma0, zero on average."""
        gaps = self.gaps(pairs, state)
        own = MARGINS[self.preset.margin](gaps.detach(), pairs, self.parameters, state).detach()
        if state.gamma is None:
            return gaps, own, torch.zeros_like(own)
        shifts = state.gamma.margins(gaps.detach()).to(own) - self.parameters.number("gamma0")
        return gaps, own + shifts, shifts

    def _slopes(self, z_B: torch.Tensor, pairs: PairBatch) -> torch.Tensor:
        """-d link / d z, [B]; also asked for while gradients are off."""
        with torch.enable_grad():
            z_B = z_B.detach().requires_grad_()
            return -torch.autograd.grad(LINKS[self.preset.link](z_B, pairs, self.parameters).sum(), z_B)[0]


def build(name: str, **parameters: Any) -> Objective:
    """An objective by its name in the table. Raises UserError for an unknown name or parameter, or one out of range."""
    return Objective(*resolve(name, parameters))
