"""Forced runs through the doors: the committed result stays until another is committed, however they end."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from pipeline.results.files import MANIFEST
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only, refused
from tests.e2e.running import (
    PARTS,
    Calm,
    beside,
    finish,
    knows_a_checkpoint,
    same_parts,
    same_training,
    settings,
    start,
    until,
)

pytestmark = pytest.mark.e2e

INPUTS = {
    "reference": ("prepare",),
    "schedule": ("prepare", "reference"),
    "train": ("prepare", "reference", "schedule"),
    "generate": ("prepare", "reference", "schedule", "train"),
    "judge": ("prepare", "reference", "schedule", "train", "generate"),
    "report": ("prepare", "reference", "schedule", "train", "generate", "judge"),
}
TOO_MANY = {"reference": "scorers", "train": "train_workers", "generate": "generators"}


def bytes_of(root: Path, stage: str) -> dict[str, bytes]:
    """Every file of a stage's folder, whatever it is."""
    folder = root / stage
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("stage", TOO_MANY)
def test_more_actors_than_there_are_places(line: Line, head: Head, tmp_path: Path, stage: str) -> None:
    given = settings(line, tmp_path, *INPUTS[stage], stage)
    before = bytes_of(tmp_path, stage)
    told = refused(stage, *given, f"resources.{TOO_MANY[stage]}=9", "--force", environment=head.environment)
    assert "9 actors, but the cluster has 2 CPUs" in told
    assert bytes_of(tmp_path, stage) == before  # and no lock and no part beside it
    assert "committed already, kept" in made(stage, *given)


@pytest.mark.parametrize("stage", ["schedule", "judge", "report"])
def test_an_input_that_is_spoilt(line: Line, tmp_path: Path, stage: str) -> None:
    given = settings(line, tmp_path, *INPUTS[stage], stage)
    before = bytes_of(tmp_path, stage)
    spoilt = "prepare" if stage == "schedule" else "generate"
    (part, *_) = sorted((tmp_path / spoilt).glob("*/part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    refused(stage, *given, "--force")
    assert bytes_of(tmp_path, stage) == before
    part.write_bytes(whole)
    made(stage, *given, "--force")
    assert (only(tmp_path, stage) / MANIFEST).read_bytes() != before[f"{only(tmp_path, stage).name}/{MANIFEST}"]


def test_a_disk_that_is_full(line: Line, small_disk: Path) -> None:
    given = settings(line, small_disk, "prepare")
    before = bytes_of(small_disk, "prepare")
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * (shutil.disk_usage(small_disk).free - 8192))
    assert "No space left on device" in refused("prepare", *given, "--force")
    kept = only(small_disk, "prepare")
    assert {f"{kept.name}/{file.name}": file.read_bytes() for file in kept.iterdir()} == before
    filler.unlink()
    made("prepare", *given, "--force")


def test_a_forced_reference_that_is_killed_goes_on_where_it_was(scored: Calm, head: Head, tmp_path: Path) -> None:
    given = beside(scored, tmp_path, "prepare", "reference")
    before = bytes_of(tmp_path, "reference")
    driver = start(head, "reference", *given, "--force")
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate()
    kept = only(tmp_path, "reference")
    assert before.items() <= bytes_of(tmp_path, "reference").items()
    assert "committed already, kept" in made("reference", *given)
    told = made("status", *given)
    assert "committed" in told and f"rm -r {tmp_path}/reference/{kept.name}.partial" in told
    said = made("reference", *given, "--force", environment=head.environment)
    assert "parts are finished already and kept" in said
    assert (kept / MANIFEST).read_bytes() != before[f"{kept.name}/{MANIFEST}"]
    assert same_parts(only(scored.root, "reference"), kept)
    assert [path.name for path in (tmp_path / "reference").iterdir()] == [kept.name]  # no lock, no part, nothing old


def test_a_forced_training_that_is_interrupted_and_then_made(trained: Calm, head: Head, tmp_path: Path) -> None:
    given = beside(trained, tmp_path, "prepare", "reference", "schedule", "train")
    before = bytes_of(tmp_path, "train")
    driver = start(head, "train", *given, "--force")
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    os.kill(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert before.items() <= bytes_of(tmp_path, "train").items()
    said = finish(start(head, "train", *given, "--force"))
    assert "steps are in a checkpoint and kept" in said and "train: starting 1 worker" in said
    folder = only(tmp_path, "train")
    assert said.splitlines()[-1].endswith(f"trained model: {folder / 'model'}")
    assert (folder / MANIFEST).read_bytes() != before[f"{folder.name}/{MANIFEST}"]
    assert same_training(only(trained.root, "train"), folder)
    assert [path.name for path in (tmp_path / "train").iterdir()] == [folder.name]
