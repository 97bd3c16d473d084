"""Doors that are left running, to be interrupted: shared by the tests of a cluster and of faults."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.e2e.doors import REPOSITORY, command

if TYPE_CHECKING:
    from tests.e2e.conftest import Head, Line

# Many small parts: a reference stage that is still at work when it is interrupted.
MANY = ("data.pairs=320", "data.dev_pairs=0", "data.shard_pairs=2", "resources.log_seconds=1")


def settings(line: "Line", root: Path, *stages: str) -> tuple[str, str]:
    for stage in stages:
        shutil.copytree(line.root / stage, root / stage)
    return line.settings[0], f"resources.root={root}"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


def start(head: "Head", stage: str, *arguments: str) -> "subprocess.Popen[str]":
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


def actors(head: "Head", title: str) -> list[psutil.Process]:
    """Ray's processes whose title holds `title`: that of an actor is its class, and the method while it runs one."""
    found = []
    for process in psutil.Process(head.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found
