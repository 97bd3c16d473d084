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

from pipeline.compute.layout import lay_out, micro_batches
from pipeline.compute.logprobs import side_sums, token_logps
from pipeline.config import Resources, Train
from pipeline.epoch import Epoch, Example, sizes
from pipeline.objectives.batch import PREFERENCE, SFT, PairBatch
from pipeline.objectives.objective import QUEUE, Objective
from pipeline.training_checks import check_finite, check_parity


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
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=0.0, betas=settings.adam_betas, weight_decay=settings.weight_decay, fused=True
        )
        self.state = objective.initial_state(*self._initial_gaps())
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
        rows = self._gather(self._accumulate(examples[self.rank :: self.world], len(examples)))
        check_finite(rows, k)
        if self.world > 1:
            self._sum_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(k, self.epoch.steps, self.settings)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        preferred = [row for row in rows if row["route"] == "preference"]
        self.state.observe(torch.tensor([row["gap"] for row in preferred], dtype=torch.float64))
        self.next_step += 1
        record = self._record(k, rows, preferred, float(norm), sum(sizes(examples)), time.perf_counter() - started)
        self.steps_log.append(record)
        self.pairs_log += [{key: value for key, value in row.items() if key != "nll"} | {"step": k} for row in rows]
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
        Leaves the objective's state alone.
        """
        examples = self.epoch.dev()
        if not examples:
            return {}
        self.model.eval()
        rows: dict[str, list[list[float]]] = {"before": [], "after": []}
        for index in micro_batches(sizes(examples), self.resources.score_tokens, "resources.score_tokens"):
            after = self._batch([examples[i] for i in index])
            cached = {
                f"policy_{side}_logps": getattr(after, f"reference_{side}_logps") for side in ("chosen", "rejected")
            }
            for moment, batch in (("before", replace(after, **cached)), ("after", after)):
                columns = (self.objective.gaps(batch), batch.policy_chosen_logps, batch.policy_rejected_logps)
                rows[moment] += torch.stack(columns, dim=1).tolist()
        self.model.train()
        figures: dict[str, Any] = {"pairs": len(examples)}
        for moment, values in rows.items():
            gaps, chosen, rejected = (torch.tensor(values, dtype=torch.float64)).T
            figures[moment] = {
                "accuracy": float((gaps.sign() + 1).mean() / 2),  # a gap of 0 counts half, as a coin would
                "gap": float(gaps.mean()),
                "chosen_logps": float(chosen.mean()),
                "rejected_logps": float(rejected.mean()),
            }
        return figures

    def _accumulate(self, mine: Sequence[Example], total: int) -> list[dict[str, Any]]:
        """Forward and backward over this worker's share of a step; returns a row a pair.

        `total` is the pairs of the whole step: gradients add up to this worker's part of the step's mean loss.
        """
        rows: list[dict[str, Any]] = []
        for index in micro_batches(sizes(mine), self.resources.micro_batch_tokens, "resources.micro_batch_tokens"):
            examples = [mine[i] for i in index]
            batch = self._batch(examples)
            if self.next_step == 0:
                check_parity(batch, examples, next(self.model.parameters()).dtype)
            out = self.objective(batch, self.state)
            (out.loss_sum / total).backward()
            nll_B = -batch.policy_chosen_logps.detach() / batch.chosen_tokens
            columns = (out.losses_B, out.gaps_B, out.margins_B, out.weights_B, nll_B)
            for example, *values in zip(examples, *(column.tolist() for column in columns), strict=True):
                loss, gap, margin, weight, nll = values
                scheduled = {name: getattr(example, name) for name in ("position", "pair_id", "route", "flipped")}
                pulled = {"gap": gap, "margin": margin, "weight": weight} if example.route == "preference" else {}
                rows.append(
                    {**scheduled, "loss": loss, "nll": nll, "gap": None, "margin": None, "weight": None, **pulled}
                )
        return rows

    def _batch(self, examples: Sequence[Example]) -> PairBatch:
        device = self.model.device
        pack = lay_out([example.tokens for example in examples], device)
        sums_B2 = side_sums(token_logps(self.model, pack, self.resources.logits_chunk), pack)
        reference_B2 = torch.tensor([example.reference for example in examples], dtype=torch.float64, device=device)
        counts_B2 = torch.tensor([example.counts for example in examples], device=device)
        routes = [PREFERENCE if example.route == "preference" else SFT for example in examples]
        return PairBatch(
            policy_chosen_logps=sums_B2[:, 0],
            policy_rejected_logps=sums_B2[:, 1],
            chosen_tokens=counts_B2[:, 0],
            rejected_tokens=counts_B2[:, 1],
            reference_chosen_logps=reference_B2[:, 0],
            reference_rejected_logps=reference_B2[:, 1],
            routes=torch.tensor(routes, device=device),
        )

    def _initial_gaps(self) -> tuple[int, torch.Tensor | None]:
        """The queue's capacity, and what it starts with: gaps of the untrained policy, from the cached sums.

        Only of objectives without a reference. A gap to the reference is zero for every pair at step 0 and would only
        teach the queue that: there it starts empty.
        """
        examples = self.epoch.preference_examples(QUEUE)
        if self.objective.preset.needs_reference or not examples:
            return len(examples), None
        reference_B2 = torch.tensor([example.reference for example in examples], dtype=torch.float64)
        counts_B2 = torch.tensor([example.counts for example in examples])
        return len(examples), self.objective.gaps(
            PairBatch(
                policy_chosen_logps=reference_B2[:, 0],
                policy_rejected_logps=reference_B2[:, 1],
                chosen_tokens=counts_B2[:, 0],
                rejected_tokens=counts_B2[:, 1],
            )
        )

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

    def _record(
        self,
        k: int,
        rows: list[dict[str, Any]],
        preferred: list[dict[str, Any]],
        norm: float,
        tokens: int,
        seconds: float,
    ) -> dict[str, Any]:
        def mean(values: list[float]) -> float | None:
            return sum(values) / len(values) if values else None

        return {
            "step": k,
            "loss": mean([row["loss"] for row in rows]),
            "learning_rate": learning_rate(k, self.epoch.steps, self.settings),
            "grad_norm": norm,
            "preference_pairs": len(preferred),
            "sft_pairs": len(rows) - len(preferred),
            "accuracy": mean([float(row["gap"] > 0) for row in preferred]),
            "gap": mean([row["gap"] for row in preferred]),
            "margin": mean([row["margin"] for row in preferred]),
            "nll": mean([row["nll"] for row in rows if row["route"] == "sft"]),
            "tokens": tokens,
            "seconds": seconds,
        }
