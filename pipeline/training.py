"""The training loop, without Ray: one optimiser step at a time, from cached reference scores.

    trainer = Trainer(model, objective, epoch, settings, resources)
    while not trainer.done:
        record = trainer.step()

Every sum is divided by a count of the whole step that is known before the backward, so that micro-batches, accumulation
and the number of workers do not change the answer. Shapes: B pairs of a micro-batch; 2 sides, chosen and rejected.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from pipeline import tables
from pipeline.compute.layout import lay_out
from pipeline.compute.logprobs import side_sums, token_logps
from pipeline.compute.packing import plan
from pipeline.config import Resources, Train
from pipeline.epoch import Epoch, Example, sizes
from pipeline.objectives.batch import PairBatch
from pipeline.objectives.objective import Objective
from pipeline.objectives.state import QUEUE
from pipeline.training_checks import check_columns, check_finite, check_parity
from pipeline.training_rows import PREFERENCE_ONLY, columns, counts, recorded, summary


def learning_rate(step: int, steps: int, settings: Train) -> float:
    """The learning rate of a step: linear warm-up, then constant, or linear or cosine to zero after the last step."""
    warmup = math.ceil(settings.warmup_fraction * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    left = 1 - (step - warmup) / max(1, steps - warmup)
    shape = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left)))}
    return settings.learning_rate * shape[settings.lr_schedule]


class Trainer:
    """Model, optimiser, objective state and position: all that a checkpoint holds and a step moves on.

    `rank` and `world` say which of a step's pairs this process computes; with world > 1 torch.distributed must be up.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        objective: Objective,
        epoch: Epoch,
        settings: Train,
        resources: Resources,
        rank: int = 0,
        world: int = 1,
    ):
        self.model, self.objective, self.epoch = model, objective, epoch
        self.settings, self.resources, self.rank, self.world = settings, resources, rank, world
        self.by_token = "token_logps" in objective.preset.needs
        check_columns(epoch, objective.preset.needs)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=settings.adam_betas, weight_decay=settings.weight_decay, fused=True
        )
        self.state = objective.initial_state(*self._untrained())
        self.next_step = 0
        self.steps_log: list[dict[str, Any]] = []
        self.pairs_log: list[dict[str, Any]] = []
        torch.manual_seed(settings.seed)
        model.train()

    @property
    def done(self) -> bool:
        return self.next_step >= self.epoch.steps

    def step(self) -> dict[str, Any]:
        """Train one optimiser step; returns its row of tables.STEPS. Raises UserError; see training_checks.py."""
        started, k = time.perf_counter(), self.next_step
        examples = self.epoch.step(k)
        rows = self._gather(self._accumulate(examples))
        check_finite(rows, k)
        if self.world > 1:
            self._sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        rate = learning_rate(k, self.epoch.steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        preferred = columns([row for row in rows if row["route"] == "preference"])
        self.state.observe(preferred["gap"], preferred["statistic"])
        self.next_step += 1
        record = {
            "step": k,
            "learning_rate": rate,
            "grad_norm": float(norm),
            "tokens": sum(sizes(examples)),
            "queue_fill": self.state.gamma.fill if self.state.gamma else None,
            **summary(rows),
            "seconds": time.perf_counter() - started,
        }
        self.steps_log.append(record)
        self.pairs_log += [{name: ({"step": k} | row)[name] for name in tables.TRAINED_PAIRS.names} for row in rows]
        return record

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on as if it had not stopped; save it before the next step changes it."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "objective": self.state.state_dict(),
            "next_step": self.next_step,
            "steps_log": self.steps_log,
            "pairs_log": self.pairs_log,
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.state.load_state_dict(state["objective"])
        self.next_step, self.steps_log, self.pairs_log = state["next_step"], state["steps_log"], state["pairs_log"]
        torch.set_rng_state(state["rng"])

    @torch.inference_mode()
    def held_out(self) -> dict[str, Any]:
        """The dev pairs under the reference (`before`) and the present weights (`after`). Empty without dev pairs.

        Accuracy, mean gap, and the mean log-prob sum of each side in nats, whose change is the likelihood displacement.
        Leaves the objective's state alone. Members that look at single tokens have no `before`: sums are cached.
        """
        examples = self.epoch.dev()
        if not examples:
            return {}
        self.model.eval()
        rows: dict[str, list[list[float]]] = {"before": [], "after": []}
        for index in plan(sizes(examples), self.resources.score_tokens, "resources.score_tokens")[0]:
            after = self._batch([examples[i] for i in index])
            cached = {
                f"policy_{side}_logps": getattr(after, f"reference_{side}_logps") for side in ("chosen", "rejected")
            }
            for moment, batch in (("before", replace(after, **cached)), ("after", after)):
                if moment == "after" or not self.by_token:
                    figures_B = (self.objective.reward_gaps(batch), self.objective.gaps(batch, self.state))
                    sums_B = (batch.policy_chosen_logps, batch.policy_rejected_logps)
                    rows[moment] += torch.stack((*figures_B, *sums_B), dim=1).tolist()
        self.model.train()
        figures: dict[str, Any] = {"pairs": len(examples)}
        for moment, values in rows.items():
            if not values:
                continue
            reward_gaps, gaps, chosen, rejected = torch.tensor(values, dtype=torch.float64).T
            figures[moment] = {
                "accuracy": float((reward_gaps.sign() + 1).mean() / 2),  # a gap of 0 counts half, as a coin would
                "gap": float(gaps.nanmean()),  # without a column that scales it, a held-out pair has none
                "chosen_logps": float(chosen.mean()),
                "rejected_logps": float(rejected.mean()),
            }
        return figures

    def _accumulate(self, step: Sequence[Example]) -> list[dict[str, Any]]:
        """Forward and backward over this worker's share of a step; returns a row a pair.

        Sums are divided by counts of the whole step: gradients add up to this worker's part of its mean loss.
        """
        pairs, tokens = counts(step)
        budget, rows = self.resources.micro_batch_tokens, []
        for index in plan(sizes(step), budget, "resources.micro_batch_tokens", self.world)[self.rank]:
            if not index:  # fewer pairs than workers
                continue
            examples = [step[i] for i in index]
            batch = self._batch(examples)
            if self.next_step == 0:
                check_parity(batch, examples, next(self.model.parameters()).dtype)
            out = self.objective(batch, self.state)
            losses_B = out.per_pair(pairs, tokens)
            (losses_B.sum() / pairs).backward()
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
            for example, values in zip(examples, measured, strict=True):
                row = {name: getattr(example, name) for name in ("position", "pair_id", "route", "flipped")}
                row |= dict(zip(values_B, values, strict=True))
                if example.route != "preference":
                    row |= dict.fromkeys(PREFERENCE_ONLY)
                rows.append(row)
        return rows

    def _batch(self, examples: Sequence[Example]) -> PairBatch:
        device = self.model.device
        pack = lay_out([example.tokens for example in examples], device)
        logps_N = token_logps(self.model, pack, self.resources.logits_chunk)
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

    def _sum_gradients(self) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:  # this worker had no pair in the step
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)
