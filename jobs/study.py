"""Train a grid of objectives, flip fractions and seeds from one reference: python -m jobs.study --config FILE

Methods may also pair a model's own answers, each in its way. Every cell is a line of jobs.run: skipped where it is
committed, resumed where it was interrupted. What cells share is made first; the cells then run as processes,
`resources.study_cells` at a time, on one cluster.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from actors.survival import may_restart, outlive
from jobs.common.cells import pending, require_held_out, run_cells, unfinished
from jobs.common.check import check_all
from jobs.common.saying import say, shown, tell
from jobs.common.stage import Outcome, Work, door, in_use, make, reported, say_first
from pipeline.errors import UserError
from pipeline.line.study import Grid, plan_study
from pipeline.results.files import write_aside

OPENED = {"train": ("*.parquet",)}


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
        check_all(pending(grid.cells, grid.study.until), options.overrides)
        if options.dry_run:
            for cell, plan in grid.cells:
                missing = [step.name for step in plan.until(grid.study.until) if not step.address.find()]
                tell(f"{'make' if missing else 'keep'}  {cell.name:40s} {' '.join(missing)}")
            return
        kept = {
            found.path: found
            for _, plan in grid.cells
            for step in plan.until(grid.study.until)
            if (found := step.address.find())
        }
        with in_use(grid, *kept.values()) as held:
            run_grid(grid, page.address.path.parent / "cells" / page.address.path.name, held)
            make(grid, page)
        say(f"study: {shown(page.address.path / 'study.html')}, {time.perf_counter() - started:.1f} s")


def run_grid(grid: Grid, folder: Path, held: ExitStack) -> None:
    """Make every cell's results; what cells share is `held` until all are made.

    Each is run from its file in `folder`, which no other study has: cells of several may be called alike. Raises
    UserError that names the cells that failed, once the others are done.
    """
    missing = unfinished(grid.cells, grid.study.until)
    require_held_out(grid.cells)  # of those that jobs.run made, too
    say(f"study: {len(grid.cells)} cells, {len(grid.cells) - len(missing)} of them kept")
    if not missing:
        return
    ended = run_cells(missing, grid.study.until, folder, grid.config.resources.study_cells, held)
    if failed := [cell.name for (cell, _), end in zip(missing, ended, strict=True) if end.status]:
        raise UserError(
            f"{len(failed)} of {len(grid.cells)} cells failed ({', '.join(failed)}); why stands above",
            f"mend the cause and run the same command; or one alone: jobs.run --config {shown(folder)}/NAME.yaml",
        )


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
