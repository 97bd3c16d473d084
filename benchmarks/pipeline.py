"""What Ray costs: a stage through its door against the same work in a bare loop without Ray. JSON on stdout.

    python -m benchmarks.pipeline --model DIR --pairs FILE --n 1600 --stage reference|train [--repeats 1]

Both are timed as whole processes: start of Python, loading, work, writing of the result. They take turns in a root of
their own, after the stages before have been run by their doors. Checkpoints of the train stage are left out, as the
bare loop has none. `bare_over_stage` is the share of the stage's time that the work itself would take.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from actors.environment import CPU
from benchmarks.measure import ROOT, Result, alternate, median_ratio, reported, run_child
from pipeline.errors import UserError

BEFORE = {"reference": ("prepare",), "train": ("prepare", "reference", "schedule")}
TABLES = {"reference": ("part-*.parquet", ["chosen_logps", "rejected_logps"]), "train": ("steps.parquet", ["loss"])}


def compare(settings: dict[str, Any], stage: str, repeats: int, root: Path) -> Result:
    """`repeats` alternations of the stage and the bare loop over `settings`, a configuration, below a fresh `root`."""
    settings = settings | {"resources": settings.get("resources", {}) | {"root": str(root / "runs")}}
    file = root / "benchmark.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    for before in BEFORE[stage]:
        door(before, file)
    inputs = {name: str(made(root / "runs", name)) for name in BEFORE[stage]}
    job = {"config": str(file), "folder": str(root / "bare"), "inputs": inputs}
    runs = alternate({"stage": partial(door, stage, file), "bare": partial(bare, stage, job)}, repeats)
    manifest = json.loads((made(root / "runs", stage) / "manifest.json").read_text(encoding="utf-8"))
    seconds = {name: [result["seconds"] for result in results] for name, results in runs.items()}
    found: Result = {
        "bare_over_stage": round(median_ratio(seconds["bare"], seconds["stage"]), 3),
        "stage_seconds": [round(value, 2) for value in seconds["stage"]],
        "bare_seconds": [round(value, 2) for value in seconds["bare"]],
        "tokens": manifest["tokens"],
        "largest_difference": apart(stage, made(root / "runs", stage), root / "bare"),
    }
    if stage == "train":  # of the last alternation, the optimiser steps alone
        loops = {"stage": manifest["metrics"]["loop_seconds"], "bare": runs["bare"][-1]["loop_seconds"]}
        found["loop_seconds"] = {name: round(value, 2) for name, value in loops.items()}
    return found


def door(stage: str, config: Path) -> Result:
    """Run one stage as a user does, committed or not."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{stage}", "--config", str(config), "--force"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise UserError(f"jobs.{stage} ended with {done.returncode}: {done.stderr[-2000:]}", "see what it says")
    return {"seconds": time.perf_counter() - started}


def bare(stage: str, job: dict[str, Any]) -> Result:
    started = time.perf_counter()
    result = run_child("benchmarks.pipeline", f"bare_{stage}", job, environment=CPU)
    return {**result, "seconds": time.perf_counter() - started}


def bare_reference(job: dict[str, Any]) -> Result:
    import numpy as np

    from actors.scorer import Scorer, ScorerSpec
    from pipeline.settings.config import load

    config, pairs, folder = load(job["config"]), Path(job["inputs"]["prepare"]), Path(job["folder"])
    folder.mkdir(exist_ok=True)
    spec = ScorerSpec(
        model=config.model.source,
        dtype=config.model.dtype,
        pairs=str(pairs),
        folder=str(folder),
        resources=config.resources,
        threads=os.cpu_count() or 1,
    )
    Scorer(spec, "reference")({"part": np.array(sorted(path.name for path in pairs.glob("part-*.parquet")))})
    return {}


def bare_train(job: dict[str, Any]) -> Result:
    import torch

    from pipeline.compute.models import load_model
    from pipeline.objectives.objective import build
    from pipeline.preferences.loading import load_tokenizer
    from pipeline.settings.config import load
    from pipeline.training.epoch import Epoch
    from pipeline.training.join import join
    from pipeline.training.journal import Journal
    from pipeline.training.loop import Trainer

    torch.set_num_threads(os.cpu_count() or 1)
    config, folder, model = load(job["config"]), Path(job["folder"]), Path(load(job["config"]).model.source)
    folder.mkdir(exist_ok=True)
    pairs, reference, schedule = (Path(job["inputs"][name]) for name in BEFORE["train"])
    trainer = Trainer(
        load_model(model, config.model.dtype),
        build(config.objective.name, **config.objective.parameters),
        Epoch(join(pairs, reference, schedule, folder / "epoch"), config.train.batch_size),
        config.train,
        config.resources,
        journal=Journal(folder / "journal"),
    )
    seconds = 0.0
    while not trainer.done:
        seconds += trainer.step()["seconds"]
    trainer.held_out()
    trainer.policy.model.save_pretrained(folder / "model")
    load_tokenizer(model).save_pretrained(folder / "model")
    trainer.journal.export(folder)
    return {"loop_seconds": seconds}


def made(root: Path, stage: str) -> Path:
    """The folder of the one committed result of a stage."""
    (manifest,) = (root / stage).glob("*/manifest.json")
    return manifest.parent


def apart(stage: str, ours: Path, bare: Path) -> float:
    """The largest difference of what the two computed: log-prob sums, or the losses of the steps."""
    import pyarrow.parquet as pq

    pattern, columns = TABLES[stage]
    ways = [pq.read_table(sorted(folder.glob(pattern)), columns=columns).to_pylist() for folder in (ours, bare)]
    return max(abs(a[name] - b[name]) for a, b in zip(*ways, strict=True) for name in columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a directory as save_pretrained writes it")
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="preference pairs, as data.source")
    parser.add_argument("--n", type=int, default=32, help="train pairs")
    parser.add_argument("--stage", choices=sorted(BEFORE), required=True)
    parser.add_argument("--batch", type=int, default=4, help="pairs an optimiser step")
    parser.add_argument("--repeats", type=int, default=1, help="alternations")
    options = parser.parse_args()
    settings = {
        "name": "benchmark",
        "model": {"source": str(options.model.resolve())},
        "data": {"source": str(options.pairs.resolve()), "limit": options.n, "max_dropped": 1.0},
        "objective": {"name": "dpo"},
        "train": {"lr_schedule": "constant", "warmup_fraction": 0.0, "batch_size": options.batch},
        # The longest pair that data's limits let through has 1536 tokens.
        "resources": {"micro_batch_tokens": 1536, "checkpoint_steps": 10**9},
    }
    with reported(), tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as root:
        found = compare(settings, options.stage, options.repeats, Path(root))
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    print(json.dumps({**shown, **found}, indent=2))


if __name__ == "__main__":
    main()
