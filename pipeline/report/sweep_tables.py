"""A sweep's tables for other tools: a row a method and a row a trial as CSV, and the methods as Markdown."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.report.page import number, percent
from pipeline.report.sweep import Estimate, Method, SweepData, described, expected, points
from pipeline.settings.sweep import label
from pipeline.statistics import Interval


def tables(data: SweepData) -> dict[str, str]:
    """The text of each file, by its name. Shares are between 0 and 1 in CSV, and in percent in Markdown."""
    return {
        "methods.csv": _csv([_method(data, method) for method in data.methods]),
        "trials.csv": _csv([_trial(data, place) for place in range(len(data.trials))]),
        "methods.md": _markdown(data),
    }


def _method(data: SweepData, method: Method) -> dict[str, Any]:
    best = expected(data, method.name)
    return {
        "method": method.name,
        "trial": method.trial,
        **_settings(data, method.settings),
        f"dev_{data.choose_by}": method.figure,
        **_estimate("win_rate", method.win_rate),
        "share_met": method.share_met,
        **_estimate("accuracy", method.accuracy),
        **_estimate(f"beyond_{data.against}", method.beyond),
        "chosen_logps_change": method.chosen_change,
        "rejected_logps_change": method.rejected_change,
        "expected_best_of_1": best[0] if best else None,
        "expected_best_of_all": best[-1] if best else None,
        "final_runs_failed": len(method.lost),
        **{name: getattr(method, name) for name in ("trial_steps", "trial_seconds", "final_steps", "final_seconds")},
    }


def _settings(data: SweepData, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nothing where a setting is not tuned; what is no number or text as JSON, null too."""
    plain = {name: value if isinstance(value, int | float | str) else label(value) for name, value in settings.items()}
    return {name: plain.get(name) for name in data.scales}


def _estimate(name: str, estimate: Estimate | None) -> dict[str, Any]:
    found: dict[str, Any] = {name: estimate.value if estimate else None}
    for over in ("questions", "seeds"):
        interval: Interval | None = getattr(estimate, over) if estimate else None
        found |= {f"{name}_{over}_{end}": getattr(interval, end) if interval else None for end in ("low", "high")}
    return found


def _trial(data: SweepData, place: int) -> dict[str, Any]:
    trial = data.trials[place]
    chosen = any(trial.method == method.name and trial.number == method.trial for method in data.methods)
    return {
        "method": trial.method,
        "trial": trial.number,
        **_settings(data, trial.settings),
        f"dev_{data.choose_by}": trial.figure,
        "outcome": trial.outcome,
        "chosen": chosen,
        "steps": trial.steps,
        "seconds": trial.seconds,
        "reason": trial.reason,
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(data: SweepData) -> str:
    """Figures in percent, with their intervals over questions (or pairs); over seeds."""
    head = ["method", "chosen", "win rate", "held-out accuracy", f"beyond {data.against}", "seconds"]
    rows = [head, ["---"] * len(head)]
    for method in data.methods:
        seconds = f"{method.trial_seconds + method.final_seconds:.0f}"
        figures = [
            _written(method.win_rate, percent),
            _written(method.accuracy, percent),
            _written(method.beyond, points),
        ]
        rows.append([method.name, described(method.settings), *figures, seconds])
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _written(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    if estimate is None:
        return number(None)
    over = [
        f"{name}[{show(each.low)}, {show(each.high)}]"
        for name, each in (("", estimate.questions), ("seeds ", estimate.seeds))
        if each
    ]
    return f"{show(estimate.value)} {'; '.join(over)}".strip()
