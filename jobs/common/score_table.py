"""What jobs.score found, as lines for people or as what JSON can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from pipeline.evaluation.benchmarks.scoring import Score
from pipeline.statistics import Interval


def plain(value: Any) -> Any:
    """Records as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def table(found: Mapping[str, Any]) -> str:
    """A line a figure. What is to be said of every score is said once."""
    lines: list[str] = []
    scores = found["scores"]
    several = len({score.judge for score in scores}) > 1
    of_all = [note for note in scores[0].notes if len(scores) > 1 and all(note in score.notes for score in scores)]
    for score in scores:
        first, *more = described(score)
        by = f", judged by {score.judge or 'one without a name'}" if several else ""
        own = [note for note in score.notes if note not in of_all]
        lines += [first + by, *more, *(f"  note: {note}" for note in own), ""]
    if of_all:
        lines += [f"of all {len(scores)}", *(f"  note: {note}" for note in of_all), ""]
    looked = [warning for one in found.get("answers", ()) for warning in one["warnings"]]
    lines += [f"warning: {warning}" for warning in (*found["warnings"], *looked)]
    for one in found.get("comparisons", ()):
        difference = shown(Interval(**one["difference"]), "{:+.3f}")
        lines.append(
            f"{one['model']} against {one['against']}: {difference} on {one['questions']} questions; higher on "
            f"{one['higher']}, equal on {one['equal']}, lower on {one['lower']} (sign test: p = {one['p_value']:.3g})"
        )
    for one in found.get("agreement", ()):
        kappa_shown = "undefined" if one["kappa"] is None else f"{one['kappa']:.3f}"
        lines.append(
            f"{one['model']}: the judges agree on {one['agreed']:.1f} % of {one['verdicts']} verdicts, "
            f"kappa {kappa_shown}"
        )
    lines += [f"  note: {note}" for note in found.get("notes", ())]
    return "\n".join(lines).rstrip()


def described(score: Score) -> list[str]:
    match score:
        case alpaca_eval.Score():
            lines = [
                f"{score.model} against {score.baseline}, {score.n_total} questions",
                f"  win rate           {shown(score.win_rate)} %, standard error {score.standard_error:.2f}",
                f"  discrete win rate  {score.discrete_win_rate:.2f} % "
                f"({score.n_wins} won, {score.n_draws} drawn, {score.n_wins_base} lost)",
            ]
            if controlled := score.length_controlled:
                rate = shown(Interval(controlled.win_rate, controlled.low, controlled.high))
                lines.append(f"  length-controlled  {rate} % (coefficients: {controlled.coefficients})")
            lines.append(
                f"  mean length        {'unknown' if score.avg_length is None else score.avg_length} characters"
            )
            if score.first_shown is not None:
                lines.append(f"  first shown        {score.first_shown:.1f} % of the preference")
            return lines
        case arena_hard.Score():
            lines = [
                f"{score.model} against {score.baseline}, {score.category}, {score.questions} questions, "
                f"{score.battles} battles",
                f"  score              {shown(score.rate)} %",
            ]
            if score.style_controlled:
                lines.append(f"  style-controlled   {shown(score.style_controlled)} %")
            if score.first_shown is not None:
                lines.append(f"  first shown        {score.first_shown:.1f} % of the points")
            return lines
        case mt_bench.Score():
            turns = ", ".join(f"turn {turn} {mean:.2f}" for turn, mean in score.turns.items())
            categories = ", ".join(f"{name} {mean:.2f}" for name, mean in score.categories.items())
            lines = [
                f"{score.model}, {score.ratings} ratings",
                f"  overall            {shown(score.overall)} ({turns})",
            ]
            return [*lines, *([f"  {categories}"] if categories else [])]
    raise TypeError(f"no way to describe a {type(score).__name__}")


def shown(interval: Interval, form: str = "{:.2f}") -> str:
    return f"{form.format(interval.value)} [{form.format(interval.low)}, {form.format(interval.high)}]"
