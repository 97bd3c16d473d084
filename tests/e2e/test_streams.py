"""Pairs of two sources trained together on features of an autoencoder that a door has trained: fpo over two streams."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.common.stage import Work
from jobs.report import ledgers, optional, scheduled
from pipeline.line.plan import make_plan
from pipeline.results import tables
from pipeline.settings.config import load
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only, rows
from tests.e2e.running import settings

pytestmark = pytest.mark.e2e

SMALL = (
    "features.layer=0",
    "features.latents=96",
    "features.active=8",
    "features.passes=3",
    "features.batch_states=64",
)


def test_features_are_trained_and_two_streams_by_them(line: Line, head: Head, tmp_path: Path) -> None:
    given = (*settings(line, tmp_path, "prepare", "reference"), "objective=fpo")
    said = made("features", *given, *SMALL, environment=head.environment)
    dictionary = only(tmp_path, "features")
    manifest = json.loads((dictionary / "manifest.json").read_text())
    assert {*manifest["outputs"]} == {"cfg.json", "sae.safetensors", "part-00000.parquet"}
    history = rows(dictionary)
    assert history[-1]["explained"] > history[0]["explained"] and "of held-out states' variance explained" in said
    assert manifest["metrics"]["dead"] == history[-1]["dead"]

    both = (*given, f"features={dictionary}", "streams={own: {data: {seed: 5}, weight: 0.25}}")
    said = made("run", *both, "--until", "train", environment=head.environment)
    for name in ("own/prepare", "reference:features", "own/reference:features", "own/schedule", "train"):
        assert f"{name}: done" in said, name
    assert "] features: making" not in said and "reference: committed already" in said
    train = only(tmp_path, "train")
    streams = pq.read_table(train / "streams.parquet").to_pylist()
    assert [(row["stream"], row["pairs"], row["weight"]) for row in streams] == 4 * [
        ("data", 4, pytest.approx(0.75)),
        ("own", 4, pytest.approx(0.25)),
    ]
    steps = pq.read_table(train / "steps.parquet").to_pylist()
    for step, two in zip(steps, zip(streams[::2], streams[1::2], strict=True), strict=True):
        assert step["loss"] == pytest.approx(sum(row["weight"] * row["loss"] for row in two))
    plan = make_plan(load("configs/smoke.yaml", both))
    results = {step.name: step.address.find() for step in plan.steps.values()}
    found = {name: result for name, result in results.items() if result}
    work = Work(plan, plan.steps["report"], found, tmp_path)
    assert scheduled(work).pairs == 32 and ledgers(work).kept == 40
    assert optional(train, "streams.parquet", tables.STREAMS) is not None
