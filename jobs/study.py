"""Train a grid of objectives, flip fractions and seeds from one reference: python -m jobs.study --config FILE

Methods may also pair a model's own answers, each in its way. Every cell is a line of jobs.run: skipped where it is
committed, resumed where it was interrupted. What cells share is made first; the cells then run as processes,
`resources.study_cells` at a time, on one cluster.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from actors.survival import may_restart, outlive
from jobs.common.check import check_all, recheck
from jobs.common.saying import say, shown, tell
from jobs.common.stage import Outcome, Work, door, in_use, make, reported, say_first, write_config
from pipeline.errors import UserError
from pipeline.line.plan import Plan, Step
from pipeline.line.study import Cell, Grid, plan_study
from pipeline.results.files import write_aside

OPENED = {"train": ("*.parquet",)}
CLOCK = r"^\[[\d:]+\] "  # before every line a door says


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Train every cell of a study that is not there yet, and write its page."
    parser = door("python -m jobs.study", description, such_as="configs/study-noise.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        outlive(say)
        started = time.perf_counter()
        if not options.dry_run:
            say_first("study", options.config, options.overrides)
        grid, page = plan_study(options.config, options.overrides)
        may_restart(grid.config.resources.max_failures)
        check_all(pending_steps(grid), options.overrides)
        if options.dry_run:
            for cell, plan in grid.cells:
                missing = [step.name for step in grid.steps_of(plan) if not step.address.find()]
                tell(f"{'make' if missing else 'keep'}  {cell.name:40s} {' '.join(missing)}")
            return
        kept = {
            found.path: found
            for _, plan in grid.cells
            for step in grid.steps_of(plan)
            if (found := step.address.find())
        }
        with in_use(grid, *kept.values()) as held:
            run_cells(grid, held)
            make(grid, page)
        say(f"study: {shown(page.address.path / 'study.html')}, {time.perf_counter() - started:.1f} s")


def pending_steps(grid: Grid) -> list[tuple[Plan, list[Step]]]:
    """What is to be made of every cell."""
    return [(plan, [step for step in grid.steps_of(plan) if not step.address.find()]) for _, plan in grid.cells]


def run_cells(grid: Grid, held: ExitStack) -> None:
    """Make every cell's results; what cells share is `held` until all are made.

    Raises UserError that names the cells that failed, once the others are done.
    """
    pending = [(cell, plan) for cell, plan in grid.cells if any(not s.address.find() for s in grid.steps_of(plan))]
    say(f"study: {len(grid.cells)} cells, {len(grid.cells) - len(pending)} of them kept")
    if not pending:
        return
    from actors.cluster import address, connected

    with connected():
        make_shared(grid, held)
        require_held_out(grid)
        folder = grid.steps["prepare"].address.root / "study" / "cells"
        processes = Processes(os.environ | {"RAY_ADDRESS": address()})
        with ThreadPoolExecutor(grid.config.resources.study_cells) as pool:
            try:
                codes = list(pool.map(lambda one: processes.run(one[0], grid.study.until, folder), pending))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                processes.end()
                raise
    if failed := [cell.name for (cell, _), code in zip(pending, codes, strict=True) if code]:
        raise UserError(
            f"{len(failed)} of {len(grid.cells)} cells failed ({', '.join(failed)}); why stands above",
            f"mend the cause and run the same command; or one alone: jobs.run --config {shown(folder)}/NAME.yaml",
        )


def make_shared(grid: Grid, held: ExitStack) -> None:
    """Make what several cells read, which two processes must not both make."""
    users = Counter(step.address.path for _, plan in grid.cells for step in grid.steps_of(plan))
    for _, plan in grid.cells:
        for step in grid.steps_of(plan):
            if users[step.address.path] > 1 and not step.address.find():
                held.enter_context(make(plan, step).held())
                if step.stage == "prepare":
                    recheck(pending_steps(grid))


def require_held_out(grid: Grid) -> None:
    for step in grid.prepared.values():
        prepared = step.address.find()
        if prepared is None or prepared.manifest["metrics"]["splits"].get("dev"):
            continue
        problem = "the data have no held-out pairs, by which the cells of a study are compared"
        raise UserError(problem, "set data.dev_pairs (embedded tasks) or data.dev_fraction, or give rows of split dev")


class Processes:
    """Cells that run as processes of their own, with their lines passed on under their names."""

    def __init__(self, environment: dict[str, str]):
        self.environment = environment
        self.running: list[subprocess.Popen[str]] = []

    def run(self, cell: Cell, until: str, folder: Path) -> int:
        """Run a cell to its end; returns its exit status. Its configuration stays in `folder`, to run it alone."""
        file = folder / f"{cell.name}.yaml"
        write_config(cell.config, file)
        child = subprocess.Popen(
            [sys.executable, "-m", "jobs.run", "--config", str(file), "--until", until],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.running.append(child)
        for line in child.stdout or ():
            if "committed already, kept" not in line:
                say(f"{cell.name} | {re.sub(CLOCK, '', line.rstrip())}")
        return child.wait()

    def end(self) -> None:
        """What is running ends: nothing outlives the study."""
        for child in self.running:
            if child.poll() is None:
                child.terminate()


def run(work: Work) -> Outcome:
    """The study's page and its figures, from the cells' manifests and tables."""
    from jobs.common.study_page import study_data
    from pipeline.report.study import render_study

    assert isinstance(work.plan, Grid)
    page = study_data(work.plan, work)
    write_aside(work.folder / "study.html", render_study(page))
    pooled = [{"method": key[0], "flip_fraction": key[1], **asdict(rate)} for key, rate in page.pooled.items()]
    return Outcome({}, metrics={"cells": [asdict(cell) for cell in page.cells], "pooled": pooled})


if __name__ == "__main__":
    main()
