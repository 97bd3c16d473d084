"""A sweep through its door: killed at a trial and gone on with, a trial that fails, what is chosen, and its page."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only
from tests.e2e.running import start, until

pytestmark = pytest.mark.e2e

SEED = 3  # proposes the first rate, the second, and the first again
RATES = [1e-4, 1e30]  # at the second no training ends


def sweep(folder: Path) -> str:
    """A file with the smoke configuration and three trials, of which one fails and one is another's like."""
    raw = yaml.safe_load((REPOSITORY / "configs" / "smoke.yaml").read_text())
    objective = {"name": "gamma-dpo", "queue": "step", "centred": False}
    given = {"methods": {"ahead": {"objective": objective}}, "ranges": {"train.learning_rate": RATES}, "until": "train"}
    given |= {"trials": 3, "batch": 2, "seed": SEED}
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**raw, "sweep": given}, sort_keys=False))
    return str(folder / "sweep.yaml")


def test_a_sweep_killed_and_gone_on_with(line: Line, head: Head, tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    root, file = tmp_path / "root", sweep(tmp_path)
    for stage in ("prepare", "reference"):
        shutil.copytree(line.root / stage, root / stage)
    settings = (line.settings[0], f"resources.root={root}", "resources.max_failures=0", "train.batch_size=4")
    first = start(head, "sweep", *settings, config=file)
    until(lambda: list(root.glob("train/*/manifest.json")), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    said = made("sweep", *settings, config=file, environment=head.environment)
    assert "sweep: 1 of 2 runs kept" in said and "sweep: 1 of 1 runs kept" in said
    assert "ahead-trial0 |" not in said and "ahead-trial1 | train: making" in said
    assert "sweep: ahead: trial 0 is chosen" in said and "1 of 4 runs failed (--retry-failed tries them again)" in said
    assert len(list(root.glob("train/*/manifest.json"))) == 1  # of all three trials, and of the final run
    page = only(root, "sweep")
    metrics = json.loads((page / "manifest.json").read_text())["metrics"]
    assert [trial["outcome"] for trial in metrics["trials"]] == ["whole", "failed", "whole"]
    assert metrics["methods"][0]["settings"] == {"train.learning_rate": RATES[0]}
    reason = metrics["trials"][1]["reason"]
    assert reason and reason in (page / "sweep.html").read_text(encoding="utf-8")
    rows = list(csv.DictReader((page / "trials.csv").read_text().splitlines()))
    assert [(row["outcome"], row["chosen"]) for row in rows] == [
        ("whole", "True"),
        ("failed", "False"),
        ("whole", "False"),
    ]
    (journal,) = root.glob("sweep/trials/*/optuna.log")
    read = optuna.load_study(study_name="ahead", storage=JournalStorage(JournalFileBackend(str(journal))))
    assert [trial.state.name for trial in read.trials] == ["COMPLETE", "FAIL", "COMPLETE"]

    again = made("sweep", *settings, config=file, environment=head.environment)
    assert "sweep: committed already, kept" in again and "| train:" not in again
