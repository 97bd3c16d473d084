"""Faults injected for real: killed actors, workers and drivers, SIGTERM, a full disk, spoilt results.

Whatever is killed, the result that stands in the end is byte for byte that of a run that was left alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import file_digest
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only, refused, rows
from tests.e2e.running import MANY, actors, parts, settings, start, until

pytestmark = pytest.mark.e2e

# A training of 80 steps of milliseconds each.
LONG = ("train.batch_size=1", "resources.checkpoint_steps=8", "objective.tau=0.5", "schedule.epochs=5")
PARTS = "reference/*.partial/part-*.parquet"
SNAPSHOT = "train/*.partial/ray/checkpoint_manager_snapshot.json"  # Ray Train's list of the checkpoints it knows


@dataclass(frozen=True)
class Calm:
    """A root whose results were made without a fault."""

    root: Path
    settings: tuple[str, ...]


@pytest.fixture(scope="module")
def scored(line: Line, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A reference stage of many small parts."""
    root = tmp_path_factory.mktemp("scored")
    given = (*settings(line, root), *MANY)
    made("prepare", *given)
    made("reference", *given, environment=head.environment)
    return Calm(root, given)


@pytest.fixture(scope="module")
def trained(line: Line, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training of many short steps by one worker."""
    root = tmp_path_factory.mktemp("trained")
    given = (*settings(line, root, "prepare", "reference"), *LONG)
    made("schedule", *given)
    made("train", *given, environment=head.environment)
    return Calm(root, given)


def beside(calm: Calm, root: Path, *stages: str) -> tuple[str, ...]:
    """The same settings for another root, which is given the calm one's results of `stages`."""
    for stage in stages:
        shutil.copytree(calm.root / stage, root / stage)
    return (calm.settings[0], f"resources.root={root}", *calm.settings[2:])


def same_parts(one: Path, two: Path) -> bool:
    return [part.read_bytes() for part in parts(one)] == [part.read_bytes() for part in parts(two)]


def same_training(one: Path, two: Path) -> bool:
    """Weights by their bytes, and what was seen on the way by its values; only the times differ."""
    columns = ["step", "pair_id", "loss", "gap", "margin"]
    logs = [pq.read_table(folder / "trained_pairs.parquet", columns=columns) for folder in (one, two)]
    weights = [file_digest(folder / "model" / "model.safetensors") for folder in (one, two)]
    return logs[0].equals(logs[1]) and weights[0] == weights[1]


def knows_a_checkpoint(root: Path) -> bool:
    return any("step-" in file.read_text() for file in root.glob(SNAPSHOT))


def finish(driver: "subprocess.Popen[str]") -> str:
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, said
    return said


def test_a_killed_scorer_is_replaced(scored: Calm, head: Head, tmp_path: Path) -> None:
    driver = start(head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    (scorer,) = actors(head, "Scorer")
    scorer.kill()
    finish(driver)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


def test_a_killed_generator_is_replaced(line: Line, head: Head, tmp_path: Path) -> None:
    """Killed while its engine starts, which is most of a shard's time here."""
    stages = ("prepare", "reference", "schedule", "train")
    driver = start(head, "generate", *settings(line, tmp_path, *stages))
    until(lambda: actors(head, "Generator"), driver)
    for generator in actors(head, "Generator"):
        generator.kill()
    finish(driver)
    for label in ("tiny-*", "gamma-dpo-*"):
        assert rows(only(line.root, "generate", label)) == rows(only(tmp_path, "generate", label))


def test_a_killed_driver_leaves_finished_parts(scored: Calm, head: Head, tmp_path: Path) -> None:
    given = beside(scored, tmp_path, "prepare")
    total = len(parts(only(tmp_path, "prepare")))
    driver = start(head, "reference", *given)
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    (partial,) = (tmp_path / "reference").glob("*.partial")
    finished = {part.name: part.stat().st_mtime_ns for part in parts(partial)}
    assert 3 <= len(finished) < total

    said = made("reference", *given, environment=head.environment)
    kept, of = re.search(r"(\d+) of (\d+) parts are finished already and kept", said).groups()  # type: ignore[union-attr]
    assert int(of) == total
    assert int(kept) >= len(finished)  # an actor may have finished one more before it was gone
    committed = only(tmp_path, "reference")
    assert {name: (committed / name).stat().st_mtime_ns for name in finished} == finished
    assert same_parts(only(scored.root, "reference"), committed)


@pytest.mark.parametrize("fault", ["driver", "worker", "terminated"])
def test_an_interrupted_training_ends_with_the_same_bits(trained: Calm, head: Head, tmp_path: Path, fault: str) -> None:
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    driver = start(head, "train", *given)
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    if fault == "worker":
        (worker,) = actors(head, "RayTrainWorker")
        worker.kill()
        finish(driver)
    else:
        os.kill(driver.pid, signal.SIGKILL if fault == "driver" else signal.SIGTERM)
        said, _ = driver.communicate(timeout=120)
        if fault == "terminated":
            assert driver.returncode == 143, said
            assert said.splitlines()[-1].endswith(
                "terminated; what is finished is kept, the same command goes on from there"
            )
        said = made("train", *given, environment=head.environment)
        found = re.search(r"train: (\d+) of 80 steps are in a checkpoint and kept", said)
        assert found and 8 <= int(found.group(1)) < 80, said
        if fault == "driver":
            assert int(found.group(1)) % 8 == 0
    assert same_training(only(trained.root, "train"), only(tmp_path, "train"))


def test_sigterm_ends_a_pool_in_one_line(scored: Calm, head: Head, tmp_path: Path) -> None:
    driver = start(head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: list(tmp_path.glob(PARTS)), driver)
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143 and "Traceback" not in said
    assert "terminated; what is finished is kept" in said.splitlines()[-1]


def test_a_loss_that_is_no_number_names_its_pair_and_is_not_tried_again(
    trained: Calm, head: Head, tmp_path: Path
) -> None:
    """Steps of an absurd size: soon the log-probs are no numbers."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    told = refused("train", *given, "train.learning_rate=1e30", environment=head.environment)
    assert re.search(r"step \d+: the loss or the gap of 1 pairs is not finite \(\w+\)", told)
    log = next((tmp_path / "train").glob("*.partial")) / "refusal.json"
    assert log.is_file()


@pytest.mark.parametrize("fault", ["cut", "flipped", "edited"])
def test_a_spoilt_input_is_named_with_what_rebuilds_it(line: Line, tmp_path: Path, fault: str) -> None:
    given = settings(line, tmp_path, "prepare")
    folder = only(tmp_path, "prepare")
    spoilt = folder / ("manifest.json" if fault == "edited" else "part-00000.parquet")
    content = spoilt.read_bytes()
    spoilt.write_bytes(
        {
            "cut": content[:-1],
            "flipped": bytes([content[0] ^ 1]) + content[1:],
            "edited": content.replace(b'"rows": 20', b'"rows": 21'),
        }[fault]
    )
    assert spoilt.read_bytes() != content
    told = refused("schedule", *given)
    assert str(spoilt) in told and "--force prepare --until prepare" in told
    if fault == "cut":
        made("run", *given, "--force", "prepare", "--until", "schedule")


def test_two_runs_of_one_stage(scored: Calm, head: Head, tmp_path: Path) -> None:
    given = beside(scored, tmp_path, "prepare")
    first = start(head, "reference", *given)
    until(lambda: list(tmp_path.glob(PARTS)), first)
    assert "another process is making" in refused("reference", *given, environment=head.environment)
    finish(first)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(scored: Calm, head: Head, small_disk: Path) -> None:
    given = beside(scored, small_disk, "prepare")
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(b"0" * (free - 48 * 1024))  # room for some parts
    told = refused("reference", *given, environment=head.environment)
    assert "No space left on device" in told
    (partial,) = (small_disk / "reference").glob("*.partial")
    finished = {part.name: part.read_bytes() for part in parts(partial)}
    assert finished
    filler.unlink()
    made("reference", *given, environment=head.environment)
    committed = only(small_disk, "reference")
    assert {name: (committed / name).read_bytes() for name in finished} == finished
    assert same_parts(only(scored.root, "reference"), committed)


def test_a_training_that_the_disk_cannot_hold_is_refused_before_it_begins(trained: Calm, small_disk: Path) -> None:
    given = beside(trained, small_disk, "prepare", "reference", "schedule")
    told = refused("train", *given)
    assert "needs about" in told and "resources.root" in told


def test_a_result_is_made_again_from_its_manifest(line: Line, tmp_path: Path) -> None:
    """Byte for byte, also with the line's other results; refused where what it was made from is another."""

    def again(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "jobs.run", "--from-manifest", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    manifest = only(line.root, "prepare") / "manifest.json"
    done = again(str(manifest), f"resources.root={tmp_path / 'again'}", "--until", "prepare")
    assert done.returncode == 0, done.stdout + done.stderr
    assert same_parts(only(line.root, "prepare"), only(tmp_path / "again", "prepare"))

    other = tmp_path / "manifest.json"
    told = json.loads(manifest.read_text())
    told["config"]["data"]["pairs"] = 17
    other.write_text(json.dumps(told))
    done = again(str(other), f"resources.root={tmp_path / 'other'}")
    assert done.returncode == 2 and "prepare would be another result, as data changed" in done.stderr
    done = again(str(tmp_path))
    assert done.returncode == 2 and "is no manifest" in done.stderr
