"""An objective is a composition: reward, scale, margin, link, weight, auxiliary, route. A row of presets.py says which.

loss_i = weight_i * link(scale_i * H_i - margin_i) + auxiliary_i   where routed to preference
loss_i = sft_weight * NLL_i per token                              where routed to SFT

A unary link takes both sides' rewards, scaled, in place of their difference.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.objectives.auxiliaries import AUXILIARIES, PER_TOKEN
from pipeline.objectives.batch import SFT, Output, PairBatch
from pipeline.objectives.links import LINKS, UNARY
from pipeline.objectives.margins import DIFFERENTIABLE, MARGINS
from pipeline.objectives.memories import Level, Reliability, Worst
from pipeline.objectives.presets import STEP, Preset, Values, resolve
from pipeline.objectives.published import PublishedState
from pipeline.objectives.rewards import REWARDS, SIDES, log_ratios
from pipeline.objectives.scales import SCALES
from pipeline.objectives.state import GammaState, Memory, Moments, State, StepState
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
        z, link = gaps - margins, self._link(pairs, state)
        unweighted = link(z)
        weights = WEIGHTS[self.preset.weight](unweighted.detach(), pairs, self.parameters, state)
        losses = weights * unweighted
        chosen, rejected = self.rewards(pairs, state)
        statistics = state.statistics(pairs, z.detach(), unweighted.detach())
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
            chosen_rewards_B=spread(chosen),
            rejected_rewards_B=spread(rejected),
            margins_B=spread(margins.detach()),
            shifts_B=spread(shifts),
            weights_B=spread(weights.detach() * _slopes(link, z)),
            statistics_B=spread(gaps.detach() if statistics is None else statistics),
            chosen_tokens=batch.chosen_tokens,
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether a step's margins are solved over its own gaps: the state is to foresee them before its losses."""
        return self.preset.gamma and self.parameters["queue"] == STEP

    @property
    def queue(self) -> int:
        """How many gaps of the steps before margins are solved over, at most."""
        return 0 if self.looks_ahead else int(self.parameters.number("queue"))

    def reward_gaps(self, batch: PairBatch) -> torch.Tensor:
        """H, [B]: positive where the policy ranks the pair as its label does."""
        return REWARDS[self.preset.reward](batch, self.parameters)

    def gaps(self, batch: PairBatch, state: State) -> torch.Tensor:
        """scale * H, [B]. Raises ValueError where the state is another objective's, which remembers nothing of this."""
        watched = state.memory.statistic if state.memory else None
        if (state.gamma is not None, watched) != (self.preset.gamma, self.preset.statistic):
            raise ValueError("this objective needs the state that it makes itself: objective.initial_state()")
        return SCALES[self.preset.scale](batch, self.parameters, state) * self.reward_gaps(batch)

    @torch.no_grad()
    def rewards(self, batch: PairBatch, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """scale * the reward of each side, [B] each: what a gap is the difference of, to rounding."""
        scale = SCALES[self.preset.scale](batch, self.parameters, state)
        chosen_B, rejected_B = SIDES[self.preset.reward](batch, self.parameters)
        return scale * chosen_B, scale * rejected_B

    def initial_state(self, capacity: int | None = None, untrained: PairBatch | None = None) -> State:
        """What is remembered between steps: `queue` gaps, or `capacity` where that is less.

        `untrained` are pairs as the untrained policy sees them, the cached log-probs on both sides. The state starts
        from their gaps, unless these are zero for every pair, as a gap to the reference is: that teaches it nothing.
        """
        gamma: GammaState | PublishedState | None = None
        if self.preset.gamma:
            gamma0, tau = self.parameters.number("gamma0"), self.parameters.number("tau")
            if self.parameters.word("solver") == "paper":
                gamma = PublishedState(gamma0, tau, seed=0)
            elif self.looks_ahead:
                gamma = StepState(gamma0, tau)
            else:
                most = self.queue if capacity is None else min(self.queue, capacity)
                gamma = GammaState(gamma0, tau, max(1, most))
        state = State(gamma, self._memory())
        if untrained is not None:
            if gamma and bool((gaps_B := self.gaps(untrained, state)).any()):
                gamma.observe(gaps_B)
            if state.moments:
                state.moments.start(state.moments.of(untrained))
        return state

    def _memory(self) -> Memory | None:
        statistic, number = self.preset.statistic, self.parameters.number
        if statistic is None:
            return None
        if statistic == "level":
            return Level(number("beta_prime"), number("momentum"))
        if statistic == "worst":
            return Worst(int(number("drop")), number("reference_ratio"))
        if statistic == "reliability":
            return Reliability(number("reliability"), number("adaptation"))
        return Moments(statistic, number("momentum"), self.parameters)

    def _gaps_and_margins(self, pairs: PairBatch, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gaps, whole margins, and the part of the margins that gamma-PO moves: gamma_i - gamma0, zero on average."""
        gaps = self.gaps(pairs, state)
        own = MARGINS[self.preset.margin](gaps.detach(), pairs, self.parameters, state)
        if self.preset.margin not in DIFFERENTIABLE:
            own = own.detach()
        if state.gamma is None:
            return gaps, own, torch.zeros_like(own)
        gamma0 = self.parameters.number("gamma0")
        shifts = state.gamma.margins(gaps.detach()).to(own) - gamma0
        if not self.parameters["centred"]:
            own = own + gamma0
        return gaps, own + shifts, shifts

    def _link(self, pairs: PairBatch, state: State) -> Callable[[torch.Tensor], torch.Tensor]:
        """From z to a loss a pair, [B] -> [B]; of a unary link at the sum of both rewards that the pairs have."""
        row, values = self.preset, self.parameters
        if not row.unary:
            return lambda z_B: LINKS[row.link](z_B, pairs, values, state)
        chosen_B, rejected_B = log_ratios(pairs)
        sum_B = SCALES[row.scale](pairs, values, state) * (chosen_B + rejected_B)
        return lambda z_B: UNARY[row.link]((sum_B + z_B) / 2, (sum_B - z_B) / 2, pairs, values, state)


def _slopes(link: Callable[[torch.Tensor], torch.Tensor], z_B: torch.Tensor) -> torch.Tensor:
    """-d link / d z, [B]; also asked for while gradients are off."""
    with torch.enable_grad():
        z_B = z_B.detach().requires_grad_()
        return -torch.autograd.grad(link(z_B).sum(), z_B)[0]


def build(name: str, **parameters: Any) -> Objective:
    """An objective by its name in the table. Raises UserError for an unknown name or parameter, or one out of range."""
    return Objective(*resolve(name, parameters))
