"""Tune methods alike and compare what was chosen: python -m jobs.sweep --config FILE [section.key=value ...]

Optuna proposes settings within ranges; a trial is a line of jobs.run, kept once it is made and resumed where it was
interrupted, `resources.study_cells` at a time. What scores best on the dev split is trained once more for every seed,
and answers the test questions. The page shows both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from actors.survival import may_restart, outlive
from jobs.common.cells import Planned, pending
from jobs.common.check import check_all
from jobs.common.saying import say, shown, tell
from jobs.common.stage import Outcome, Work, door, make, reported, say_first
from jobs.common.tuning import Tuner, described, planned
from pipeline.errors import UserError
from pipeline.line.proposals import Record, require_optuna
from pipeline.line.steps import Plan
from pipeline.line.sweep import Run, Swept, Tuning, plan_sweep
from pipeline.results.files import write_aside
from pipeline.results.locks import exclusive

OPENED = {"train": ()}  # their manifests say what is shown of trainings


def main(arguments: Sequence[str] | None = None) -> None:
    description = "Tune every method of a sweep within its ranges, train what was chosen, and write the page."
    parser = door("python -m jobs.sweep", description, such_as="configs/bench/noise.yaml")
    parser.add_argument("--dry-run", action="store_true", help="say what would be tried, and make nothing")
    parser.add_argument("--retry-failed", action="store_true", help="try trials again that failed")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        outlive(say)
        started = time.perf_counter()
        if not options.dry_run:
            say_first("sweep", options.config, options.overrides)
        require_optuna()
        tuning = plan_sweep(options.config, options.overrides)
        may_restart(tuning.config.resources.max_failures)
        known = foreseen(tuning)
        firsts = {run.method: run for run, _ in reversed(known)}.values()
        finals = [planned(tuning.final(run.method, run.settings, tuning.sweep.seeds[0])) for run in firsts]
        looked = pending(known, tuning.trials_until) + pending(finals, tuning.sweep.until)
        check_all(looked, options.overrides)
        if options.dry_run:
            foretell(tuning, known)
            return
        with held(tuning), contextlib.ExitStack() as cluster:
            tuner = Tuner(tuning, Record(tuning.folder / "optuna.log"), cluster, options.retry_failed)
            swept = tuner.finish(tuner.tune())
            page = make(swept, swept.step())
        failed = sum(trial.figure is None for trial in swept.trials) + len(swept.lost)
        total = len(swept.trials) + len(swept.finals) + len(swept.lost)
        more = f", {failed} of {total} runs failed (--retry-failed tries them again)" if failed else ""
        say(f"sweep: {shown(page.path / 'sweep.html')}{more}, {time.perf_counter() - started:.1f} s")


def foreseen(tuning: Tuning) -> list[tuple[Run, Plan]]:
    """The trials whose settings no figure decides: all of them at random, the first batch otherwise.

    Raises UserError where settings that each may be do not go together.
    """
    sweep, found = tuning.sweep, list[tuple[Run, Plan]]()
    numbers = range(sweep.trials) if sweep.sampler == "random" else tuning.batches()[0]
    for method in sweep.methods:
        for number in numbers[: tuning.trials(method)]:
            settings = tuning.proposed(method, number)
            try:
                found.append(planned(tuning.trial(method, number, settings, tuning.lengths[0])))
            except UserError as error:
                problem = f"{error.problem} (trial {number}: {described(settings)})"
                raise UserError(problem, error.remedy) from None
    return found


def foretell(tuning: Tuning, known: Planned) -> None:
    for run, plan in known:
        assert isinstance(run, Run)
        missing = [step.name for step in plan.until(tuning.trials_until) if not step.address.find()]
        tell(f"{'make' if missing else 'keep'}  {run.name:32s} {described(run.settings)}")
    count = sum(map(tuning.trials, tuning.sweep.methods))
    seeds = len(tuning.sweep.methods) * len(tuning.sweep.seeds)
    tell(f"{count} trials, of which {count - len(known)} follow from figures; then {seeds} final runs")


@contextlib.contextmanager
def held(tuning: Tuning) -> Iterator[None]:
    """The sweep is this process's alone. Raises UserError where another is at it."""
    tuning.folder.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(tuning.folder / ".lock"):
            yield
    except BlockingIOError:
        problem = f"another process is at this sweep ({shown(tuning.folder)})"
        raise UserError(problem, "wait for it, then run this command again") from None


def run(work: Work) -> Outcome:
    """The sweep's page, its tables for other tools, and its figures."""
    from jobs.common.sweep_page import sweep_data
    from pipeline.report.sweep import render_sweep
    from pipeline.report.sweep_tables import tables

    assert isinstance(work.plan, Swept)
    data = sweep_data(work.plan, work)
    write_aside(work.folder / "sweep.html", render_sweep(data))
    for name, text in tables(data).items():
        write_aside(work.folder / name, text)
    figures = {"methods": [asdict(each) for each in data.methods], "trials": [asdict(each) for each in data.trials]}
    return Outcome({}, metrics=figures)


if __name__ == "__main__":
    main()
