"""Committed-looking tables for a tiny model, and trainers over them: what the tests of the training loop share."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel

from pipeline.compute.autoencoders import Autoencoder
from pipeline.compute.features import Reader
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.loading import open_empty
from pipeline.compute.logprobs import score
from pipeline.compute.models import load_model
from pipeline.compute.policy import Policy
from pipeline.compute.scoring import read_part
from pipeline.objectives import build
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.settings.config import Schedule, Train
from pipeline.settings.resources import Resources
from pipeline.training.epoch import Epoch
from pipeline.training.exporting import export_weights
from pipeline.training.join import Line, join
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from tests.pipeline.training.restated_schedule import Candidate, scheduled_rows

TRAIN, DEV, BATCH = 12, 3, 4
LATENTS = 40
Row = dict[str, Any]
SETTINGS: Row = {"learning_rate": 1e-3, "lr_schedule": "constant", "warmup_fraction": 0.0, "batch_size": BATCH}


class Bench:
    """The tables of TRAIN + DEV pairs in a folder; of other pairs by another seed, and of so many of split train."""

    def __init__(self, folder: Path, model: Path, dtype: str = "float32", seed: int = 1, train: int = TRAIN):
        self.folder, self.model, self.dtype = folder, model, dtype
        self.seed, self.train = seed, train
        self.trainers = 0
        self.pairs, self.reference = self._make()
        self.write("pairs", self.pairs, tables.PAIRS)
        self.write("reference", self.reference, tables.REFERENCE)

    def _make(self) -> tuple[list[Row], list[Row]]:
        generator = torch.Generator().manual_seed(self.seed)
        pairs, reference = [], []
        model = self.base()
        for i in range(self.train + DEV):
            lengths = (3 + i % 4, 2 + i % 5, 1 + i % 3)
            ids = [torch.randint(3, 97, (n,), generator=generator).tolist() for n in lengths]
            text = {name: "" for name in ("prompt", "chosen", "rejected")} | {"source": ("web", "staff")[i % 2]}
            named = {"pair_id": f"pair-{i:02}", "split": "train" if i < self.train else "dev"}
            columns = dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), ids, strict=True))
            scores = {"chosen_score": i / TRAIN, "rejected_score": 0.0, "label_confidence": 0.5 + i / 40}
            pairs.append({**text, **named, **columns, **scores, "difficulty": float(-i)})
            chosen, rejected = score(model, lay_out([Tokens(*ids)]), 256)[0].tolist()
            counts = {"chosen_tokens": lengths[1], "rejected_tokens": lengths[2]}
            logps = {"chosen_logps": chosen, "rejected_logps": rejected}
            reference.append({"pair_id": named["pair_id"], "tokens_digest": tokens_digest(*ids), **logps, **counts})
        return pairs, reference

    def base(self) -> PreTrainedModel:
        return load_model(self.model, self.dtype)

    @cached_property
    def autoencoder(self) -> tuple[Autoencoder, int]:
        """Features of the first layer's output, about half of them 0 at a position; the reference's are written."""
        generator = torch.Generator().manual_seed(5)
        width = self.base().config.hidden_size
        weight_CM, bias_M = torch.randn(width, LATENTS, generator=generator), torch.randn(LATENTS, generator=generator)
        made = Autoencoder(weight_CM / width**0.5, bias_M / 10, threshold_M=torch.full((LATENTS,), 0.02))
        (self.folder / "features").mkdir(exist_ok=True)
        part, model = "part-00000.parquet", self.base()
        read_part(model, Reader(model, 0, made), self.folder / "pairs" / part, self.folder / "features" / part, 64)
        return made, 0

    def write(self, table: str, rows: list[Row], schema: Any) -> None:
        (self.folder / table).mkdir(exist_ok=True)
        tables.write(rows, schema, self.folder / table / "part-00000.parquet")

    def epoch(self, streams: Mapping[str, "Bench"] | None = None, batch: int = BATCH, **schedule: Any) -> Epoch:
        """Of these pairs, and of other benches' beside them."""
        others = {name: bench.line(**schedule) for name, bench in (streams or {}).items()}
        return Epoch(join(**self.line(**schedule)._asdict(), folder=self.folder / "epoch", streams=others), batch)

    def line(self, **schedule: Any) -> Line:
        settings = Schedule(**{"order": "easy-to-hard", **schedule})
        known = [
            Candidate(p["pair_id"], p["chosen_score"], 0.0, difficulty=p["difficulty"])
            for p in self.pairs
            if p["split"] == "train"
        ]
        self.write("schedule", scheduled_rows(known, settings), tables.SCHEDULE)
        found = Line(*(self.folder / table for table in ("pairs", "reference", "schedule")))
        return found._replace(features=self.folder / "features") if (self.folder / "features").exists() else found

    def trainer(
        self,
        name: str = "mixdpo",
        schedule: Row | None = None,
        resources: Row | None = None,
        train: Row | None = None,
        rank: int = 0,
        world: int = 1,
        journal: Path | None = None,
        model: PreTrainedModel | None = None,
        streams: Mapping[str, "Bench"] | None = None,
        weights: Sequence[float] | None = None,
        batch: int = BATCH,
        **parameters: Any,
    ) -> Trainer:
        """`journal` is that of a trainer whose checkpoint it goes on from; otherwise it has a new one."""
        self.trainers += 1
        if name == "mixdpo":
            parameters = {"preference": "gamma-dpo", "tau": 0.3, **parameters}
            schedule = {"sft_percentile": 34, **(schedule or {})}
        objective = build(name, **parameters)
        autoencoder = self.autoencoder if "features" in objective.preset.needs else None
        return Trainer(
            model or self.base(),
            objective,
            self.epoch(streams, batch, **(schedule or {})),
            Train(**{**SETTINGS, **(train or {})}),
            Resources(**(resources or {})),
            rank,
            world,
            Journal(journal or self.folder / f"journal-{self.trainers}"),
            weights,
            autoencoder,
        )


def run(trainer: Trainer, steps: int = 100) -> Trainer:
    while not trainer.done and trainer.next_step < steps:
        trainer.step()
    return trainer


def steps_log(trainer: Trainer) -> list[Row]:
    """Its rows of tables.STEPS, as they are exported."""
    return _log(trainer, "steps")


def pairs_log(trainer: Trainer) -> list[Row]:
    """Its rows of tables.TRAINED_PAIRS, as they are exported."""
    return _log(trainer, "trained_pairs")


def _log(trainer: Trainer, table: str) -> list[Row]:
    assert trainer.journal.folder
    trainer.journal.export(trainer.journal.folder)
    rows: list[Row] = pq.read_table(trainer.journal.folder / f"{table}.parquet").to_pylist()
    return rows


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])


def exported(policy: Policy, bench: Bench, folder: Path) -> Any:
    """The model as it is exported, opened again."""
    empty = open_empty(bench.model, bench.dtype)
    folder.mkdir(exist_ok=True)
    export_weights(policy, empty, folder)
    empty.model.config.save_pretrained(folder)
    return load_model(folder, bench.dtype)
