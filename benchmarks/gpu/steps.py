"""The stages' own path, from a saved model: loaded, scored, trained, kept and resumed, in float32 and in bfloat16.

Does the first step meet its own reference, and refuse another's; are losses the same by one and by many micro-batches,
by activations computed again, and on the CPU; do adapters and checkpoints work.
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.gpu.inputs import reference, trainer_of
from benchmarks.gpu.part import Part
from benchmarks.gpu.taught import taught
from pipeline.compute.layout import Tokens
from pipeline.compute.models import load_model
from pipeline.errors import UserError
from pipeline.settings.resources import Resources
from pipeline.training.checkpoints import load, save
from pipeline.training.loop import Trainer

STEPS = 4  # of an epoch
DTYPES = ("float32", "bfloat16")
Sums = Sequence[tuple[float, float]]


def run(part: Part) -> None:
    model, cut = taught(part)
    draw = random.Random(1)
    scale = 0.1 if part.small else 1.0

    def side() -> list[int]:
        return cut(max(1, int(scale * draw.choice((5, 20, 100, 400, 700)))))

    pairs = [Tokens(cut(max(2, int(scale * 300))), side(), side()) for _ in range(16 if part.small else 96)]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / "model")
        other = model.state_dict()
        other = {name: weight * (1 + 0.02 * torch.randn_like(weight)) for name, weight in other.items()}
        model.save_pretrained(Path(folder) / "other", state_dict=other)
        del model
        for dtype in DTYPES:
            with part.trying(dtype=dtype):
                _Line(part, dtype, pairs, Path(folder)).run()


@dataclass
class _Line:
    """One dtype's figures."""

    part: Part
    dtype: str
    pairs: Sequence[Tokens]
    folder: Path
    names: Iterator[int] = field(default_factory=count)

    def run(self) -> None:
        sums = self._packs()
        for name, given in (("its own", sums), ("another model's", reference(self.loaded("other"), self.pairs, 4096))):
            try:
                self.trained(given, 1)
                said = "passed"
            except UserError as error:
                said = f"refused: {error.problem}"
            self.note(what="parity", reference=name, said=said)
        for objective in ("dpo", "mixdpo"):
            with self.part.trying(dtype=self.dtype, objective=objective):
                self._same_losses(sums, objective)
        if self.dtype == "float32":
            with self.part.trying(what="a step beside the CPU's"):
                self._beside_cpu(sums)
        with self.part.trying(dtype=self.dtype, what="adapters"):
            train = {"lora": {"rank": 16, "dropout": 0.05}, "learning_rate": 1e-4}
            self.note(what="adapters", losses=_losses(self.trained(sums, 3, train=train)))
        with self.part.trying(dtype=self.dtype, what="resumed"):
            self._resumed(sums)

    def note(self, **row: Any) -> None:
        self.part.note(dtype=self.dtype, **row)

    def loaded(self, which: str = "model", device: str | None = None) -> PreTrainedModel:
        slow = Resources(allow_slow_path=True)  # it is said by `agree`
        return load_model(self.folder / which, self.dtype, device or self.part.device, resources=slow, to_train=True)

    def trained(self, sums: Sums, steps: int, *, device: str | None = None, **options: Any) -> Trainer:
        folder = self.folder / f"{self.dtype}-{next(self.names)}"
        longest = max(pair.packed for pair in self.pairs)
        resources = {"micro_batch_tokens": max(longest, 16384)} | options.pop("resources", {})
        pairs = options.pop("pairs", self.pairs)
        model = self.loaded(device=device)
        trainer = trainer_of(model, pairs, sums, folder, steps=STEPS, resources=resources, **options)
        for _ in range(steps):
            trainer.step()
        return trainer

    def _packs(self) -> Sums:
        """Note by how much packs of two sizes differ, which is rounding; the sums of the smaller packs."""
        model = self.loaded()
        small, large = (reference(model, self.pairs, budget) for budget in (4096, 16384))
        lengths = torch.tensor([[len(pair.chosen), len(pair.rejected)] for pair in self.pairs])
        off = ((torch.tensor(large) - torch.tensor(small)) / lengths).double().flatten()
        at = torch.quantile(off.abs(), torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64)).tolist()
        self.note(what="packs of 4,096 and 16,384, nats a token of a side", quantiles=at, mean=float(off.mean()))
        return small

    def _same_losses(self, sums: Sums, objective: str) -> None:
        longest = max(pair.packed for pair in self.pairs)
        one = self.trained(sums, 3, objective=objective)
        many = self.trained(sums, 3, objective=objective, resources={"micro_batch_tokens": longest})
        again = self.trained(sums, 3, objective=objective, resources={"checkpoint_activations": True})
        self.note(
            objective=objective,
            losses=_losses(one),
            many_micro_batches=_losses(many),
            checkpointed=_losses(again),
            norms=[record["grad_norm"] for record in one.journal.steps],
            seconds=[record["seconds"] for record in one.journal.steps],
        )

    def _beside_cpu(self, sums: Sums) -> None:
        short = sorted(range(len(self.pairs)), key=lambda i: self.pairs[i].packed)[:4]
        some, given = [self.pairs[i] for i in short], [sums[i] for i in short]
        here, there = (self.trained(given, 1, device=device, pairs=some) for device in (self.part.device, "cpu"))
        weights = zip(here.policy.parameters(), there.policy.parameters(), strict=True)
        self.note(
            what="a step beside the CPU's",
            norms=[each.journal.steps[0]["grad_norm"] for each in (here, there)],
            gaps_off=max(
                abs(a["gap"] - b["gap"]) for a, b in zip(here.journal.pairs, there.journal.pairs, strict=True)
            ),
            weights_off=max(float((a.detach().cpu() - b.detach()).abs().max()) for a, b in weights),
        )

    def _resumed(self, sums: Sums) -> None:
        """A third step after a checkpoint, against the same step unbroken; two checkpoints one after the other."""
        options: dict[str, Any] = {"objective": "mixdpo"}
        unbroken = self.trained(sums, 1, **options)
        save(unbroken, self.folder / f"{self.dtype}-first")
        unbroken.step()
        kept = self.folder / f"{self.dtype}-second"
        save(unbroken, kept).result()
        resumed = self.trained(sums, 0, journal=unbroken.journal.folder, **options)
        load(resumed, kept)
        for trainer in (unbroken, resumed):
            trainer.step()
        self.note(what="resumed", losses=_losses(resumed)[-1:], unbroken=_losses(unbroken)[-1:])


def _losses(trainer: Trainer) -> list[float]:
    return [float(record["loss"]) for record in trainer.journal.steps]
