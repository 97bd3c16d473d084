"""The page of a sweep: methods as they were chosen, and every trial that they were chosen from.

    html = render_sweep(SweepData(title="label noise", ...))

A method has one look in every figure, as on the page of a study.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.looks import Look, looks_of, trace
from pipeline.report.page import assemble, signed
from pipeline.report.plotting import Figure, Spec, axis, number, spec
from pipeline.statistics import Interval, expected_best

NOTHING_GAINED = 0.5  # what a failed trial counts: one still has the model that one had


@dataclass(frozen=True)
class Estimate:
    """A figure over all seeds, and how far it would move with other questions (or pairs), and with other seeds."""

    value: float
    questions: Interval | None
    seeds: Interval | None  # null with one seed


@dataclass(frozen=True)
class Method:
    """A method with the settings that were chosen. Its figures are of the final runs, means over their seeds."""

    name: str
    trial: int | None  # the one that was chosen; null where none came to an end
    settings: Mapping[str, Any]
    figure: float | None  # that it was chosen by
    win_rate: Estimate | None  # over the base model on the test questions; null where none were asked
    share_met: float | None
    accuracy: Estimate | None  # on the held-out pairs
    beyond: Estimate | None  # win rate, or else accuracy, less that of the method compared with
    chosen_change: float | None  # of the mean held-out log-prob sum, in nats
    rejected_change: float | None
    lost: Sequence[str] = ()  # final runs that failed, and why
    trial_steps: int = 0
    trial_seconds: float = 0.0
    final_steps: int = 0
    final_seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    method: str
    number: int
    settings: Mapping[str, Any]
    figure: float | None  # of a stopped one that of its last run; null where it failed
    outcome: str  # whole | stopped | failed
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class SweepData:
    """Everything the page of a sweep shows."""

    title: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str]
    choose_by: str  # accuracy | win_rate
    sampler: str
    against: str
    seeds: Sequence[int]
    held_out_pairs: int
    questions: int  # of the test; 0: none were asked
    scales: Mapping[str, str]  # of each tuned setting: log | linear | category
    methods: Sequence[Method]
    trials: Sequence[Trial]


_SHARE = {"tickformat": ".0%", "hoverformat": ".1%"}
_SECTIONS = {
    "result": "Result",
    "trials": "Trials against their ranges",
    "tuning": "What tuning gave",
    "cost": "Cost",
    "all-trials": "All trials",
    "configuration": "Configuration",
}
FIGURES = {"accuracy": "held-out accuracy", "win_rate": "win rate on dev questions"}


def render_sweep(data: SweepData) -> str:
    """The whole page as HTML; the same data gives the same text. What the data lacks is left out and named."""
    looks = looks_of(method.name for method in data.methods)
    drawn = {"trials": _against_ranges(data, looks), "tuning": _expected(data, looks)}
    absent = [name for name, figures in drawn.items() if not figures]
    return assemble(
        "sweep.html.j2",
        data,
        _SECTIONS,
        absent,
        ("page.js", "study.js"),
        figures=drawn,
        looks=looks,
        chosen={(method.name, method.trial) for method in data.methods},
        failed=[trial for trial in data.trials if trial.outcome == "failed"],
        stopped=sum(trial.outcome == "stopped" for trial in data.trials),
        chosen_by=FIGURES[data.choose_by],
        described=described,
        points=points,
    )


def described(settings: Mapping[str, Any]) -> str:
    """Settings by their own names, without their sections' where these tell nothing."""
    names = [name.rpartition(".")[2] for name in settings]
    return ", ".join(
        f"{short if names.count(short) == 1 else name} {shown(value)}"
        for short, (name, value) in zip(names, settings.items(), strict=True)
    )


def shown(value: Any) -> str:
    """A value as YAML would read it, a number with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"
    return value if isinstance(value, str) else json.dumps(value)


def points(difference: float) -> str:
    """A difference of shares in percentage points, with one decimal and its sign."""
    return signed(round(100 * difference, 1))


def _against_ranges(data: SweepData, looks: Mapping[str, Look]) -> list[Figure]:
    """A figure a setting: every trial that has a figure as a point, what was chosen ringed."""
    figures = []
    for place, (setting, scale) in enumerate(data.scales.items()):
        traces = [
            _points([trial for trial in data.trials if trial.method == method.name], method, setting, scale, looks)
            for method in data.methods
        ]
        traces = [each for each in traces if each["x"]]
        if not traces:
            continue
        x = axis(setting, type=scale) if scale != "log" else axis(setting, type="log", dtick=1, exponentformat="power")
        caption = "A point is a trial; ringed: the one that was chosen; faint: stopped early, at its last figure."
        drawn = spec(traces, 320, x, axis(FIGURES[data.choose_by], **_SHARE))
        figures.append(Figure(f"fig-setting-{place}", f"Every trial by {setting}", caption, drawn))
    return figures


def _points(trials: Sequence[Trial], method: Method, setting: str, scale: str, looks: Mapping[str, Look]) -> Spec:
    drawn = [trial for trial in trials if setting in trial.settings and number(trial.figure) is not None]
    look = looks[method.name]
    points = trace(method.name, look, "markers", 9)
    points["marker"] |= {
        "opacity": [1.0 if trial.outcome == "whole" else 0.35 for trial in drawn],
        "line": {"color": "var(--ink)", "width": [2.5 if trial.number == method.trial else 0 for trial in drawn]},
    }
    values = [trial.settings[setting] for trial in drawn]
    return {
        **points,
        "x": [shown(value) for value in values] if scale == "category" else [number(value) for value in values],
        "y": [number(trial.figure) for trial in drawn],
        "customdata": [f"trial {trial.number}" for trial in drawn],
        "hovertemplate": "%{y} at %{x}, %{customdata}",
    }


def _expected(data: SweepData, looks: Mapping[str, Look]) -> list[Figure]:
    """The best of k trials that one may expect, a line a method."""
    traces = []
    for method in data.methods:
        best = expected(data, method.name)
        line = trace(method.name, looks[method.name], "lines+markers", 7)
        line["line"] = {"color": looks[method.name].colour, "dash": looks[method.name].dash, "width": 2}
        ends = {"x": list(range(1, len(best) + 1)), "y": [number(each) for each in best]}
        traces.append({**line, **ends, "hovertemplate": "%{y} with %{x}"})
    if not any(len(each["x"]) > 1 for each in traces):
        return []
    caption = (
        "The mean best of k of a method's trials, over all ways to pick them. A failed trial counts one half, "
        "which the model that one had is worth; a stopped one its last figure."
    )
    if data.sampler == "tpe":
        caption += " Proposals learn from the trials before, so that this is of the trials made, not of new ones."
    x = axis("trials", dtick=1 if max(len(each["x"]) for each in traces) <= 20 else None)
    drawn = spec(traces, 360, x, axis(f"best {FIGURES[data.choose_by]}", **_SHARE))
    return [Figure("fig-expected", "Expected best of k trials", caption, drawn)]


def expected(data: SweepData, method: str) -> list[float]:
    """By the number of trials, from one on."""
    own = [trial for trial in data.trials if trial.method == method]
    return expected_best([NOTHING_GAINED if trial.figure is None else trial.figure for trial in own])
