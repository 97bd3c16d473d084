"""Tune methods alike and compare what was chosen: python -m jobs.sweep --config FILE [section.key=value ...]

Optuna proposes settings within ranges; a trial is a line of jobs.run, kept once it is made and resumed where it was
interrupted, `resources.study_cells` at a time. What scores best on the dev split is trained once more for every seed,
and answers the test questions. The page shows both.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.survival import may_restart, outlive
from jobs.common.cells import Ended, Planned, pending, run_cells, unfinished
from jobs.common.check import check_all
from jobs.common.saying import say, shown, tell
from jobs.common.stage import Outcome, Work, door, make, reported, say_first
from pipeline.errors import UserError
from pipeline.line.plan import Plan, make_plan
from pipeline.line.proposals import Record, Trial, best, require_optuna
from pipeline.line.sweep import Run, Swept, Tuning, plan_sweep
from pipeline.results.address import HELD
from pipeline.results.files import write_aside
from pipeline.results.locks import exclusive

OPENED = {"train": ()}  # their manifests say what is shown of trainings
OURS = (0, 1, 2)  # exit statuses that a line ends with by itself

Key = tuple[str, int]  # a method and the number of its trial


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


def says_of_itself(end: Ended) -> bool:
    """Whether a run's end tells of its settings: it was not killed, nor is it made by another."""
    return end.status in OURS and not end.error.startswith(HELD)


def planned(run: Run) -> tuple[Run, Plan]:
    return run, make_plan(run.config)


def foreseen(tuning: Tuning) -> list[tuple[Run, Plan]]:
    """The trials whose settings no figure decides: all of them at random, the first batch otherwise."""
    sweep = tuning.sweep
    numbers = range(sweep.trials) if sweep.sampler == "random" else tuning.batches()[0]
    return [
        planned(tuning.trial(method, number, tuning.proposed(method, number), tuning.lengths[0]))
        for method in sweep.methods
        for number in numbers
        if number < tuning.trials(method)
    ]


def foretell(tuning: Tuning, known: Planned) -> None:
    for run, plan in known:
        assert isinstance(run, Run)
        missing = [step.name for step in plan.until(tuning.trials_until) if not step.address.find()]
        tell(f"{'make' if missing else 'keep'}  {run.name:32s} {described(run.settings)}")
    count = sum(map(tuning.trials, tuning.sweep.methods))
    seeds = len(tuning.sweep.methods) * len(tuning.sweep.seeds)
    tell(f"{count} trials, of which {count - len(known)} follow from figures; then {seeds} final runs")


def described(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


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


@dataclass
class Tuner:
    """Makes trials and final runs, and keeps in mind how they ended."""

    tuning: Tuning
    record: Record
    cluster: contextlib.ExitStack  # which Ray is started in once something is to be made, for all that follows
    retry_failed: bool
    trials: dict[str, list[Trial]] = field(init=False)
    runs: list[tuple[Run, Plan]] = field(default_factory=list)  # of trials, whose results are there

    def __post_init__(self) -> None:
        self.trials = {method: [] for method in self.tuning.sweep.methods}

    def tune(self) -> dict[str, Trial]:
        """The trial that is chosen for each method. Raises UserError where every trial of all methods failed."""
        for numbers in self.tuning.batches():
            self.batch(numbers)
        chosen = {}
        for method, trials in self.trials.items():
            if one := best(trials):
                chosen[method] = one
                say(f"sweep: {method}: trial {one.number} is chosen, {one.figure:.3f} ({described(one.settings)})")
            else:
                say(f"sweep: {method}: none of {len(trials)} trials came to an end")
        if not chosen:
            first = next(trial for trials in self.trials.values() for trial in trials)
            problem = f"every trial failed, such as {first.method} {first.number}: {first.reason}"
            raise UserError(problem, "mend the cause, or give other ranges; --retry-failed tries them again")
        return chosen

    def batch(self, numbers: range) -> None:
        """Trials proposed together: of each method the better ones go on, as far as the sweep shortens them."""
        tuning = self.tuning
        proposed: dict[Key, dict[str, Any]] = {
            (method, number): tuning.proposed(method, number, before)
            for method, before in self.trials.items()
            for number in numbers
            if number < tuning.trials(method)
        }
        short: dict[Key, tuple[float, ...]] = dict.fromkeys(proposed, ())
        going, ended = list(proposed), dict[Key, Trial]()
        for length in tuning.lengths:
            figures = self.figures({key: proposed[key] for key in going}, length)
            for key, figure in figures.items():
                if isinstance(figure, str):
                    ended[key] = Trial(*key, proposed[key], None, figure, short[key])
                elif length is None:
                    ended[key] = Trial(*key, proposed[key], figure, short=short[key])
                else:
                    short[key] = (*short[key], figure)
            going = [key for key in going if key not in ended]
            better = self.better(going, short) if length is not None else going
            for key in set(going) - set(better):
                ended[key] = Trial(*key, proposed[key], short[key][-1], short=short[key], pruned=True)
            going = better
        for key in proposed:  # in their order, whatever the order in which they ended
            self.trials[key[0]].append(ended[key])
            self.record.add(ended[key], tuning.ranges(key[0]))

    def better(self, going: Sequence[Key], short: Mapping[Key, tuple[float, ...]]) -> list[Key]:
        """Of each method the share that goes on, one at least, by the figure of the run that just ended."""
        halving = self.tuning.sweep.halving
        assert halving is not None
        found: list[Key] = []
        for method in self.trials:
            own = sorted((key for key in going if key[0] == method), key=lambda key: (-short[key][-1], key[1]))
            found += own[: math.ceil(halving.keep * len(own))]
        return found

    def figures(self, proposed: Mapping[Key, dict[str, Any]], length: int | None) -> dict[Key, float | str]:
        """What each trial is chosen by after a run of this length, or why it failed."""
        tuning, found = self.tuning, dict[Key, float | str]()
        cells: dict[Key, tuple[Run, Plan]] = {}
        for (method, number), settings in proposed.items():
            failure = self.record.failure(method, number, settings, tuning.ranges(method))
            try:
                if failure and not self.retry_failed:
                    found[method, number] = failure
                else:
                    cells[method, number] = planned(tuning.trial(method, number, settings, length))
            except UserError as error:
                found[method, number] = error.problem
        for (key, cell), why in zip(cells.items(), self.made(list(cells.values()), tuning.trials_until), strict=True):
            figure = why or self.figure(cell[1])
            finite = isinstance(figure, str) or math.isfinite(figure)
            found[key] = figure if finite else f"its {tuning.sweep.choose_by} is not finite"
            if not why:
                self.runs.append(cell)
        return found

    def figure(self, plan: Plan) -> float:
        (step,) = plan.of(self.tuning.trials_until)
        result = step.address.find()
        assert result is not None
        metrics = result.manifest["metrics"]
        if self.tuning.sweep.choose_by == "accuracy":
            return float(metrics["held_out"]["after"]["accuracy"])
        return float(metrics["comparison"]["rate"]["value"])

    def made(self, cells: Planned, until: str) -> list[str]:
        """Make what is missing of the cells; why each of them failed, and nothing where it did not.

        Raises UserError where some were ended from outside: that says nothing about their settings.
        """
        last = [plan.of(until)[-1].address.path for _, plan in cells]
        alike = dict(zip(last, cells, strict=True))  # two trials may have come to the same settings
        missing, why = unfinished(list(alike.values()), until), {}
        say(f"sweep: {len(alike) - len(missing)} of {len(alike)} runs kept")
        if missing:
            from actors.cluster import connected

            self.cluster.enter_context(connected())
            resources = self.tuning.config.resources
            ended = run_cells(missing, until, self.tuning.folder, resources.study_cells, self.cluster)
            outside = [cell.name for (cell, _), end in zip(missing, ended, strict=True) if not says_of_itself(end)]
            if outside:
                problem = f"{len(outside)} runs were ended, or are made, by others ({', '.join(outside)})"
                raise UserError(problem, "run the same command again, once they are done: what is finished is kept")
            for (_, plan), end in zip(missing, ended, strict=True):
                if end.status:
                    why[plan.of(until)[-1].address.path] = end.error or f"exit status {end.status}"
        return [why.get(path, "") for path in last]

    def finish(self, chosen: Mapping[str, Trial]) -> Swept:
        """The chosen settings with every seed."""
        tuning = self.tuning
        cells = [
            planned(tuning.final(method, trial.settings, seed))
            for method, trial in chosen.items()
            for seed in tuning.sweep.seeds
        ]
        why = self.made(cells, tuning.sweep.until)
        there = tuple(cell for cell, reason in zip(cells, why, strict=True) if not reason)
        lost = {run.name: reason for (run, _), reason in zip(cells, why, strict=True) if reason}
        base = {name: getattr(tuning, name) for name in Plan.__dataclass_fields__}
        trials = tuple(trial for trials in self.trials.values() for trial in trials)
        return Swept(**base, tuning=tuning, trials=trials, runs=tuple(self.runs), finals=there, lost=lost)


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
