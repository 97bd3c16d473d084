"""Committed-looking tables for a tiny model, and trainers over them: what the tests of the training loop share."""

import shutil
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
from pipeline.compute.scoring import read_part, score_part
from pipeline.objectives import build
from pipeline.objectives.presets import Preset
from pipeline.preferences.changes import changed
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables
from pipeline.settings.resources import Resources
from pipeline.settings.training import Schedule, Train
from pipeline.training.epoch import Epoch
from pipeline.training.epoch_files import Line, More
from pipeline.training.exporting import export_weights
from pipeline.training.join import join
from pipeline.training.journal import Journal
from pipeline.training.loop import Trainer
from pipeline.training.mismatched import write_asked
from tests.pipeline.training.restated_schedule import Candidate, scheduled_rows

TRAIN, DEV, BATCH = 12, 3, 4
PART, LATENTS = "part-00000.parquet", 40
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
        self._write_token_values()

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

    def _write_token_values(self) -> None:
        """Of every pair's tokens the reference's log-probs, weights at random, and whether they are changed."""
        (self.folder / "reference-tokens").mkdir(exist_ok=True)
        tokens = self.folder / "reference-tokens" / PART
        score_part(self.base(), self.folder / "pairs" / PART, tokens, budget=64, chunk=8, by_token=True)
        generator = torch.Generator().manual_seed(2)
        weights, differs = [], []
        for pair, scored in zip(self.pairs, self.reference, strict=True):
            sides = pair["chosen_ids"], pair["rejected_ids"]
            named = {name: scored[name] for name in ("pair_id", "tokens_digest")}
            drawn = ((torch.rand(len(side), generator=generator) + 0.5).tolist() for side in sides)
            weights.append(named | dict(zip(("chosen", "rejected"), drawn, strict=True)))
            differs.append(named | dict(zip(("chosen", "rejected"), changed(*sides), strict=True)))
        self.write("contrast", weights, tables.TOKEN_VALUES)
        self.write("changed", differs, tables.TOKEN_VALUES)

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
        model = self.base()
        read_part(model, Reader(model, 0, made), self.folder / "pairs" / PART, self.folder / "features" / PART, 64)
        return made, 0

    def write(self, table: str, rows: list[Row], schema: Any) -> None:
        (self.folder / table).mkdir(exist_ok=True)
        tables.write(rows, schema, self.folder / table / PART)

    def epoch(
        self,
        streams: Mapping[str, "Bench"] | None = None,
        batch: int = BATCH,
        preset: Preset | None = None,
        **schedule: Any,
    ) -> Epoch:
        """Of these pairs, and of other benches' beside them; with what a row of the table asks of tokens, and of other
        pairs' answers."""
        others = {name: bench.line(**schedule) for name, bench in (streams or {}).items()}
        line, folder = self.line(**schedule)._asdict(), self.folder / "epoch"
        folders = {"reference": "reference-tokens", "contrast": "contrast", "changed": "changed"}
        columns = preset.token_columns if preset else ()
        values = {name: (self.folder / folders[name], "part-*.parquet") for name in columns}
        mismatched = None
        if preset and "mismatched" in preset.needs:
            mismatched = self.mismatched(Epoch(join(**line, folder=folder), batch))
        return Epoch(join(**line, folder=folder, streams=others, more=More(values, mismatched)), batch)

    def line(self, **schedule: Any) -> Line:
        settings = Schedule(**{"order": "easy-to-hard", **schedule})
        known = [
            Candidate(p["pair_id"], p["chosen_score"], 0.0, difficulty=p["difficulty"])
            for p in self.pairs
            if p["split"] == "train"
        ]
        self.write("schedule", scheduled_rows(known, settings), tables.SCHEDULE)
        there = {name: self.folder / name for name in ("start", "features") if (self.folder / name).exists()}
        return Line(*(self.folder / table for table in ("pairs", "reference", "schedule")), **there)

    def mismatched(self, epoch: Epoch) -> Path:
        """The folder of what the base model says of each prompt with an answer to another of its step."""
        asked, folder = self.folder / "asked", self.folder / "mismatched"
        for old in (asked, folder):
            shutil.rmtree(old, ignore_errors=True)
        folder.mkdir()
        write_asked(epoch, asked, size=5, positions=None)
        for part in asked.iterdir():
            score_part(self.base(), part, folder / part.name, budget=64, chunk=8)
        return folder

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
            inner = {} if "preference" in parameters else {"preference": "gamma-dpo", "tau": 0.3}
            parameters = {**inner, **parameters}
            schedule = {"sft_percentile": 34, **(schedule or {})}
        objective = build(name, **parameters)
        autoencoder = self.autoencoder if "features" in objective.preset.needs else None
        return Trainer(
            model or self.base(),
            objective,
            self.epoch(streams, batch, objective.preset, **(schedule or {})),
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
