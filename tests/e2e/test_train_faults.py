"""Faults in a training: killed workers and drivers, SIGTERM, numbers that are none, a disk without room.

Whatever is killed, the model that stands in the end has the same bits as that of a run that was left alone.
"""

import json
import os
import re
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.conftest import Head
from tests.e2e.doors import made, only, refused
from tests.e2e.running import SNAPSHOT, Calm, actors, beside, knows_a_checkpoint, same_training, start, until

pytestmark = pytest.mark.e2e


def test_a_killed_driver_leaves_a_checkpoint(trained: Calm, head: Head, tmp_path: Path) -> None:
    """And with it all workers are gone. What is made from there has the same bits."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    driver = start(head, "train", *given)
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    kept = kept_steps(made("train", *given, environment=head.environment))
    assert 8 <= kept < 80 and kept % 8 == 0
    assert same_training(only(trained.root, "train"), only(tmp_path, "train"))


def kept_steps(said: str) -> int:
    found = re.search(r"train: (\d+) of 80 steps are in a checkpoint and kept", said)
    assert found, said
    return int(found.group(1))


def test_one_of_two_workers_killed_then_one_worker_alone(trained: Calm, head: Head, tmp_path: Path) -> None:
    """The group begins anew from the checkpoint, each worker with its shards. SIGTERM then ends it after the step it is
    at and a checkpoint, and one worker goes on with the same steps."""
    two = (*beside(trained, tmp_path, "prepare", "reference", "schedule"), "resources.train_workers=2")
    driver = start(head, "train", *two)
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    first = {worker.pid for worker in actors(head.pid, "RayTrainWorker")}
    assert len(first) == 2
    actors(head.pid, "RayTrainWorker")[0].kill()
    until(lambda: len({worker.pid for worker in actors(head.pid, "RayTrainWorker")} - first) == 2, driver)
    before = newest_step(tmp_path)
    until(lambda: newest_step(tmp_path) > before, driver)
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143, said
    assert said.splitlines()[-1].endswith("terminated; what is finished is kept, the same command goes on from there")

    assert before < kept_steps(made("train", *two[:-1], environment=head.environment)) < 80
    one, other = (
        pq.read_table(only(root, "train") / "trained_pairs.parquet").to_pylist() for root in (trained.root, tmp_path)
    )
    assert [(row["step"], row["pair_id"]) for row in one] == [(row["step"], row["pair_id"]) for row in other]
    assert max(abs(a["loss"] - b["loss"]) for a, b in zip(one, other, strict=True)) < 1e-3


def newest_step(root: Path) -> int:
    """Of the steps that the first worker last wrote down."""
    steps = [json.loads(file.read_text())["step"] for file in root.glob("train/*.partial/progress.json")]
    return max(steps, default=-1)


def test_a_loss_that_is_no_number_names_its_pair_and_keeps_the_checkpoint(
    trained: Calm, head: Head, tmp_path: Path
) -> None:
    """Weights that grow fourfold a step, until the log-probs are no numbers. It is not tried again."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    growing = ("train.warmup_fraction=0", "train.weight_decay=5e4", "resources.checkpoint_steps=2")
    told = refused("train", *given, *growing, environment=head.environment)
    found = re.search(r"step (\d+): the loss or the gap of 1 pairs is not finite \(\w+\)", told)
    assert found and int(found.group(1)) > 2, told
    (partial,) = (tmp_path / "train").glob("*.partial")
    assert (partial / "refusal.json").is_file()
    (snapshot,) = tmp_path.glob(SNAPSHOT)
    known = set(re.findall(r"step-(\d+)", snapshot.read_text()))  # another one may lie beside them, half written
    assert known and all(int(step) <= int(found.group(1)) for step in known)
    assert all((partial / "ray" / f"step-{step}" / ".metadata").is_file() for step in known)


def test_a_training_that_the_disk_cannot_hold_is_refused_before_it_begins(trained: Calm, small_disk: Path) -> None:
    given = beside(trained, small_disk, "prepare", "reference", "schedule")
    told = refused("train", *given)
    assert "needs about" in told and "resources.root" in told
