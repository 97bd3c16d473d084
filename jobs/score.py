"""Score verdicts made elsewhere: python -m jobs.score --benchmark NAME --annotations FILE [--json] [...]"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.common.saying import tell
from jobs.common.stage import reported
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import alpaca_eval, arena_hard, mt_bench
from pipeline.evaluation.benchmarks.length_control import PACKAGED, read_coefficients
from pipeline.statistics import Interval, kappa, paired

Points = Mapping[str, Mapping[Hashable, float]]
BENCHMARKS: dict[str, Callable[[Path], Points]] = {
    "alpaca_eval": alpaca_eval.points,
    "arena_hard_v0.1": lambda path: arena_hard.points(path, "v0.1"),
    "arena_hard_v2.0": lambda path: arena_hard.points(path, "v2.0"),
    "mt_bench": mt_bench.points,
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with reported():
        found: dict[str, Any] = {"benchmark": options.benchmark, "scores": scores(options)}
        if options.against:
            found["comparisons"] = comparisons(options)
        if options.second_judge:
            found["agreement"] = agreement(options)
        tell(json.dumps(plain(found), indent=2, ensure_ascii=False) if options.json else table(found))


def parser() -> argparse.ArgumentParser:
    door = argparse.ArgumentParser(prog="python -m jobs.score", description="Score verdicts made elsewhere.")
    door.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    door.add_argument(
        "--annotations",
        required=True,
        type=Path,
        metavar="FILE",
        help="AlpacaEval annotations, Arena-Hard judgments (or v0.1's battles) or FastChat judgments, "
        "as .json, .jsonl or .parquet",
    )
    door.add_argument("--against", type=Path, metavar="FILE", help="another model's: compared question by question")
    door.add_argument("--second-judge", type=Path, metavar="FILE", help="another judge's, of the same models")
    door.add_argument(
        "--answers",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="Arena-Hard v2.0: the models' and the baseline's answers, for style control",
    )
    door.add_argument(
        "--coefficients",
        type=Path,
        default=PACKAGED,
        metavar="FILE",
        help="AlpacaEval: what length control shares between models (packaged: reconstructed)",
    )
    door.add_argument(
        "--original-intervals", action="store_true", help="Arena-Hard: resample 100 times battles, not questions"
    )
    door.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap intervals")
    door.add_argument("--seed", type=int, default=0)
    door.add_argument("--json", action="store_true", help="every figure, as JSON")
    return door


def scores(options: argparse.Namespace) -> list[Any]:
    """The records of every model, best first."""
    if options.resamples < 1:
        raise UserError(f"--resamples {options.resamples} gives no interval", "give 1 or more")
    if options.answers and options.benchmark != "arena_hard_v2.0":
        raise UserError(
            f"--answers is for the style control of arena_hard_v2.0, not {options.benchmark}", "leave it out"
        )
    drawn = {"resamples": options.resamples, "seed": options.seed}
    if options.benchmark == "alpaca_eval":
        return list(alpaca_eval.score_file(options.annotations, read_coefficients(options.coefficients), **drawn))
    if options.benchmark == "mt_bench":
        return list(mt_bench.score_file(options.annotations, **drawn))
    styles = arena_hard.read_styles(options.answers) if options.answers else None
    resample: arena_hard.Resample = "battles" if options.original_intervals else "questions"
    if options.original_intervals:
        drawn["resamples"] = 100
    version: arena_hard.Version = "v0.1" if options.benchmark == "arena_hard_v0.1" else "v2.0"
    return list(arena_hard.score_file(options.annotations, version, styles, resample, **drawn))


def comparisons(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model of one file against every model of the other."""
    read = BENCHMARKS[options.benchmark]
    found = []
    first, second = read(options.annotations), read(options.against)
    for model, ours in first.items():
        for other, theirs in second.items():
            if not ours.keys() & theirs.keys():
                raise UserError(
                    f"{model} and {other} have no question in common", "compare verdicts on the same questions"
                )
            result = paired(ours, theirs, options.resamples, options.seed)
            named = {"model": model, "against": other}
            if model == other:  # two runs that are called the same
                named = {"model": f"{model} ({options.annotations})", "against": f"{other} ({options.against})"}
            found.append({**named, **dataclasses.asdict(result)})
    return found


def agreement(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How far two judges agree on each model: won, tied or lost, or on MT-Bench the rating itself."""
    read = BENCHMARKS[options.benchmark]
    first, second = read(options.annotations), read(options.second_judge)
    if not first.keys() & second.keys():
        raise UserError(
            f"{options.annotations} and {options.second_judge} judge no model in common", "give the same models"
        )

    def category(points: float) -> Hashable:
        return points if options.benchmark == "mt_bench" else (points > 0.5) - (points < 0.5)

    found = []
    for model in sorted(first.keys() & second.keys()):
        shared = sorted(first[model].keys() & second[model].keys(), key=str)
        if not shared:
            raise UserError(f"the two judges of {model} have no question in common", "give the same questions")
        ours, theirs = ([category(judge[model][key]) for key in shared] for judge in (first, second))
        agreed = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(shared)
        found.append({"model": model, "questions": len(shared), "agreed": 100 * agreed, "kappa": kappa(ours, theirs)})
    return found


def plain(value: Any) -> Any:
    """Records as what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def table(found: Mapping[str, Any]) -> str:
    """A line a figure, for people."""
    lines: list[str] = []
    for score in found["scores"]:
        lines += [*described(score), *(f"  note: {note}" for note in score.notes), ""]
    for one in found.get("comparisons", ()):
        difference = shown(Interval(**one["difference"]), "{:+.3f}")
        lines.append(
            f"{one['model']} against {one['against']}: {difference} on {one['questions']} questions; higher on "
            f"{one['higher']}, equal on {one['equal']}, lower on {one['lower']} (sign test: p = {one['p_value']:.3g})"
        )
    for one in found.get("agreement", ()):
        kappa_shown = "undefined" if one["kappa"] is None else f"{one['kappa']:.3f}"
        lines.append(
            f"{one['model']}: the judges agree on {one['agreed']:.1f} % of {one['questions']}, kappa {kappa_shown}"
        )
    return "\n".join(lines).rstrip()


def described(score: Any) -> list[str]:
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
            return [*lines, f"  first shown        {score.first_shown:.1f} % of the preference"]
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


if __name__ == "__main__":
    main()
