"""Lines of jobs.run side by side, as processes on one cluster. What several of them read is made once, before.

A study's cells and a sweep's trials are such lines: each is a configuration in a file of its own, skipped where it is
committed, resumed where it was interrupted, and can be run alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jobs.common.check import recheck
from jobs.common.saying import say
from jobs.common.stage import make, write_config
from pipeline.errors import UserError
from pipeline.line.steps import Plan, Step
from pipeline.settings.config import RunConfig

CLOCK = r"^\[[\d:]+\] "  # before every line a door says


class Cell(Protocol):
    """A configuration with a name that is good for a file and for a line of progress."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> RunConfig: ...


Planned = Sequence[tuple[Cell, Plan]]


@dataclass(frozen=True)
class Ended:
    """How a cell's process ended: its exit status, and the last error that it told."""

    status: int
    error: str = ""


def pending(cells: Planned, until: str) -> list[tuple[Plan, list[Step]]]:
    """What is to be made of every cell."""
    return [(plan, [step for step in plan.until(until) if not step.address.find()]) for _, plan in cells]


def unfinished(cells: Planned, until: str) -> Planned:
    """The cells of which something is to be made."""
    return [cell for cell, (_, steps) in zip(cells, pending(cells, until), strict=True) if steps]


def run_cells(cells: Planned, until: str, folder: Path, at_a_time: int, held: ExitStack) -> list[Ended]:
    """Make what is missing of each cell, up to a stage, and say how each ended, in their order.

    Their configurations stay in `folder`; what they share is `held`, so that jobs.prune leaves it. Raises UserError
    where what they share cannot be made, or the data have no held-out pairs to compare them by.
    """
    from actors.cluster import address, connected

    with connected():
        make_shared(cells, until, held)
        require_held_out(cells)
        processes = Processes(os.environ | {"RAY_ADDRESS": address()})
        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                return list(pool.map(lambda one: processes.run(one[0], until, folder), cells))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                processes.end()
                raise


def make_shared(cells: Planned, until: str, held: ExitStack) -> None:
    """Make what several cells read, which two processes must not both make."""
    users = Counter(step.address.path for _, plan in cells for step in plan.until(until))
    shared = {
        step.address.path: (plan, step)
        for _, plan in cells
        for step in plan.until(until)
        if users[step.address.path] > 1
    }
    for plan, step in shared.values():
        made = step.address.find()
        held.enter_context((made or make(plan, step)).held())
        if not made and step.stage == "prepare":
            recheck(pending(cells, until))


def require_held_out(cells: Planned) -> None:
    """Raise UserError where prepared pairs hold none to compare cells by."""
    for _, plan in cells:
        prepared = plan.steps["prepare"].address.find()
        if prepared and not prepared.manifest["metrics"]["splits"].get("dev"):
            problem = "the data have no held-out pairs, by which cells are compared"
            remedy = "set data.dev_pairs (embedded tasks) or data.dev_fraction, or give rows of split dev"
            raise UserError(problem, remedy)


class Processes:
    """Cells that run as processes of their own, with their lines passed on under their names."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        self.running: list[subprocess.Popen[str]] = []
        self.lock, self.ended = threading.Lock(), False

    def run(self, cell: Cell, until: str, folder: Path) -> Ended:
        """Run a cell to its end. Its configuration stays in `folder`, to run it alone."""
        file = folder / f"{cell.name}.yaml"
        write_config(cell.config, file)
        with self.lock:
            if self.ended:
                return Ended(-signal.SIGTERM)
            child = self._started([sys.executable, "-m", "jobs.run", "--config", str(file), "--until", until])
            self.running.append(child)
        error = ""
        for line in child.stdout or ():
            told = re.sub(CLOCK, "", line.rstrip())
            if told.startswith(("error: ", "failed unexpectedly")):
                error = told.removeprefix("error: ")
            if "committed already, kept" not in told:
                say(f"{cell.name} | {told}")
        return Ended(child.wait(), error)

    def _started(self, command: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def end(self) -> None:
        """What is running ends, and no other begins; returns once it has, as a training first writes a checkpoint."""
        with self.lock:
            self.ended = True
        for child in self.running:
            if child.poll() is None:
                child.terminate()
        for child in self.running:
            child.wait()
