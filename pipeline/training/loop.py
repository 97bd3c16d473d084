"""The training loop, without Ray: one optimiser step at a time, from cached reference scores.

    trainer = Trainer(model, objective, epoch, settings, resources)
    while not trainer.done:
        record = trainer.step()

Every sum is divided by a count of the whole step that is known before the backward, so that micro-batches, accumulation
and the number of workers do not change the answer. Shapes: B pairs of a micro-batch; 2 sides, chosen and rejected.
"""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from pipeline.compute.cpu import give_back_memory
from pipeline.compute.layout import lay_out
from pipeline.compute.loading import EmptyModel
from pipeline.compute.logprobs import side_sums
from pipeline.compute.optimizer import make_optimizer, set_learning_rate
from pipeline.compute.packing import plan
from pipeline.compute.policy import Policy
from pipeline.objectives.batch import PairBatch
from pipeline.objectives.objective import Objective
from pipeline.objectives.state import QUEUE
from pipeline.results import tables
from pipeline.settings.config import Resources, Train
from pipeline.training.checks import check_columns, check_finite, check_parity
from pipeline.training.epoch import Epoch, Example, sizes
from pipeline.training.rows import HELD_OUT, PREFERENCE_ONLY, columns, counts, displacement, recorded, summary

TRIM_STEPS = 16  # between two times that freed memory goes back to the system


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """The learning rate of a step: linear warm-up, then constant, or falling to zero after the last step.

    It falls along a line or a cosine, or (wsd: warm-up, stable, decay) along a line over the last `decay_fraction`.
    """
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, steps - warmup)
    shape = {
        "constant": 1.0,
        "linear": left,
        "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))),
        "wsd": min(1.0, (steps - step) / (settings.decay_fraction * steps)),
    }
    return settings.learning_rate * shape[settings.lr_schedule]


class Trainer:
    """Policy, optimiser, objective state and position: what a step moves on and a checkpoint holds (checkpoints.py).

    `rank` and `world` say which of a step's pairs this process computes; with world > 1 torch.distributed must be up.
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
    ):
        self.policy, self.objective, self.epoch = Policy(model, settings, resources, world), objective, epoch
        self.settings, self.resources, self.rank, self.world = settings, resources, rank, world
        self.budgets = resources.budgets(self.policy.device.type)
        self.by_token = "token_logps" in objective.preset.needs
        check_columns(epoch, objective.preset.needs)
        self.parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(self.parameters, settings)
        self.state = objective.initial_state(*self._untrained())
        self.next_step = 0
        self.steps_log: list[dict[str, Any]] = []
        self.pairs_log: list[dict[str, Any]] = []
        self.unwritten: Future[Any] | None = None  # a checkpoint that is being written from the weights themselves
        # Checkpoints are written by a thread. It has a group of its own: in one that it shared with the steps, workers
        # might make their calls in different orders, and wait for each other for ever.
        self.checkpoint_group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        torch.manual_seed(settings.seed)
        self.policy.train()

    @property
    def done(self) -> bool:
        return self.next_step >= self.epoch.steps

    def step(self) -> dict[str, Any]:
        """Train one optimiser step; returns its row of tables.STEPS. Raises UserError; see training_checks.py."""
        started, k = time.perf_counter(), self.next_step
        examples = self.epoch.step(k)
        rows = self._gather(self._accumulate(examples))
        check_finite(rows, k)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        rate = learning_rate(k, self.epoch.steps, self.settings)
        set_learning_rate(self.optimizer, rate)
        if self.unwritten:
            self.unwritten.result()
            self.unwritten = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        preferred = columns([row for row in rows if row["route"] == "preference"])
        self.state.observe(preferred["gap"], preferred["statistic"])
        self.next_step += 1
        if self.next_step % TRIM_STEPS == 0:
            give_back_memory()
        record = {
            "step": k,
            "learning_rate": rate,
            "grad_norm": float(norm.full_tensor() if isinstance(norm, DTensor) else norm),
            "tokens": sum(sizes(examples)),
            "queue_fill": self.state.gamma.fill if self.state.gamma else None,
            **summary(rows),
            "seconds": time.perf_counter() - started,
        }
        due = self.settings.held_out_steps and self.next_step % self.settings.held_out_steps == 0
        looked = self.held_out().get("after", {}) if due else {}
        record |= {f"held_out_{name}": looked.get(name) for name in HELD_OUT}
        self.steps_log.append(record)
        self.pairs_log += [{name: ({"step": k} | row)[name] for name in tables.TRAINED_PAIRS.names} for row in rows]
        return record

    @torch.no_grad()
    def held_out(self) -> dict[str, Any]:
        """The dev pairs under the reference (`before`) and the present weights (`after`). Empty without dev pairs.

        Accuracy, mean gap, and the mean log-prob sum of each side in nats, whose change is the likelihood displacement.
        Leaves the objective's state alone; every worker must call this. Members that look at single tokens have no
        `before`: sums are cached.
        """
        examples = self.epoch.dev()
        if not examples:
            return {}
        self.policy.eval()
        rows = []
        for index, batch in self._share(examples, self.budgets.score_tokens, "resources.score_tokens"):
            cached = {
                f"policy_{side}_logps": getattr(batch, f"reference_{side}_logps") for side in ("chosen", "rejected")
            }
            moments = {"after": batch} | ({} if self.by_token else {"before": replace(batch, **cached)})
            for moment, seen in moments.items():
                figures_B = (self.objective.reward_gaps(seen), self.objective.gaps(seen, self.state))
                sums_B = (seen.policy_chosen_logps, seen.policy_rejected_logps)
                values = torch.stack((*figures_B, *sums_B), dim=1).tolist()
                rows += [{"position": i, "moment": moment, "values": v} for i, v in zip(index, values, strict=False)]
        self.policy.train()
        return {"pairs": len(examples), **displacement(self._gather(rows))}

    def _share(self, examples: Sequence[Example], budget: int, setting: str) -> Iterator[tuple[list[int], PairBatch]]:
        """This worker's micro-batches of `examples`: indices and log-probs.

        Without pairs of its own it computes one all the same, with no index: the others wait for it to gather weights.
        """
        for index in plan(sizes(examples), budget, setting, self.world)[self.rank]:
            if index or self.world > 1:
                yield index, self._batch([examples[i] for i in index or [0]])

    def _accumulate(self, step: Sequence[Example]) -> list[dict[str, Any]]:
        """Forward and backward over this worker's share of a step; returns a row a pair.

        Sums are divided by counts of the whole step: gradients add up to this worker's part of its mean loss.
        """
        pairs, tokens = counts(step)
        rows: list[dict[str, Any]] = []
        for index, batch in self._share(step, self.budgets.micro_batch_tokens, "resources.micro_batch_tokens"):
            examples = [step[i] for i in index]
            if self.next_step == 0 and index:
                check_parity(batch, examples, self.policy.dtype)
            out = self.objective(batch, self.state)
            losses_B = out.per_pair(pairs, tokens)
            share = self.world / pairs if index else 0.0  # FSDP2 divides by the workers
            (losses_B.sum() * share).backward()
            values_B = {
                "loss": losses_B.detach(),
                "nll": -batch.policy_chosen_logps.detach() / batch.chosen_tokens,
                "gap": out.gaps_B,
                "margin": out.margins_B,
                "shift": out.shifts_B,
                "weight": out.weights_B,
                "statistic": out.statistics_B,
            }
            measured = zip(*(values.tolist() for values in values_B.values()), strict=True)
            for example, values in zip(examples, measured, strict=bool(index)):
                row = {name: getattr(example, name) for name in ("position", "pair_id", "route", "flipped")}
                row |= dict(zip(values_B, values, strict=True))
                if example.route != "preference":
                    row |= dict.fromkeys(PREFERENCE_ONLY)
                rows.append(row)
        return rows

    def _batch(self, examples: Sequence[Example]) -> PairBatch:
        device = self.policy.device
        pack = lay_out([example.tokens for example in examples], device)
        logps_N = self.policy(pack, self.budgets.logits_chunk)
        sums_B2 = side_sums(logps_N, pack)
        batch = replace(
            recorded(examples, device), policy_chosen_logps=sums_B2[:, 0], policy_rejected_logps=sums_B2[:, 1]
        )
        if self.by_token:
            lengths = [length for segment in pack.segments for length in (segment.chosen, segment.rejected)]
            sides = logps_N.double().split(lengths)
            batch.policy_chosen_token_logps, batch.policy_rejected_token_logps = sides[::2], sides[1::2]
        return batch

    def _untrained(self) -> tuple[int, PairBatch | None]:
        """The capacity of the objective's queue, and the pairs it starts from as the untrained policy sees them."""
        examples = self.epoch.preference_examples(QUEUE)
        return len(examples), None if self.by_token or not examples else recorded(examples)

    def _gather(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """All workers' rows, in schedule order."""
        if self.world > 1:
            every: list[Any] = [None] * self.world
            dist.all_gather_object(every, rows)
            rows = [row for part in every for row in part]
        return sorted(rows, key=lambda row: row["position"])
