"""A micro-batch through the policy: log-probs of its tokens, and what else the objective asks of them.

Shapes: B pairs of the micro-batch, N their completion tokens, S = 2 B their sides, C channels of the states that the
output head reads, K features of a side.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.compute.autoencoders import Autoencoder
from pipeline.compute.features import Reader, reading
from pipeline.compute.logprobs import side_sums
from pipeline.compute.policy import Policy
from pipeline.compute.selfcheck import keep_head_in_chunks
from pipeline.objectives.batch import PairBatch
from pipeline.objectives.objective import Objective
from pipeline.training.epoch import Sparse
from pipeline.training.feeding import MicroBatch


@dataclass(frozen=True)
class Seen:
    """A micro-batch after its forward: what the device computed, and copies of it on the host, which its pairs hold."""

    device: list[torch.Tensor]
    host: list[torch.Tensor]
    batch: PairBatch
    gains_PC: torch.Tensor | None = None  # ones on the device, whose gradient is each pair's own

    def backward(self, loss: torch.Tensor) -> None:
        """The host differentiates, and the device's backward begins with what it found."""
        found = torch.autograd.grad(loss, self.host, materialize_grads=True)
        torch.autograd.backward(self.device, [g.to(d.device, d.dtype) for g, d in zip(found, self.device, strict=True)])

    def add_features(
        self, values_SK: torch.Tensor, latents_SK: torch.Tensor, cached: Sequence[tuple[Sparse, Sparse]]
    ) -> None:
        """The strongest features of the pairs' sides, and what the cache has of the same; after the forward.

        An absent side, and a feature of 0 under both, is 0.
        """
        host_SK = values_SK.detach().double().cpu().requires_grad_(values_SK.requires_grad)
        self.device.append(values_SK)
        self.host.append(host_SK)
        asked_SK = latents_SK.cpu().numpy()
        sides = [side for pair in cached for side in pair]
        found_SK = torch.tensor(np.stack([side.at(asked) for side, asked in zip(sides, asked_SK, strict=True)]))
        self.batch.policy_chosen_features, self.batch.policy_rejected_features = host_SK[::2], host_SK[1::2]
        self.batch.reference_chosen_features, self.batch.reference_rejected_features = found_SK[::2], found_SK[1::2]

    def own_gradients(self) -> torch.Tensor:
        """Of each pair by its gains, [B, C] float64, after the backward."""
        assert self.gains_PC is not None and self.gains_PC.grad is not None
        return self.gains_PC.grad.double().cpu()


class Forward:
    """Call it with a micro-batch. What the device computes is copied to the host once, where the objective takes it."""

    def __init__(
        self, policy: Policy, objective: Objective, logits_chunk: int, autoencoder: tuple[Autoencoder, int] | None
    ):
        """`autoencoder` is what features are read by, and the decoder layer whose output it reads."""
        self.policy, self.logits_chunk, needs = policy, logits_chunk, objective.preset.needs
        self.by_token, self.squares = "token_logps" in needs, "square_logps" in needs
        if self.squares:
            keep_head_in_chunks(policy.model)
        self.strongest = int(objective.parameters.number("strongest")) if "features" in needs else 0
        self.reader = Reader(policy.model, autoencoder[1], autoencoder[0]) if autoencoder else None

    def __call__(self, micro: MicroBatch, gains: bool = False) -> Seen:
        """`gains` asks for what each pair's own gradient is found by after the backward."""
        gains_PC = None
        if gains:
            exact = torch.promote_types(self.policy.dtype, torch.float32)
            gains_PC = torch.ones(micro.pack.pairs, self.channels, dtype=exact, device=self.policy.device)
            gains_PC.requires_grad_()
        pack = micro.pack.on(self.policy.device)
        watched: AbstractContextManager[list[torch.Tensor]] = nullcontext([])
        if self.reader:
            watched = reading(self.reader.layer)
        with watched as states:
            found = self.policy(pack, self.logits_chunk, self.squares, gains_PC)
        logps_N, host = found[0] if self.squares else found, found.detach().cpu()
        host_N = (host[0] if self.squares else host).requires_grad_(logps_N.requires_grad)
        chosen_B, rejected_B = side_sums(host_N, micro.pack).unbind(1)
        batch = replace(micro.recorded, policy_chosen_logps=chosen_B, policy_rejected_logps=rejected_B)
        if self.squares:
            squares_B2 = side_sums(host[1], micro.pack)
            batch.policy_chosen_square_logps, batch.policy_rejected_square_logps = squares_B2.unbind(1)
        if self.by_token:
            lengths = [length for segment in micro.pack.segments for length in (segment.chosen, segment.rejected)]
            sides = host_N.double().split(lengths)
            batch.policy_chosen_token_logps, batch.policy_rejected_token_logps = sides[::2], sides[1::2]
        seen = Seen([logps_N], [host_N], batch, gains_PC)
        if self.reader and micro.features and torch.is_grad_enabled():
            values_SK, latents_SK = self.reader.strongest(states[0], pack, self.strongest)
            seen.add_features(values_SK, latents_SK, micro.features)
        return seen

    @property
    def channels(self) -> int:
        head: Any = self.policy.model.get_output_embeddings()
        return int(head.weight.shape[-1])
