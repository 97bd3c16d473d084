"""Faults injected for real: killed actors and drivers, SIGTERM, a full disk, spoilt results. Trainings' are beside.

Whatever is killed, the result that stands in the end is byte for byte that of a run that was left alone.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import REPOSITORY, made, only, refused, rows
from tests.e2e.running import PARTS, Calm, actors, beside, finish, parts, same_parts, settings, start, until

pytestmark = pytest.mark.e2e


def test_a_killed_scorer_is_replaced(scored: Calm, head: Head, tmp_path: Path) -> None:
    driver = start(head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    (scorer,) = actors(head.pid, "Scorer")
    scorer.kill()
    finish(driver)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


def test_a_pool_without_restarts_left_begins_anew_while_parts_are_finished(
    scored: Calm, head: Head, tmp_path: Path
) -> None:
    driver = start(head, "reference", *beside(scored, tmp_path, "prepare"), "resources.max_failures=0")
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    (scorer,) = actors(head.pid, "Scorer")
    scorer.kill()
    assert "reference: an actor died too often (resources.max_failures); a new pool makes" in finish(driver)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


@pytest.mark.parametrize(("stage", "title"), [("reference", "Scorer"), ("train", "RayTrainWorker")])
def test_a_process_that_dies_each_time_ends_the_stage(
    scored: Calm, trained: Calm, head: Head, tmp_path: Path, stage: str, title: str
) -> None:
    """Killed as soon as it is seen, as a kernel does that has no memory for it."""
    calm = scored if stage == "reference" else trained
    inputs = ("prepare",) if stage == "reference" else ("prepare", "reference", "schedule")
    driver = start(head, stage, *beside(calm, tmp_path, *inputs))

    deadline = time.monotonic() + 300
    while driver.poll() is None:
        assert time.monotonic() < deadline
        for process in actors(head.pid, title):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
    said, _ = driver.communicate()
    assert driver.returncode == 2 and "Traceback" not in said, said
    assert "error: the process of an actor died, again after every restart that resources.max_failures allows" in said
    logs = re.search(r"remedy: Ray's logs in (\S+) say more", said)
    assert logs and Path(logs[1]).is_dir()


def test_ray_itself_dies(scored: Calm, tmp_path: Path) -> None:
    """By the agent without which a raylet ends, and its driver with it. Ray was the door's own: all begins anew, once.
    The second time it is told."""
    given = (*beside(scored, tmp_path, "prepare"), "resources.max_failures=1")
    driver = start(None, "reference", *given)
    for count in (3, 6):
        until(lambda least=count: len(list(tmp_path.glob(PARTS))) >= least, driver)  # type: ignore[misc]
        for agent in actors(driver.pid, "ray::RuntimeEnvAgent" if count == 3 else "gcs_server"):
            agent.kill()
        if count == 3:
            until(lambda: not actors(driver.pid, "Scorer"), driver)
            until(lambda: actors(driver.pid, "Scorer"), driver)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2 and "Traceback" not in said and "raylet" not in said, said
    assert "all begins anew, 1 of 1 times" in said and "parts are finished already and kept" in said
    assert "error: Ray, which was started here, died 2 times: resources.max_failures allows no more" in said


def test_a_generator_killed_in_mid_shard_is_replaced(line: Line, head: Head, tmp_path: Path) -> None:
    """Stopped once its first shard is there and it is at the second; shards here take a fifth of a second."""
    driver = start(head, "generate", *settings(line, tmp_path, "prepare", "reference", "schedule", "train"))
    until(lambda: actors(head.pid, "Generator"), driver)
    generators = actors(head.pid, "Generator")
    shards = "generate/tiny-*.partial/part-*.parquet"
    until(lambda: list(tmp_path.glob(shards)), driver, pause=0.002)
    for generator in generators:
        generator.suspend()
    assert len(list(tmp_path.glob(shards))) == 1
    for generator in generators:
        generator.kill()
    finish(driver)
    for label in ("tiny-*", "gamma-dpo-*"):
        assert rows(only(line.root, "generate", label)) == rows(only(tmp_path, "generate", label))


def test_answers_outlive_a_killed_driver(line: Line, head: Head, tmp_path: Path) -> None:
    given = settings(line, tmp_path, "prepare", "reference", "schedule", "train")
    driver = start(head, "generate", *given)
    shards = "generate/tiny-*.partial/part-*.parquet"
    until(lambda: list(tmp_path.glob(shards)), driver, pause=0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    said = made("generate", *given, environment=head.environment)
    assert re.search(r"generate:base: [12] of 2 parts are finished already and kept", said), said
    for label in ("tiny-*", "gamma-dpo-*"):
        assert same_parts(only(line.root, "generate", label), only(tmp_path, "generate", label))


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


def test_sigterm_ends_a_pool_in_one_line(scored: Calm, head: Head, tmp_path: Path) -> None:
    driver = start(head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: list(tmp_path.glob(PARTS)), driver)
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143 and "Traceback" not in said
    assert "terminated; what is finished is kept" in said.splitlines()[-1]


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
