"""On a cluster: a submitted job, a killed driver, Ctrl-C, and what an actor raises."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.artifacts import file_digest
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, command, door, made, only, refused

pytestmark = pytest.mark.e2e

# Many small parts: a reference stage that is still at work when it is interrupted.
MANY = ("data.pairs=320", "data.dev_pairs=0", "data.shard_pairs=2", "resources.log_seconds=1")


def settings(line: Line, root: Path, *stages: str) -> tuple[str, str]:
    for stage in stages:
        shutil.copytree(line.root / stage, root / stage)
    return line.settings[0], f"resources.root={root}"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def start(head: Head, stage: str, *arguments: str) -> "subprocess.Popen[str]":
    """A door left running, in a process group of its own and open to Ctrl-C, as a terminal would give it.

    A shell that runs the tests in the background has Ctrl-C ignored by everything below it.
    """
    return subprocess.Popen(
        command(stage, *arguments),
        cwd=REPOSITORY,
        env=os.environ | head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_submitted_job_commits_its_result(line: Line, head: Head, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    submit = [ray, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", "python"]
    job = [*submit, *command("reference", *settings(line, tmp_path, "prepare"))[1:]]
    environment = os.environ | head.token
    done = subprocess.run(
        job, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference: done in" in done.stdout
    committed, here = only(tmp_path, "reference"), only(line.root, "reference")
    assert committed.name == here.name
    assert [pq.read_table(part) for part in parts(committed)] == [pq.read_table(part) for part in parts(here)]


def test_a_killed_stage_keeps_its_finished_parts(line: Line, head: Head, tmp_path: Path) -> None:
    disturbed = (*settings(line, tmp_path / "disturbed"), *MANY)
    made("prepare", *disturbed)
    total = len(parts(only(tmp_path / "disturbed", "prepare")))
    shutil.copytree(tmp_path / "disturbed", tmp_path / "calm")

    driver = start(head, "reference", *disturbed)
    until(lambda: len(list(tmp_path.glob("disturbed/reference/*.partial/part-*.parquet"))) >= 3, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    (partial,) = (tmp_path / "disturbed" / "reference").glob("*.partial")
    finished = {part.name: part.stat().st_mtime_ns for part in parts(partial)}
    assert 3 <= len(finished) < total

    said = made("reference", *disturbed, environment=head.environment)
    kept, of = re.search(r"(\d+) of (\d+) parts are finished already and kept", said).groups()  # type: ignore[union-attr]
    assert int(of) == total
    assert int(kept) >= len(finished)  # an actor may have finished one more before it was gone
    committed = only(tmp_path / "disturbed", "reference")
    assert {name: (committed / name).stat().st_mtime_ns for name in finished} == finished

    made("reference", *settings(line, tmp_path / "calm"), *MANY, environment=head.environment)
    calm = only(tmp_path / "calm", "reference")
    assert [part.read_bytes() for part in parts(calm)] == [part.read_bytes() for part in parts(committed)]


def test_a_killed_training_goes_on_to_the_same_bits(line: Line, head: Head, tmp_path: Path) -> None:
    """Steps of milliseconds; the driver is killed once Ray Train knows of a checkpoint."""
    asked = ("train.batch_size=1", "resources.checkpoint_steps=8", "objective.tau=0.5", "schedule.epochs=20")
    calm, disturbed = (
        (*settings(line, tmp_path / name, "prepare", "reference"), *asked) for name in ("calm", "disturbed")
    )
    for settled in (calm, disturbed):
        made("schedule", *settled)
    driver = start(head, "train", *disturbed)
    known = "disturbed/train/*.partial/ray/checkpoint_manager_snapshot.json"
    until(lambda: any("step-" in file.read_text() for file in tmp_path.glob(known)), driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()

    said = made("train", *disturbed, environment=head.environment)
    found = re.search(r"train: (\d+) of 320 steps are in a checkpoint and kept", said)
    assert found and 8 <= int(found.group(1)) < 320, said
    made("train", *calm, environment=head.environment)
    one, two = (only(tmp_path / name, "train") for name in ("calm", "disturbed"))
    assert file_digest(one / "model" / "model.safetensors") == file_digest(two / "model" / "model.safetensors")
    columns = ["step", "pair_id", "loss", "gap", "margin"]
    logs = [pq.read_table(folder / "trained_pairs.parquet", columns=columns) for folder in (one, two)]
    assert logs[0].equals(logs[1])
    assert len({row["margin"] for row in logs[0].to_pylist()}) > 8


@pytest.mark.parametrize("stage", ["reference", "train"])
def test_ctrl_c_ends_a_stage_in_one_line(line: Line, head: Head, tmp_path: Path, stage: str) -> None:
    """Interrupted once it is seen at work: a first part written, a first step taken."""
    if stage == "reference":
        long: tuple[str, ...] = (*settings(line, tmp_path), *MANY)
        made("prepare", *long)
        at_work = "reference/*.partial/part-*.parquet"
    else:
        long = (*settings(line, tmp_path, "prepare", "reference"), "schedule.epochs=500")
        made("schedule", *long)
        at_work = "train/*.partial/progress.json"
    driver = start(head, stage, *long)
    until(lambda: list(tmp_path.glob(at_work)), driver)
    os.killpg(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert said.splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in said


def test_more_actors_than_the_cluster_places_are_refused(line: Line, head: Head, tmp_path: Path) -> None:
    told = refused(
        "reference", *settings(line, tmp_path, "prepare"), "resources.scorers=64", environment=head.environment
    )
    assert "resources.scorers=64" in told and "the cluster has 2 CPUs" in told and "resources.scorers=2" in told


def test_what_an_actor_refuses_comes_out_as_one_message(line: Line, head: Head, tmp_path: Path) -> None:
    ready = settings(line, tmp_path, "prepare")
    told = refused("reference", *ready, "resources.score_tokens=8", environment=head.environment)
    assert "resources.score_tokens=8" in told


def test_what_a_train_worker_refuses_comes_out_as_one_message(line: Line, head: Head, tmp_path: Path) -> None:
    ready = settings(line, tmp_path, "prepare", "reference", "schedule")
    few = ("resources.micro_batch_tokens=8", "resources.max_failures=0")
    assert "resources.micro_batch_tokens=8" in refused("train", *ready, *few, environment=head.environment)


def test_an_unexpected_failure_says_what_failed_and_where_to_look(
    line: Line, head: Head, tmp_path: Path, tiny: Path
) -> None:
    spoilt = tmp_path / "spoilt"
    shutil.copytree(tiny, spoilt)
    weights = (spoilt / "model.safetensors").read_bytes()
    (spoilt / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    ready = (f"model.source={spoilt}", f"resources.root={tmp_path / 'root'}")
    made("prepare", *ready)
    done = door("reference", *ready, environment=head.environment)
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("failed unexpectedly; ")
    assert "reference is not done, its finished parts are kept in" in first
    logs = re.search(r"Ray's logs are in (\S+?)(;|$)", first)
    assert logs and Path(logs[1]).is_dir()
    assert any(said.startswith("Traceback") for said in rest)
