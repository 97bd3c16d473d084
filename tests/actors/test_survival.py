"""A door's parent, without Ray: what it makes of how its child ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.doors import REPOSITORY

# A door whose child does what `act` says in its nth attempt, while it uses Ray or not.
DOOR = """
import importlib.machinery, os, signal, sys, time
from pathlib import Path
sys.modules["__main__"].__spec__ = importlib.machinery.ModuleSpec("jobs.some", None)
from actors.survival import OnRay, may_restart, outlive, uses_ray
from jobs.common.saying import say
from jobs.common.stage import reported
attempts = Path(sys.argv[1])
with reported():
    outlive(say)
    may_restart(1)
    with attempts.open("a") as file:
        print(os.getpid(), file=file)
    attempt = len(attempts.read_text().split())
"""
OWN = "uses_ray(OnRay(True, '127.0.0.1:1', '/logs')); "
JOINED = "uses_ray(OnRay(False, '127.0.0.1:1', '/logs')); "


def opened(tmp_path: Path, act: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", f"{DOOR}    {act}\n", str(tmp_path / "attempts")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("act", "status", "attempts", "says"),
    [
        ("say('done')", 0, 1, "done"),
        ("sys.exit(3)", 3, 1, ""),
        ("os._exit(1)", 1, 1, ""),
        (OWN + "uses_ray(None); os._exit(1)", 1, 1, ""),
        (OWN + "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, 1, ""),
        (OWN + "os._exit(1) if attempt == 1 else say('done')", 0, 2, "died (/logs); all begins anew, 1 of 1 times"),
        (OWN + "os.kill(os.getpid(), signal.SIGABRT)", 2, 2, "died 2 times: resources.max_failures allows no more"),
        (JOINED + "os._exit(1)", 2, 1, "error: the Ray cluster at 127.0.0.1:1 died, or this node's part of it"),
    ],
)
def test_how_a_child_ended(tmp_path: Path, act: str, status: int, attempts: int, says: str) -> None:
    door = opened(tmp_path, act)
    said, _ = door.communicate(timeout=60)
    assert door.returncode == status and says in said and "Traceback" not in said, said
    assert len((tmp_path / "attempts").read_text().split()) == attempts


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_what_meets_the_parent_meets_the_child(tmp_path: Path, sent: int, status: int) -> None:
    door = opened(tmp_path, OWN + "time.sleep(600)")
    while not (tmp_path / "attempts").exists() or not (tmp_path / "attempts").read_text():
        assert door.poll() is None
        time.sleep(0.05)
    child = psutil.Process(int((tmp_path / "attempts").read_text()))
    assert child.pid != door.pid
    os.kill(door.pid, sent)
    said, _ = door.communicate(timeout=60)
    assert door.returncode == status and ("what is finished is kept" in said) == (sent != signal.SIGKILL)
    child.wait(timeout=10)
