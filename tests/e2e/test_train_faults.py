"""Faults in a training: killed workers and drivers, SIGTERM, numbers that are none, a disk without room.

Whatever is killed, the model that stands in the end has the same bits as that of a run that was left alone.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Head
from tests.e2e.doors import door, made, only, refused
from tests.e2e.running import (
    SNAPSHOT,
    Calm,
    actors,
    as_within_rounding,
    beside,
    finish,
    knows_a_checkpoint,
    newest,
    same_training,
    start,
    until,
)

pytestmark = pytest.mark.e2e


def test_a_killed_driver_leaves_a_checkpoint(trained: Calm, head: Head, tmp_path: Path) -> None:
    """And with it all workers are gone. What is made from there has the same bits."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    driver = start(head, "train", *given)
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    (partial,) = (tmp_path / "train").glob("*.partial")
    assert (partial / "epoch" / "epoch.json").exists() and list((partial / "journal").iterdir())
    kept = kept_steps(made("train", *given, environment=head.environment), of=80)
    assert 8 <= kept < 80 and kept % 8 == 0
    calm, result = only(trained.root, "train"), only(tmp_path, "train")
    assert same_training(calm, result)
    assert {file.name for file in result.iterdir()} == {file.name for file in calm.iterdir()}
    assert not (result / "epoch").exists() and not (result / "journal").exists()


def kept_steps(said: str, of: int) -> int:
    found = re.search(rf"train: (\d+) of {of} steps are in a checkpoint and kept", said)
    assert found, said
    return int(found.group(1))


def test_a_model_that_cannot_be_saved_is_not_trained_again(trained: Calm, head: Head, tmp_path: Path) -> None:
    """Here because a file stands where its folder would be. The same command saves it once that is mended."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    begun = tmp_path / "train" / f"{only(trained.root, 'train').name}.partial"
    begun.mkdir(parents=True)
    (begun / "model").touch()
    failed = door("train", *given, "resources.max_failures=0", environment=head.environment)
    assert failed.returncode == 1 and "train is not done" in failed.stderr
    (begun / "model").unlink()
    assert kept_steps(made("train", *given, environment=head.environment), of=80) == 80
    assert same_training(only(trained.root, "train"), only(tmp_path, "train"))


@pytest.fixture(scope="module")
def by_two(trained: Calm, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training of 40 steps of two pairs, by two workers."""
    root = tmp_path_factory.mktemp("by-two")
    given = (*beside(trained, root, "prepare", "reference"), "train.batch_size=2", "resources.train_workers=2")
    made("schedule", *given)
    made("train", *given, environment=head.environment)
    return Calm(root, given)


def test_one_of_two_workers_killed_and_then_both(by_two: Calm, head: Head, tmp_path: Path) -> None:
    """The group begins anew from the newest checkpoint, each worker with its shards, and ends with the same bits."""
    driver = start(head, "train", *beside(by_two, tmp_path, "prepare", "reference", "schedule"))
    first = kill_workers(1, head, driver, tmp_path, before=set())
    kill_workers(2, head, driver, tmp_path, before=first)
    said = finish(driver)
    assert said.count("train: a worker died or failed, and all began anew") == 2, said
    assert same_training(only(by_two.root, "train"), only(tmp_path, "train"))


def test_one_worker_goes_on_from_two(by_two: Calm, head: Head, tmp_path: Path) -> None:
    """SIGTERM ends a training after the step it is at and a checkpoint. Another number of workers takes the same steps
    from there, within the bounds that hold for float32."""
    two = beside(by_two, tmp_path, "prepare", "reference", "schedule")
    driver = start(head, "train", *two)
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143, said
    assert said.splitlines()[-1].endswith("terminated; what is finished is kept, the same command goes on from there")

    done = newest(tmp_path)["step"] + 1
    said = made("train", *two, "resources.train_workers=1", environment=head.environment)
    assert kept_steps(said, of=40) == done < 40
    as_within_rounding(by_two, only(by_two.root, "train"), only(tmp_path, "train"))


def workers(head: Head) -> set[int]:
    return {worker.pid for worker in actors(head.pid, "RayTrainWorker")}


def kill_workers(count: int, head: Head, driver: "subprocess.Popen[str]", root: Path, before: set[int]) -> set[int]:
    """Kill some of a group that is at its steps, with a checkpoint behind it; returns the group. `before`: the last."""
    until(lambda: knows_a_checkpoint(root) and len(workers(head) - before) == 2, driver)
    until(lambda: (newest(root)["resumed"] > 0) == bool(before), driver)
    group = workers(head) - before
    for pid in sorted(group)[:count]:
        os.kill(pid, signal.SIGKILL)
    return group


def test_a_loss_that_is_no_number_names_its_pair_and_keeps_the_checkpoint(
    trained: Calm, head: Head, tmp_path: Path
) -> None:
    """Weights that grow fourfold a step, until log-probs or their gradient are no numbers. It is not tried again."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    growing = ("train.warmup_fraction=0", "train.weight_decay=5e4", "resources.checkpoint_steps=2")
    told = refused("train", *given, *growing, environment=head.environment)
    found = re.search(r"step (\d+): the (?:loss or the gap|gradient) of 1 pairs is not finite \(\w+\)", told)
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
