"""Our side of benchmarks.throughput, in a process of its own: the scorer and the trainer of the stages, without Ray."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from actors.scorer import Scorer, ScorerSpec
from benchmarks.kinds import by_kind
from benchmarks.measure import Result, forget_peak, forward_flops, linear_shapes, matrix_peak, peak_memory
from benchmarks.pairs import IDS, Row
from benchmarks.tables import PART, write_pairs, write_reference, write_schedule
from pipeline.compute.layout import Tokens
from pipeline.compute.models import load_model
from pipeline.objectives.objective import build
from pipeline.results import tables
from pipeline.settings.resources import Resources
from pipeline.settings.training import Train
from pipeline.training.epoch import Epoch
from pipeline.training.join import join
from pipeline.training.loop import Trainer

WARMUP, TIMED = PART, "part-00001.parquet"


def run(job: dict[str, Any]) -> Result:
    """Time one phase over job["pairs"], of which the first step's worth is warm-up.

    The FLOPs are those that the timed pairs need, and the peak that of products of the model's own sizes, tried here
    after the timed part: what they give with `seconds` is the share of the peak.
    """
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        result, model = (_reference if job["phase"] == "reference" else _train)(job, Path(folder))
    timed = [_tokens(pair) for pair in job["pairs"][job["batch"] :]]
    passes = 1 if job["phase"] == "reference" else 3  # a backward needs twice the FLOPs of a forward
    flops = passes * forward_flops(model, timed)
    return {**result, "gflop": flops / 1e9, "matrix_peak_gflops": matrix_peak(linear_shapes(model))}


def _reference(job: dict[str, Any], root: Path) -> tuple[Result, PreTrainedModel]:
    longest = max(_tokens(pair).packed for pair in job["pairs"])
    _two_parts(job["pairs"], job["batch"], root / "pairs")
    (root / "scored").mkdir()
    scorer = Scorer(
        ScorerSpec(
            model=job["model"],
            dtype="float32",
            pairs=str(root / "pairs"),
            folder=str(root / "scored"),
            resources=Resources(score_tokens=max(Resources().budgets("cpu").score_tokens, longest)),
            threads=job["threads"],
        ),
        "reference",
    )
    forget_peak()
    scorer({"part": np.array([WARMUP])})
    started = time.perf_counter()
    with by_kind(job["kinds"]) as kinds:
        scorer({"part": np.array([TIMED])})
    seconds = time.perf_counter() - started
    sums = tables.read(root / "scored", tables.REFERENCE, ["chosen_logps", "rejected_logps"])
    logps = [list(row.values()) for row in sums.to_pylist()]
    return {"seconds": seconds, "peak_memory_mib": peak_memory(), "logps": logps, "kinds": kinds}, scorer.model


def _train(job: dict[str, Any], root: Path) -> tuple[Result, PreTrainedModel]:
    pairs, batch, settings = job["pairs"], job["batch"], job["settings"]
    _two_parts(pairs, batch, root / "pairs")
    write_reference(pairs, job["logps"], root / "reference" / PART)
    write_schedule(pairs, root / "schedule" / PART)
    longest = max(_tokens(pair).packed for pair in pairs)
    trainer = Trainer(
        load_model(Path(job["model"]), "float32"),
        build("dpo", beta=settings["beta"]),
        Epoch(join(root / "pairs", root / "reference", root / "schedule", root / "epoch"), batch),
        Train(
            learning_rate=settings["learning_rate"],
            lr_schedule="constant",
            warmup_fraction=0.0,
            batch_size=batch,
            weight_decay=settings["weight_decay"],
            adam_betas=settings["adam_betas"],
            max_grad_norm=settings["max_grad_norm"],
        ),
        Resources(micro_batch_tokens=max(Resources().budgets("cpu").micro_batch_tokens, longest)),
    )
    forget_peak()
    losses = [trainer.step()["loss"]]
    started = time.perf_counter()
    with by_kind(job["kinds"]) as kinds:
        while not trainer.done:
            losses.append(trainer.step()["loss"])
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "peak_memory_mib": peak_memory(),
        "losses": losses,
        "kinds": kinds,
    }, trainer.policy.model


def _tokens(pair: Row) -> Tokens:
    return Tokens(*(pair[name] for name in IDS))


def _two_parts(pairs: list[Row], batch: int, folder: Path) -> None:
    """The pairs table as what warms up, and what is timed."""
    write_pairs(pairs[:batch], folder / WARMUP)
    write_pairs(pairs[batch:], folder / TIMED)
