"""Trials of a sweep: made batch by batch, stopped early, counted where they fail, chosen from; see jobs/sweep.py."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.common.cells import Ended, Planned, require_held_out, run_cells, unfinished
from jobs.common.epoch import SMALL_DISK
from jobs.common.saying import say
from pipeline.errors import UNWRITTEN, UserError
from pipeline.line.plan import make_plan
from pipeline.line.proposals import Record, Trial, best
from pipeline.line.steps import Plan
from pipeline.line.sweep import Run, Swept, Tuning
from pipeline.results.address import HELD, NOWHERE
from pipeline.settings.sweep import label

OURS = (0, 1, 2)  # exit statuses that a line ends with by itself
NOT_OURS = (HELD, UNWRITTEN, NOWHERE, SMALL_DISK)  # what it says then that is of others, or of the disk

Key = tuple[str, int]  # a method and the number of its trial


def planned(run: Run) -> tuple[Run, Plan]:
    return run, make_plan(run.config)


def described(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value if isinstance(value, str) else label(value)}" for name, value in settings.items())


def says_of_itself(end: Ended) -> bool:
    """Whether a run's end tells of its settings: it was not killed, another is not making it, and there was room."""
    return end.status in OURS and not any(said in end.error for said in NOT_OURS)


def reason(end: Ended) -> str:
    return end.error or f"exit status {end.status}"


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
                cell = planned(tuning.trial(method, number, settings, length))
                if failure and not self.retry_failed and unfinished([cell], tuning.trials_until):
                    found[method, number] = failure  # where there is a result, that counts
                else:
                    cells[method, number] = cell
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

        Raises UserError where some ended for what says nothing about their settings.
        """
        last = [plan.of(until)[-1].address.path for _, plan in cells]
        alike = dict(zip(last, cells, strict=True))  # two trials may have come to the same settings
        missing, why = unfinished(list(alike.values()), until), {}
        require_held_out(list(alike.values()))  # of those that jobs.run made, too
        say(f"sweep: {len(alike) - len(missing)} of {len(alike)} runs kept")
        if missing:
            from actors.cluster import connected

            self.cluster.enter_context(connected())
            resources = self.tuning.config.resources
            ended = run_cells(missing, until, self.tuning.folder, resources.study_cells, self.cluster)
            ends = [(cell.name, end) for (cell, _), end in zip(missing, ended, strict=True)]
            if outside := [f"{name}: {reason(end)}" for name, end in ends if not says_of_itself(end)]:
                problem = f"{len(outside)} runs were ended or are made by others, or had no room ({'; '.join(outside)})"
                raise UserError(problem, "run the same command again, once that is over: what is finished is kept")
            for (_, plan), end in zip(missing, ended, strict=True):
                if end.status:
                    why[plan.of(until)[-1].address.path] = reason(end)
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
