"""What of a train worker grows with the number of pairs: JSON on stdout.

    python -m benchmarks.scale_training [--pairs 10000 1000000] [--folder DIR]

Made-up pairs of 1,000 tokens are joined into an epoch, and one of 8 workers, with a model of next to no weights, reads
its part of every step and writes down every row. The folder takes 6 KB a pair.
"""

import argparse
import hashlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Result, forget_peak, growth, milliseconds, peak_memory, run_child
from pipeline.preferences.tokenise import tokens_digest
from pipeline.results import tables

LENGTHS = {"prompt_ids": 400, "chosen_ids": 300, "rejected_ids": 300}  # tokens
PART, BATCH, WORKERS, BUDGET = 1000, 128, 8, 16384
VOCABULARY = 256
CHECKPOINT_STEPS = 50
TIMED, COMPUTING = 50, 0.1  # steps that take so many seconds, as on a device; the others are read as fast as may be


def measure(pairs: int, folder: Path) -> dict[str, float]:
    """Of so many pairs, in `folder`, which is new:

    join_seconds, join_mib  of the process that joins the epoch, before the workers start
    worker_mib              the most that a worker holds beyond imports and model while it reads all steps
    open_seconds            from the start of the worker, imports and model not counted, until its first step is read
    step_ms                 that a step waits for its pairs, which were read while the one before was computed
    ahead_ms                that reading, planning and laying out a step takes meanwhile
    checkpoint_mib          of a checkpoint after the last step, without weights and moments; and
    checkpoint_seconds      that it takes, with those of a model of next to none
    """
    write_inputs(pairs, folder)
    job = {"folder": str(folder)}
    found: dict[str, float] = {}
    for function in ("joined", "worked"):
        found |= run_child("benchmarks.scale_training", function, job)
    return found


def write_inputs(pairs: int, folder: Path) -> None:
    """The tables of pairs, reference and schedule, a part at a time."""
    for name in ("pairs", "reference", "schedule"):
        (folder / name).mkdir(parents=True)
    draw, pair_ids = np.random.default_rng(0), np.empty(pairs, dtype="S32")
    for first in range(0, pairs, PART):
        count = min(PART, pairs - first)
        ids = {name: draw.integers(3, VOCABULARY, (count, n), dtype=np.int32) for name, n in LENGTHS.items()}
        named = [hashlib.md5(str(i).encode()).hexdigest() for i in range(first, first + count)]
        pair_ids[first : first + count] = named
        part = f"part-{first // PART:05}.parquet"
        pq.write_table(_pairs(named, ids), folder / "pairs" / part, compression="zstd")
        pq.write_table(_reference(named, ids, draw), folder / "reference" / part, compression="zstd")
    order = draw.permutation(pairs)
    with pq.ParquetWriter(folder / "schedule" / "part-00000.parquet", tables.SCHEDULE, compression="zstd") as writer:
        for first in range(0, pairs, tables.ROW_GROUP):
            writer.write_table(_schedule(first, pair_ids[order[first : first + tables.ROW_GROUP]].astype(str)))


def _pairs(named: list[str], ids: dict[str, Any]) -> pa.Table:
    count = len(named)
    columns: dict[str, Any] = {**dict.fromkeys(tables.PAIRS.names, [""] * count), "pair_id": named}
    for name, numbers in ids.items():
        offsets = np.arange(count + 1, dtype=np.int32) * LENGTHS[name]
        columns[name] = pa.ListArray.from_arrays(offsets, numbers.ravel())
    columns |= {"chosen_score": [2.0] * count, "rejected_score": [1.0] * count, "label_confidence": [0.8] * count}
    columns |= {"difficulty": [None] * count, "split": ["train"] * count}
    return pa.table({name: columns[name] for name in tables.PAIRS.names}, tables.PAIRS)


def _reference(named: list[str], ids: dict[str, Any], draw: np.random.Generator) -> pa.Table:
    chosen, rejected = draw.normal(-300, 20, (2, len(named)))
    columns = {
        "pair_id": named,
        "tokens_digest": [tokens_digest(*each) for each in zip(*ids.values(), strict=True)],
        "chosen_logps": chosen,
        "rejected_logps": rejected,
        "chosen_tokens": [LENGTHS["chosen_ids"]] * len(named),
        "rejected_tokens": [LENGTHS["rejected_ids"]] * len(named),
    }
    return pa.table(columns, tables.REFERENCE)


def _schedule(first: int, pair_ids: Any) -> pa.Table:
    count = len(pair_ids)
    columns = {
        "position": np.arange(first, first + count),
        "pair_id": pair_ids.tolist(),
        "difficulty": np.zeros(count),
        "route": ["preference"] * count,
        "flipped": [False] * count,
    }
    return pa.table(columns, tables.SCHEDULE)


def joined(job: dict[str, Any]) -> Result:
    from pipeline.training.join import join

    folder, started = Path(job["folder"]), time.perf_counter()
    grown = growth(lambda: join(folder / "pairs", folder / "reference", folder / "schedule", folder / "epoch"))
    return {"join_seconds": round(time.perf_counter() - started, 2), "join_mib": round(grown, 1)}


def worked(job: dict[str, Any]) -> Result:
    """The worker: opened, then at each step of the epoch, and its last checkpoint."""
    import torch

    from pipeline.training.checkpoints import save
    from pipeline.training.loop import Trainer

    torch.set_num_threads(1)
    folder, model = Path(job["folder"]), _model()
    forget_peak()
    before, started = peak_memory(), time.perf_counter()
    trainer: Trainer = _trainer(model, folder)
    trainer.feed.take(0)
    opened = time.perf_counter() - started
    waits = list(_steps(trainer))
    ahead = milliseconds({"ahead": lambda: trainer._prepare(random.randrange(trainer.epoch.steps))}, repeats=50)
    started = time.perf_counter()
    save(trainer, folder / "checkpoint").result()
    kept = time.perf_counter() - started
    files = [
        file for file in (folder / "checkpoint").iterdir() if file.name != ".metadata" and file.suffix != ".distcp"
    ]
    return {
        "worker_mib": round(peak_memory() - before, 1),
        "open_seconds": round(opened, 2),
        "step_ms": round(1e3 * statistics.median(waits[1:TIMED]), 3),
        **ahead,
        "checkpoint_mib": round(sum(file.stat().st_size for file in files) / 2**20, 3),
        "checkpoint_seconds": round(kept, 2),
    }


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 1, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))


def _trainer(model: Any, folder: Path) -> Any:
    """Of an objective that starts from the pairs as the untrained policy sees them, so that these are read, too."""
    from pipeline.objectives.objective import build
    from pipeline.settings.resources import Resources
    from pipeline.settings.training import Train
    from pipeline.training.epoch import Epoch
    from pipeline.training.journal import Journal
    from pipeline.training.loop import Trainer

    objective, settings = build("gamma-simpo", beta=2.0, gamma0=1.0, tau=1.0), Train(batch_size=BATCH)
    epoch, resources = Epoch(folder / "epoch", BATCH), Resources(micro_batch_tokens=BUDGET)
    trainer = Trainer(model, objective, epoch, settings, resources, journal=Journal(folder / "journal"))
    trainer.world = WORKERS  # of which it reads the first one's share
    return trainer


def _steps(trainer: Any) -> Iterator[float]:
    """Seconds that each step waited for its pairs; once TIMED are done, nothing is computed between two of them."""
    import torch

    from pipeline.training.epoch import sizes
    from pipeline.training.rows import MEASURED, Rows

    while not trainer.done:
        k = trainer.next_step
        started = time.perf_counter()
        step = trainer.feed.take(k)
        waited = time.perf_counter() - started
        rows = Rows(step.examples, torch.zeros(len(step.examples), len(MEASURED), dtype=torch.float64))
        known = {"step": k, "learning_rate": 0.0, "grad_norm": 0.0, "seconds": 0.0, "tokens": sum(sizes(step.examples))}
        trainer.record = known | rows.summary()
        trainer.state.observe(*map(rows.preferred, ("stream", "gap", "statistic")))
        trainer.journal.add(trainer.record, rows)
        trainer.next_step += 1
        if trainer.next_step % CHECKPOINT_STEPS == 0:
            trainer.journal.write()
        time.sleep(COMPUTING if k < TIMED else 0.0)
        yield waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10**4, 10**6])
    parser.add_argument("--folder", type=Path, help="where to work, and to leave nothing")
    options = parser.parse_args()
    for pairs in options.pairs:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps({"pairs": pairs, **measure(pairs, Path(folder))}), flush=True)


if __name__ == "__main__":
    main()
