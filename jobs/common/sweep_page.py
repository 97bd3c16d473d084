"""What the page of a sweep shows, gathered from the manifests and verdicts of its runs; see jobs/sweep.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jobs.common.provenance import provenance_lines
from jobs.common.stage import Work
from jobs.common.study_page import points_of
from pipeline.line.proposals import Trial, best
from pipeline.line.steps import Plan
from pipeline.line.sweep import Run, Swept, Tuning

if TYPE_CHECKING:
    from pipeline.report import sweep as page
    from pipeline.results.artifacts import Artifact


def sweep_data(swept: Swept, work: Work) -> page.SweepData:
    from pipeline.report.sweep import SweepData

    tuning, sweep = swept.tuning, swept.tuning.sweep
    one = next(iter(work.inputs.values())).manifest
    trained = [work.inputs[f"{run.name}:train"].manifest for run, _ in (*swept.runs, *swept.finals)]
    finals = {method: by_seed(swept, work, method) for method in sweep.methods}
    questions = next((len(final.points) for each in finals.values() for final in each.values()), 0)
    return SweepData(
        title=tuning.config.name,
        config={
            "sweep": sweep.model_dump(mode="json", exclude_none=True),
            **tuning.config.model_dump(mode="json", exclude={"resources"}),
        },
        provenance=provenance_lines(one["provenance"]),
        choose_by=sweep.choose_by,
        sampler=sweep.sampler,
        against=tuning.against,
        seeds=sweep.seeds,
        held_out_pairs=trained[0]["metrics"]["held_out"]["pairs"],
        questions=questions,
        scales=scales(tuning),
        methods=[method(swept, work, name, finals) for name in sweep.methods],
        trials=[shown_trial(swept, work, trial) for trial in swept.trials],
    )


def scales(tuning: Tuning) -> dict[str, str]:
    """Of every tuned setting the axis that holds the values of all methods."""
    found: dict[str, set[str]] = {}
    for name in tuning.sweep.methods:
        for setting, each in tuning.ranges(name).items():
            found.setdefault(setting, set()).add(each.scale)
    return {
        setting: next(kind for kind in ("category", "linear", "log") if kind in kinds)
        for setting, kinds in found.items()
    }


class Final:
    """What a final run came to: held-out figures, and of each test question what it counts, where it was asked."""

    def __init__(self, train: Artifact, judge: Artifact | None):
        held_out = train.manifest["metrics"]["held_out"]
        before, after = held_out.get("before"), held_out["after"]
        self.accuracy: float = after["accuracy"]
        self.moved = {side: after[side] - before[side] for side in ("chosen_logps", "rejected_logps")} if before else {}
        self.points = points_of(judge) if judge else {}
        self.met: float | None = judge.manifest["metrics"]["trained"]["share_met"]["value"] if judge else None


def by_seed(swept: Swept, work: Work, method: str) -> dict[int, Final]:
    return {
        run.seed: Final(work.inputs[f"{run.name}:train"], work.inputs.get(f"{run.name}:judge"))
        for run, _ in swept.finals
        if run.method == method and run.seed is not None
    }


def method(swept: Swept, work: Work, name: str, finals: Mapping[str, Mapping[int, Final]]) -> page.Method:
    from pipeline.report import sweep as page
    from pipeline.statistics import over_seeds, wilson

    own, theirs = finals[name], finals[swept.tuning.against]
    chosen = best(trial for trial in swept.trials if trial.method == name)
    accuracies = [final.accuracy for final in own.values()]
    pairs = next((work.inputs[f"{run.name}:train"] for run, _ in swept.finals if run.method == name), None)
    accuracy = None
    if pairs:
        of_pairs = wilson(fmean(accuracies), pairs.manifest["metrics"]["held_out"]["pairs"])
        accuracy = page.Estimate(fmean(accuracies), of_pairs, over_seeds(accuracies))
    met = [final.met for final in own.values() if final.met is not None]
    return page.Method(
        name,
        trial=chosen.number if chosen else None,
        settings=dict(chosen.settings) if chosen else {},
        figure=chosen.figure if chosen else None,
        win_rate=estimate(swept, [final.points for final in own.values()]),
        share_met=fmean(met) if met else None,
        accuracy=accuracy,
        beyond=None if name == swept.tuning.against else beyond(swept, own, theirs),
        chosen_change=moved(own, "chosen_logps"),
        rejected_change=moved(own, "rejected_logps"),
        lost=[f"{run}: {why}" for run, why in swept.lost.items() if run in names_of(swept, name)],
        **cost(swept, work, name),
    )


def names_of(swept: Swept, method: str) -> set[str]:
    return {swept.tuning.final(method, {}, seed).name for seed in swept.tuning.sweep.seeds}


def estimate(
    swept: Swept, seeds: Sequence[Mapping[str, float]], within: tuple[float, float] = (0, 1)
) -> page.Estimate | None:
    """The mean over questions and seeds of what a question counts, `within` two ends; each question is resampled with
    all its seeds.
    """
    from pipeline.report.sweep import Estimate
    from pipeline.statistics import bootstrap_mean, over_seeds

    if not seeds or not seeds[0]:
        return None
    means = [fmean(points.values()) for points in seeds]
    judge, questions = swept.tuning.config.judge, [fmean(each[name] for each in seeds) for name in seeds[0]]
    found = bootstrap_mean(questions, judge.resamples, judge.seed, within)
    return Estimate(fmean(means), found, over_seeds(means))


def beyond(swept: Swept, own: Mapping[int, Final], theirs: Mapping[int, Final]) -> page.Estimate | None:
    """The difference from the method that is compared with, seed by seed and question by question.

    Without answers it is that of held-out accuracy, of which no outcome of a single pair is kept: over seeds alone.
    """
    from pipeline.report.sweep import Estimate
    from pipeline.statistics import over_seeds

    seeds = [seed for seed in own if seed in theirs]
    if not seeds:
        return None
    if not own[seeds[0]].points:
        apart = [own[seed].accuracy - theirs[seed].accuracy for seed in seeds]
        return Estimate(fmean(apart), None, over_seeds(apart))
    differences = [
        {name: point - theirs[seed].points[name] for name, point in own[seed].points.items()} for seed in seeds
    ]
    return estimate(swept, differences, within=(-1, 1))


def moved(finals: Mapping[int, Final], side: str) -> float | None:
    changes = [final.moved[side] for final in finals.values() if final.moved]
    return fmean(changes) if changes else None


def cost(swept: Swept, work: Work, method: str) -> dict[str, Any]:
    """Steps and seconds of trainings, each once: two trials may have come to one, and a final run be a trial."""
    spent: dict[str, tuple[int, float]] = {}
    parts = {"trial": swept.runs, "final": swept.finals}
    found: dict[str, Any] = {}
    for part, runs in parts.items():
        new = {
            str(made.path): (made.manifest["metrics"]["steps"], made.manifest["seconds"])
            for run, _ in runs
            if run.method == method and str((made := work.inputs[f"{run.name}:train"]).path) not in spent
        }
        spent |= new
        found |= {f"{part}_steps": sum(steps for steps, _ in new.values())}
        found |= {f"{part}_seconds": sum(seconds for _, seconds in new.values())}
    return found


def shown_trial(swept: Swept, work: Work, trial: Trial) -> page.Trial:
    from pipeline.report import sweep as page

    runs: list[tuple[Run, Plan]] = [
        one for one in swept.runs if (one[0].method, one[0].number) == (trial.method, trial.number)
    ]
    trained = [work.inputs[f"{run.name}:train"].manifest for run, _ in runs]
    return page.Trial(
        trial.method,
        trial.number,
        dict(trial.settings),
        trial.figure,
        outcome="failed" if trial.figure is None else "stopped" if trial.pruned else "whole",
        reason=trial.reason,
        steps=sum(each["metrics"]["steps"] for each in trained),
        seconds=sum(each["seconds"] for each in trained),
    )
