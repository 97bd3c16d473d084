"""What grows with the pairs beside training and prepare: schedule, report, status and verification.

`measure` lays out a line of made-up results of the size asked for, as stages commit them, and opens its doors, each in
a process of its own. Seconds are those of the door without its imports; CPU seconds are of all its threads; memory is
by how much the process was above what its imports take.
"""

import contextlib
import importlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.measure import Result, growth, run_child
from jobs import status
from jobs.common.stage import Outcome, make, manifest
from jobs.common.stage import main as stage
from pipeline.line.plan import make_plan
from pipeline.line.steps import Plan
from pipeline.results import tables
from pipeline.settings.config import load

BATCH = 128
VOCABULARY = 32_000
# What a door imports once it is open.
IMPORTS = {"schedule": ("pipeline.training.schedule",), "report": ("pipeline.report.page",), "status": ()}
MEANS = {"accuracy": 0.5, "gap": 0.0, "chosen_logps": -100.0, "rejected_logps": -100.0}


def measure(pairs: int, folder: Path, tokens: int = 1000) -> Result:
    """All four of a line of `pairs` pairs with so many tokens each, below an empty `folder`."""
    config = lay_out(pairs, folder, tokens)
    found = opened("schedule", config)
    train_and_answer(config)
    found |= opened("report", config) | opened("status", config)
    verified = run_child(__name__, "verify", {"config": str(config)})
    (page,) = (folder / "runs" / "report").glob("*/report.html")
    return found | named("verify", verified) | {"report_page_mib": round(page.stat().st_size / 2**20, 1)}


def measure_schedule(pairs: int, folder: Path) -> Result:
    """The schedule alone, of pairs that have ids, scores and log-probs."""
    return opened("schedule", lay_out(pairs, folder, tokens=0))


def opened(name: str, config: Path) -> Result:
    return named(name, run_child(__name__, "door", {"door": name, "config": str(config)}))


def named(what: str, found: Result) -> Result:
    return {f"{what}_{name}": value for name, value in found.items()}


def door(job: dict[str, Any]) -> Result:
    """A door's main, timed; its words go to stdout as always."""
    name = job["door"]
    for module in IMPORTS[name]:
        importlib.import_module(module)
    call = status.main if name == "status" else partial(stage, name)
    return timed(lambda: call(["--config", job["config"]]))


def verify(job: dict[str, Any]) -> Result:
    """Every file of every result of the line against its digest."""
    artifacts = [step.address.find() for step in make_plan(load(job["config"])).steps.values()]
    return timed(lambda: [artifact.verify() for artifact in artifacts if artifact])


def timed(call: Any) -> Result:
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    grown = growth(call)
    now = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, 2),
        "mib": round(grown),
    }


def lay_out(pairs: int, folder: Path, tokens: int) -> Path:
    """A configuration, its source, and the results of prepare and reference; returns the configuration's file.

    The model is files that are never opened. MixDPO by the reference's gap, a fifth of the labels flipped.
    """
    model, source, asked, config = (folder / name for name in ("model", "pairs.jsonl", "asked.jsonl", "scale.yaml"))
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "chat_template.jinja").write_text("{{ messages }}")
    _write_source(source, pairs, tokens)
    asked.write_text('{"prompt": "Name a colour."}\n')
    settings: dict[str, Any] = {
        "model": {"source": str(model)},
        "data": {"source": str(source)},
        "objective": "mixdpo",
        "schedule": {"difficulty": "reference-gap-per-token", "flip_fraction": 0.2},
        "generate": {"benchmarks": {"asked": str(asked)}, "max_new_tokens": 64},
        "resources": {"root": str(folder / "runs")},
    }
    config.write_text(json.dumps(settings))
    plan, draw = make_plan(load(str(config))), np.random.default_rng(0)
    size = plan.config.data.shard_pairs
    counts = [min(size, pairs - start) for start in range(0, pairs, size)]
    ids = [_ids(draw, count) for count in counts]
    long = _long_columns(draw, size, tokens)
    ledger = {"rows": pairs, "read": pairs, "kept": pairs, "dropped": {}, "beyond_limit": 0}
    metrics = {"lacking": {}, "splits": {"train": pairs}}
    _commit(plan, "prepare", (_pairs(draw, each, long) for each in ids), tables.PAIRS, metrics, ledger)
    _commit(plan, "reference", (_reference(draw, each) for each in ids), tables.REFERENCE, {"notes": []})
    return config


def train_and_answer(config: Path) -> None:
    """The results of train and generate, made up, after the schedule's; and judge's, by its own door."""
    plan, draw = make_plan(load(str(config))), np.random.default_rng(1)
    scheduled = plan.steps["schedule"].address.find()
    assert scheduled is not None
    rows = tables.read(scheduled.path, tables.SCHEDULE)
    rows = rows.filter(pc.not_equal(rows["route"], "drop"))
    with plan.steps["train"].address.writing() as folder:
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text("{}")
        steps = -(-rows.num_rows // BATCH)
        measured = {field.name: _numbers(draw, steps, field) for field in tables.STEPS}
        measured["step"] = pa.array(np.arange(steps))
        counts = {
            "steps.parquet": tables.write_tables(
                [pa.table(measured, schema=tables.STEPS)], tables.STEPS, folder / "steps.parquet"
            ),
            "trained_pairs.parquet": tables.write_tables(
                [_trained(draw, rows)], tables.TRAINED_PAIRS, folder / "trained_pairs.parquet"
            ),
        }
        held_out = {"pairs": rows.num_rows, "before": MEANS, "after": MEANS}
        outcome = Outcome(counts, tokens=1, metrics={"notes": ["made up"], "held_out": held_out})
        train = plan.steps["train"]
        train.address.commit(manifest(plan, train, outcome, 1.0), counts)
    answer = {"question_id": "0", "benchmark": "asked", "sample": 0, "turn": 1, "meta": "{}", "response": "Blue."}
    answer |= {"prompt": '[{"role": "user", "content": "Name a colour."}]', "tokens": 2, "finish_reason": "stop"}
    for name in ("generate:base", "generate:trained"):
        answers = pa.Table.from_pylist([answer | {"seed": 0}], schema=tables.RESPONSES)
        _commit(plan, name, iter([answers]), tables.RESPONSES, {"notes": []})
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for JSON
        make(plan, plan.steps["judge"])


def _commit(
    plan: Plan,
    name: str,
    parts: Iterator[pa.Table],
    schema: pa.Schema,
    metrics: Result,
    ledger: Result | None = None,
) -> None:
    step = plan.steps[name]
    with step.address.writing() as folder:
        counts = {}
        for number, part in enumerate(parts):
            file = f"part-{number:05d}.parquet"
            counts[file] = tables.write_tables([part], schema, folder / file)
        outcome = Outcome(counts, tokens=1, metrics=metrics, ledger=ledger or {})
        step.address.commit(manifest(plan, step, outcome, 1.0), counts)


def _write_source(file: Path, pairs: int, tokens: int) -> None:
    """Rows that hold some four bytes a token, one block of them over and over: nothing is made of them."""
    row = json.dumps(
        {"prompt": "a" * (2 * tokens) or "a", "chosen": "b" * tokens or "b", "rejected": "c" * tokens or "c"}
    )
    block = f"{row}\n".encode() * 1000
    with open(file, "wb") as written:
        for _ in range(pairs // 1000):
            written.write(block)
        written.write(f"{row}\n".encode() * (pairs % 1000))


def _ids(draw: np.random.Generator, count: int) -> pa.Array:
    offsets = pa.py_buffer(32 * np.arange(count + 1, dtype=np.int32))
    return pa.StringArray.from_buffers(count, offsets, pa.py_buffer(draw.bytes(16 * count).hex().encode()))


def _long_columns(draw: np.random.Generator, rows: int, tokens: int) -> dict[str, pa.Array]:
    """Token ids, half of them the prompt's, and texts of four bytes a token that shrink to half; of `rows` pairs."""
    columns: dict[str, pa.Array] = {}
    for name, share in (("prompt", 2), ("chosen", 4), ("rejected", 4)):
        length = tokens // share
        offsets = pa.array(length * np.arange(rows + 1, dtype=np.int32))
        values = pa.array(draw.integers(0, VOCABULARY, rows * length, dtype=np.int32))
        columns[f"{name}_ids"] = pa.ListArray.from_arrays(offsets, values)
        columns[name] = pa.array([draw.bytes(2 * length).hex() for _ in range(rows)])
    return columns


def _pairs(draw: np.random.Generator, ids: pa.Array, long: dict[str, pa.Array]) -> pa.Table:
    columns = {field.name: pa.nulls(len(ids), field.type) for field in tables.PAIRS}
    columns |= {name: column.slice(0, len(ids)) for name, column in long.items()}
    columns |= {name: pa.array(np.round(draw.random(len(ids)), 2)) for name in ("chosen_score", "rejected_score")}
    columns |= {"pair_id": ids, "source": pa.array(["made up"] * len(ids)), "split": pa.array(["train"] * len(ids))}
    return pa.table(columns, schema=tables.PAIRS)


def _reference(draw: np.random.Generator, ids: pa.Array) -> pa.Table:
    columns = {"pair_id": ids, "tokens_digest": _ids(draw, len(ids))}
    columns |= {name: pa.array(draw.normal(-300, 80, len(ids))) for name in ("chosen_logps", "rejected_logps")}
    counts = ("chosen_tokens", "rejected_tokens")
    columns |= {name: pa.array(draw.integers(1, 400, len(ids), dtype=np.int32)) for name in counts}
    return pa.table(columns, schema=tables.REFERENCE)


def _trained(draw: np.random.Generator, scheduled: pa.Table) -> pa.Table:
    of_schedule = {name: scheduled[name] for name in ("position", "pair_id", "route", "flipped")}
    columns = {field.name: _numbers(draw, scheduled.num_rows, field) for field in tables.TRAINED_PAIRS} | of_schedule
    columns["step"] = pa.array(scheduled["position"].to_numpy() // BATCH)
    is_sft = pc.equal(scheduled["route"], "sft")
    for name in ("gap", "margin", "weight"):
        columns[name] = pc.if_else(is_sft, None, columns[name])
    return pa.table(columns, schema=tables.TRAINED_PAIRS)


def _numbers(draw: np.random.Generator, rows: int, field: pa.Field) -> pa.Array:
    if pa.types.is_floating(field.type):
        return pa.array(draw.random(rows))
    return pa.array(draw.integers(0, BATCH, rows)) if pa.types.is_integer(field.type) else pa.nulls(rows, field.type)
