"""The benchmark of what grows with the pairs runs, and what it tells of a few is small."""

from pathlib import Path

from benchmarks.scale_training import CHECKPOINT_STEPS, measure


def test_a_few_pairs(tmp_path: Path) -> None:
    found = measure(300, tmp_path)
    assert {"worker_mib", "open_seconds", "step_ms", "checkpoint_mib"} <= found.keys()
    assert 0 < found["worker_mib"] < 300 and 0 < found["checkpoint_mib"] < 0.1
    assert (
        CHECKPOINT_STEPS > 3 and len(list((tmp_path / "journal").iterdir())) == 2
    )  # all rows, in a part of each table
