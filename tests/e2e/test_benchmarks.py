"""benchmarks.pipeline opens the doors: what a stage and the bare loop compute is the same."""

import json
from pathlib import Path

import pytest

from benchmarks.pipeline import apart, bare, compare, made

pytestmark = pytest.mark.e2e


def test_stage_and_bare_loop_compute_the_same(tiny: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"What is {i} + {i}?", "chosen": f"It is {2 * i}.", "rejected": f"Perhaps {3 * i + 1}"}
        for i in range(6)
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model": {"source": str(tiny)},
        "data": {"source": str(pairs)},
        "objective": {"name": "dpo"},
        "train": {"batch_size": 2},
    }
    found = compare(settings, "train", 1, tmp_path)
    assert found["largest_difference"] < 1e-5
    assert 0 < found["loop_seconds"]["bare"] < found["bare_seconds"][0]
    runs = tmp_path / "runs"
    job = {"config": str(tmp_path / "benchmark.yaml"), "folder": str(tmp_path / "scored")}
    bare("reference", job | {"inputs": {"prepare": str(made(runs, "prepare"))}})
    assert apart("reference", made(runs, "reference"), tmp_path / "scored") < 1e-3  # sums of some ten log-probs
