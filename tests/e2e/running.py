"""Doors that are left running, to be interrupted: shared by the tests of a cluster and of faults."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from pipeline.results.files import file_digest
from tests.e2e.doors import REPOSITORY, command

if TYPE_CHECKING:
    from tests.e2e.conftest import Head, Line

# Many small parts: a reference stage that is still at work when it is interrupted.
MANY = ("data.pairs=320", "data.dev_pairs=0", "data.shard_pairs=2", "resources.log_seconds=1")
# A training of 80 steps of milliseconds each.
LONG = ("train.batch_size=1", "resources.checkpoint_steps=8", "objective.tau=0.5", "schedule.epochs=5")
PARTS = "reference/*.partial/part-*.parquet"
SNAPSHOT = "train/*.partial/ray/checkpoint_manager_snapshot.json"  # Ray Train's list of the checkpoints it knows


@dataclass(frozen=True)
class Calm:
    """A root whose results were made without a fault."""

    root: Path
    settings: tuple[str, ...]


def settings(line: "Line", root: Path, *stages: str) -> tuple[str, str]:
    for stage in stages:
        shutil.copytree(line.root / stage, root / stage)
    return line.settings[0], f"resources.root={root}"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def start(
    head: "Head | None", stage: str, *arguments: str, config: str = "configs/smoke.yaml"
) -> "subprocess.Popen[str]":
    """A door left running, in a process group of its own and open to Ctrl-C; on its own Ray where no head is given.

    A shell that runs the tests in the background has Ctrl-C ignored by everything below it.
    """
    return subprocess.Popen(
        command(stage, *arguments, config=config),
        cwd=REPOSITORY,
        env=os.environ | (head.environment if head else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def submit(head: "Head", stage: str, *arguments: str) -> str:
    """What a door says that runs, and must succeed, as a job of `head`, with the repository uploaded."""
    job = submitting(head, "--working-dir", ".", entrypoint=command(stage, *arguments))
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    return said


def submitting(head: "Head", *options: str, entrypoint: list[str]) -> "subprocess.Popen[str]":
    """A job left running. Without --working-dir it runs where the head does, as an image's would.

    With several nodes on one machine it must: each unpacks what is uploaded to the one place, in place of the others'.
    """
    ray = str(Path(sys.executable).parent / "ray")
    job = [ray, "job", "submit", "--address", head.dashboard, *options, "--", "python", *entrypoint[1:]]
    environment = os.environ | head.token
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(job, cwd=REPOSITORY, env=environment, **pipes)


def stop_job(head: "Head", name: str) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    stop = [ray, "job", "stop", "--address", head.dashboard, name]
    subprocess.run(stop, env=os.environ | head.token, capture_output=True, check=True, timeout=120)


def until(
    condition: Callable[[], object],
    process: "subprocess.Popen[str] | None" = None,
    seconds: float = 300,
    pause: float = 0.02,
) -> None:
    """Wait for it, as long as the process that is to bring it about runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(pause)


def finish(driver: "subprocess.Popen[str]", seconds: float = 300) -> str:
    said, _ = driver.communicate(timeout=seconds)
    assert driver.returncode == 0, said
    return said


def actors(pid: int, title: str) -> list[psutil.Process]:
    """Ray's processes below `pid` whose title holds `title`: an actor's is its class, and the method that it runs."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


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


def as_within_rounding(calm: Calm, one: Path, other: Path) -> None:
    """What two trainings of other numbers of workers agree in, within the bounds that hold for float32."""
    pairs = [pq.read_table(folder / "trained_pairs.parquet").to_pylist() for folder in (one, other)]
    assert [(row["step"], row["pair_id"]) for row in pairs[0]] == [(row["step"], row["pair_id"]) for row in pairs[1]]
    assert max(abs(a["margin"] - b["margin"]) for a, b in zip(*pairs, strict=True)) <= 1e-5
    source = calm.settings[0].removeprefix("model.source=")
    (base,) = (*Path(source).glob("*.safetensors"), *calm.root.glob("model/*/*.safetensors"))
    assert 0 < apart(base.parent, one / "model", other / "model") <= 1e-3


def apart(base: Path, one: Path, other: Path) -> float:
    """How far the weights in two folders are from each other, over how far the first moved from the base model's."""
    weights = [load_file(folder / "model.safetensors") for folder in (base, one, other)]
    assert weights[0].keys() == weights[1].keys() == weights[2].keys()
    moved, off = (
        torch.cat([(a[name] - b[name]).flatten() for name in a]).norm()
        for a, b in ((weights[1], weights[0]), (weights[1], weights[2]))
    )
    assert moved > 0
    return float(off / moved)


def newest(root: Path) -> dict[str, Any]:
    """What the first worker of a training last wrote down of its steps."""
    (file,) = root.glob("train/*.partial/progress.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def knows_a_checkpoint(root: Path) -> bool:
    return any("step-" in file.read_text() for file in root.glob(SNAPSHOT))
