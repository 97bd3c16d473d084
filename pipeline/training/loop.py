"""The training loop, without Ray: one optimiser step at a time, from cached reference scores.

    trainer = Trainer(model, objective, epoch, settings, resources)
    while not trainer.done:
        record = trainer.step()

Every sum is divided by a count of the whole step that is known before the backward, so that micro-batches, accumulation
and the number of workers do not change the answer. The device computes log-probs and their gradient; the objective, and
all that is measured, is the host's, which waits for the device once a micro-batch.
Shapes: B pairs of a micro-batch, N their completion tokens; P pairs of a step, M of what is measured of each.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch.distributed.checkpoint.staging import AsyncStager
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline.compute.autoencoders import Autoencoder
from pipeline.compute.cpu import give_back_memory
from pipeline.compute.loading import EmptyModel
from pipeline.compute.logprobs import side_sums
from pipeline.compute.optimizer import make_optimizer, set_learning_rate
from pipeline.compute.policy import Policy
from pipeline.compute.sharding import whole_gradients_fit
from pipeline.objectives.batch import PairBatch
from pipeline.objectives.memories import Reliability
from pipeline.objectives.objective import Objective
from pipeline.objectives.presets import QUEUE
from pipeline.objectives.streams import Streams
from pipeline.settings.resources import Resources
from pipeline.settings.streams import require_in_each_step
from pipeline.settings.training import Train
from pipeline.training.checks import (
    check_columns,
    check_features,
    check_finite,
    check_gradient,
    check_mismatched,
    check_parity,
)
from pipeline.training.epoch import Epoch, Example, sizes
from pipeline.training.feeding import Feed, Prepared, Share
from pipeline.training.forward import Forward
from pipeline.training.journal import Journal
from pipeline.training.mismatched import rotated
from pipeline.training.rates import learning_rate
from pipeline.training.rows import HELD_OUT, MEASURED, Rows, counts, displacement, measured, recorded, with_token_values
from pipeline.training.together import Together

TRIM_STEPS = 16  # between two times that freed memory goes back to the system


class Trainer:
    """Policy, optimiser, objective state and position: what a step moves on and a checkpoint holds (checkpoints.py).

    `rank` and `world` say which of a step's pairs this process computes; with world > 1 torch.distributed must be up.
    Rows go into the `journal`, which the first of them keeps.
    """

    def __init__(
        self,
        model: PreTrainedModel | EmptyModel,
        objective: Objective,
        epoch: Epoch,
        settings: Train,
        resources: Resources,
        rank: int = 0,
        world: int = 1,
        journal: Journal | None = None,
        weights: Sequence[float] | None = None,
        autoencoder: tuple[Autoencoder, int] | None = None,
    ):
        """`weights` are those of the epoch's streams in the loss; None: each pair counts alike. `autoencoder` is what
        an objective that looks at features reads them by, and the decoder layer whose output it reads.
        """
        self.policy, self.objective, self.epoch = Policy(model, settings, resources, world), objective, epoch
        self.settings, self.resources, self.rank, self.world = settings, resources, rank, world
        self.budgets = resources.budgets(self.policy.device.type)
        self.forward = Forward(self.policy, objective, self.budgets.logits_chunk, autoencoder)
        self.mismatched = "mismatched" in objective.preset.needs
        check_columns(epoch, objective.preset)
        if weights:
            balanced = objective.preset.balances(objective.parameters)
            require_in_each_step(epoch.streams, epoch.batch_size, 2 if balanced else 1)
        self.parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters, settings)
        states = [objective.initial_state(*self._untrained(stream)) for stream in range(len(epoch.streams))]
        self.state = Streams(objective, states, weights)
        self.next_step = 0
        self.record: dict[str, Any] = {}  # of the newest step
        self.journal = journal or Journal()
        self.together = Together(rank, world, timedelta(seconds=resources.collective_timeout_seconds))
        self.feed: Feed[Prepared] = Feed(self._prepare, epoch.steps)
        # Of the newest checkpoint (checkpoints.py): what reads the weights, and so goes before they are changed; and
        # what writes it, and so goes before the next.
        self.unread: Future[Any] | None = None
        self.unwritten: Future[Any] | None = None
        self.stager: AsyncStager | None = None
        self.held_out_plan: list[list[int]] | None = None  # made when they are first looked at
        whole = whole_gradients_fit(self.policy, self.policy.device, resources)
        (self.whole_gradients,) = self.together.first_says(whole)  # all alike, whatever their GPUs
        self.policy.train()

    @property
    def done(self) -> bool:
        return self.next_step >= self.epoch.steps

    def step(self) -> dict[str, Any]:
        """Train one optimiser step; returns its row of tables.STEPS. Raises UserError; see checks.py."""
        started, k = time.perf_counter(), self.next_step
        step = self.feed.take(k)
        torch.manual_seed(dropout_seed(self.settings.seed, k, self.rank))
        kl = self._kl(step) if self.mismatched else None
        factors = self.state.factors(counts(step.examples, len(self.epoch.streams)))
        if self.objective.looks_ahead:
            self._look_ahead(step)
            torch.manual_seed(dropout_seed(self.settings.seed, k, self.rank))  # losses are of the same dropout
        values_PM, own_PC = self._accumulate(step, kl)
        rows = Rows(step.examples, values_PM)
        if k == 0:
            check_parity(rows, self.policy.dtype)
            if self.forward.reader:
                check_features(rows, self.policy.dtype)
        check_finite(rows, k)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        rate = learning_rate(k, self.epoch.steps, self.settings)
        self._update(rate)
        # From here on a GPU is at the update. What the host still has to wait for comes last: the norm.
        self.state.observe(*map(rows.preferred, ("stream", "gap", "statistic", "source")))
        if self.state.balance and own_PC is not None:
            self.state.balance.observe(own_PC, rows.columns["stream"])
        self.next_step += 1
        if self.next_step % TRIM_STEPS == 0:
            give_back_memory()
        record = {
            "step": k,
            "learning_rate": rate,
            "tokens": sum(sizes(step.examples)),
            "queue_fill": self.state.fill,
            **rows.summary(),
            "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm),
            "seconds": time.perf_counter() - started,
        }
        check_gradient(record["grad_norm"], rows, k)
        due = self.settings.held_out_steps and self.next_step % self.settings.held_out_steps == 0
        looked = self.held_out().get("after", {}) if due else {}
        record |= {f"held_out_{name}": looked.get(name) for name in HELD_OUT}
        self.record = record
        names = [*self.epoch.streams]
        streams = rows.by_stream(k, names, factors) if len(names) > 1 else ()
        self.journal.add(record, rows, reliability=self._reliability(rows), streams=streams)
        return record

    def _reliability(self, rows: Rows) -> list[dict[str, Any]]:
        """Rows of tables.RELIABILITY, of the sources of a step's preference pairs; none where none is estimated."""
        shares: dict[int, float] = {}  # a source is of one stream
        for state in self.state.states:
            shares |= state.memory.shares if isinstance(state.memory, Reliability) else {}
        if not shares or self.epoch.sources is None:
            return []
        pairs = Counter(rows.preferred("source").tolist())
        return [
            {"step": self.next_step - 1, "source": self.epoch.sources[source], "pairs": count}
            | {"flip_rate": 1 - shares[source]}
            for source, count in sorted(pairs.items())
        ]

    @torch.no_grad()
    def held_out(self) -> dict[str, Any]:
        """The dev pairs under the model that training starts from (`before`) and the present weights (`after`).

        Empty without dev pairs. Accuracy, mean gap, and the mean log-prob sum of each side in nats, whose change is the
        likelihood displacement. Leaves the objective's state alone; every worker must call this. Members that look at
        single tokens have no `before`: sums are cached.
        """
        pairs = self.epoch.held_out_pairs
        if not pairs:
            return {}
        self.policy.eval()
        moments = ("after",) if self.forward.by_token else ("before", "after")
        seen = {moment: torch.zeros(pairs, len(HELD_OUT), dtype=torch.float64) for moment in moments}
        share = self._share(self.budgets.score_tokens, "resources.score_tokens")
        if self.held_out_plan is None:
            self.held_out_plan = share.plan(self.epoch.held_out_sizes())
        for micro in share.micro_batches(self.held_out_plan, self.epoch.held_out, self.epoch.tokens):
            batches = {"before": micro.recorded, "after": self.forward(micro).batch}
            for moment, values in seen.items() if micro.index else ():
                batch = batches[moment]
                figures_B = (self.objective.reward_gaps(batch), self.state.gaps(batch))
                sums_B = (batch.policy_chosen_logps, batch.policy_rejected_logps)
                values[micro.index] = torch.stack((*figures_B, *sums_B), dim=1)
        self.policy.train()
        return {"pairs": pairs, **displacement({m: self.together.sum(v) for m, v in seen.items()})}

    def _prepare(self, k: int) -> Prepared:
        examples = self.epoch.step(k)
        share = self._share(self.budgets.micro_batch_tokens, "resources.micro_batch_tokens")
        planned = share.plan(sizes(examples))
        features = self.epoch.features if self.forward.reader else None
        own = share.micro_batches(planned, lambda index: [examples[i] for i in index], self.epoch.tokens, features)
        step = Prepared(examples, list(own))
        if not self.mismatched:
            return step
        others = [each for each in rotated(examples) if each.prompt.mismatched is not None]
        share = self._share(self.budgets.score_tokens, "resources.score_tokens")
        planned = share.plan([each.packed for each in others]) if others else []
        packs = list(share.packs(planned, lambda i: others[i].tokens(self.epoch.tokens)))
        return replace(step, mismatched=others, mismatched_packs=packs)

    def _share(self, budget: int, setting: str) -> Share:
        return Share(budget, setting, self.rank, self.world, self.policy.device.type == "cuda", self._recorded)

    def _recorded(self, examples: Sequence[Example]) -> PairBatch:
        """What the tables hold of these pairs; of their tokens, too, where the objective asks for it."""
        batch = recorded(examples)
        if not self.objective.preset.token_columns:
            return batch
        return with_token_values(batch, [self.epoch.token_values(example) for example in examples])

    @torch.no_grad()
    def _kl(self, step: Prepared) -> float:
        """The mean log-ratio of the step's mismatched answers, of all workers, at least 0; 0 where it has none.

        Computed before anything of the step is differentiated, as every pair's loss has it.
        """
        logps_M = torch.zeros(len(step.mismatched), dtype=torch.float64)
        for index, pack in step.mismatched_packs:
            found_N = self.policy(pack.on(self.policy.device), self.budgets.logits_chunk, False)
            if index:
                logps_M[index] = side_sums(found_N.cpu(), pack)[:, 0]
        if not len(logps_M):
            return 0.0
        self.together.sum(logps_M)
        if self.next_step == 0:
            check_mismatched(step.mismatched, logps_M, self.policy.dtype)
        cached_M = torch.tensor([each.prompt.mismatched for each in step.mismatched], dtype=torch.float64)
        return float((logps_M - cached_M).mean().clamp(min=0))  # NaN is NaN, as max() has it 0

    @torch.no_grad()
    def _look_ahead(self, step: Prepared) -> None:
        """Tell the objective the gaps of the step's preference pairs, of all workers, over which it solves its margins.
        As every pair's loss has these, it is before anything of the step is differentiated.
        """
        gaps_P = torch.zeros(len(step.examples), dtype=torch.float64)
        preferred_P = torch.tensor([example.route == "preference" for example in step.examples])
        for micro in step.micro_batches:
            batch = self.forward(micro).batch
            index = torch.tensor(micro.index, dtype=torch.long)
            kept = preferred_P[index].nonzero().flatten()  # places in the micro-batch
            if len(kept):
                gaps_P[index[kept]] = self.state.gaps(batch.select(kept)).double()
        self.together.sum(gaps_P)
        streams_P = torch.tensor([example.stream for example in step.examples])
        self.state.foresee(streams_P[preferred_P], gaps_P[preferred_P])

    def _accumulate(self, step: Prepared, kl: float | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Forward and backward over this worker's share of a step; what is measured of all its pairs, [P, M].

        Sums are divided by counts of the whole step: gradients add up to this worker's part of its mean loss. And,
        where streams are balanced by it, the gradient of each pair's own loss by the gains of its states, [P, C].
        """
        pairs, of_step = len(step.examples), counts(step.examples, len(self.epoch.streams))
        factors = self.state.factors(of_step)
        values_PM = torch.zeros(pairs, len(MEASURED), dtype=torch.float64)
        own_PC = torch.zeros(pairs, self.forward.channels, dtype=torch.float64) if self.state.balance else None
        for number, micro in enumerate(step.micro_batches, start=1):
            self._reduce_after(last=number == len(step.micro_batches))
            seen = self.forward(micro, gains=own_PC is not None)
            if kl is not None:
                seen.batch.step_kl = torch.full_like(seen.batch.policy_chosen_logps, kl)
            out, losses_B = self.state.losses(seen.batch, of_step)
            share = self.world / pairs if micro.index else 0.0  # FSDP2 divides by the workers
            seen.backward(losses_B.sum() * share)
            if micro.index:
                values_PM[micro.index] = measured(seen.batch, out, losses_B)
                if own_PC is not None:
                    counted = [share * factors[step.examples[i].stream] for i in micro.index]
                    own_PC[micro.index] = seen.own_gradients() / torch.tensor(counted, dtype=torch.float64)[:, None]
        return self.together.sum(values_PM), own_PC if own_PC is None else self.together.sum(own_PC)

    def _reduce_after(self, last: bool) -> None:
        """Whether the workers add up their gradients in the backward that comes, or keep their own until the last."""
        if isinstance(self.policy, FSDPModule):
            self.policy.set_requires_gradient_sync(last or not self.whole_gradients)
            self.policy.set_requires_all_reduce(last)  # between groups of workers, where each group has all weights

    def _update(self, rate: float) -> None:
        if self.unread:
            self.unread.result()
            self.unread = None
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _untrained(self, stream: int) -> tuple[int, PairBatch | None]:
        """The capacity of a stream's queue, and the pairs it starts from as the untrained policy sees them."""
        examples = self.epoch.preference_examples(max(QUEUE, self.objective.queue), stream)
        return len(examples), None if self.forward.by_token or not examples else recorded(examples)


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """What a worker's dropout of a step is drawn by: another at every step and worker, and after a restart the same."""
    digest = hashlib.sha256(f"dropout\0{seed}\0{step}\0{rank}".encode()).digest()
    return int.from_bytes(digest[:7])
