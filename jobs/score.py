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
from pipeline.evaluation.benchmarks.annotations import UNNAMED, Judged, Wanted
from pipeline.evaluation.benchmarks.arena_battles import ARENA, Battle, read_battles
from pipeline.evaluation.benchmarks.arena_style import Answers, read_answers, styles_of
from pipeline.evaluation.benchmarks.length_control import PACKAGED, read_coefficients
from pipeline.evaluation.profile import of_itself, profile, warnings
from pipeline.results.files import file_digest
from pipeline.statistics import Interval, kappa, paired

Points = Mapping[str, Mapping[Hashable, float]]
BENCHMARKS: dict[str, Callable[[Path, Wanted], Points]] = {
    "alpaca_eval": alpaca_eval.points,
    "arena_hard_v0.1": lambda path, wanted: arena_hard.points(path, "v0.1", wanted),
    "arena_hard_v2.0": lambda path, wanted: arena_hard.points(path, "v2.0", wanted),
    "mt_bench": mt_bench.points,
}


JUDGED: dict[str, Callable[[Path, Wanted], Sequence[Judged]]] = {
    "alpaca_eval": alpaca_eval.read_verdicts,
    "arena_hard_v0.1": lambda path, wanted: read_battles(path, "v0.1", wanted)[0],
    "arena_hard_v2.0": lambda path, wanted: read_battles(path, "v2.0", wanted)[0],
    "mt_bench": mt_bench.read_ratings,
}

# Options that are of some benchmarks alone, and what to do without them.
FOR: Mapping[str, tuple[Sequence[str], str]] = {
    "baseline": (("alpaca_eval", *ARENA), "leave it out: answers of MT-Bench are rated, against no baseline"),
    "answers": (tuple(ARENA), "leave it out"),
    "coefficients": (("alpaca_eval",), "leave it out: length control is AlpacaEval's"),
    "original_intervals": (tuple(ARENA), "leave it out: the other benchmarks resample questions"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with reported():
        require_fitting(options)
        answers = read_answers(options.answers or ())
        found: dict[str, Any] = {"benchmark": options.benchmark, "scores": scores(options, answers)}
        found["warnings"] = met_itself(options, answers)
        if looked := looks(options, answers):
            found["answers"] = looked
        if options.against:
            found["comparisons"] = comparisons(options)
            found["notes"] = unlike(options)
        if options.second_judge:
            found["agreement"] = agreement(options)
            found["notes"] = [*found.get("notes", ()), *of_one_judge(options)]
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
    door.add_argument("--baseline", nargs="+", default=(), metavar="NAME", help="verdicts against these alone")
    door.add_argument("--judge", nargs="+", default=(), metavar="NAME", help="verdicts of these judges alone")
    door.add_argument(
        "--answers",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="Arena-Hard: the models' and the baseline's answers, to look at, and for v2.0's style control",
    )
    door.add_argument(
        "--coefficients",
        type=Path,
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


def wanted_of(options: argparse.Namespace) -> Wanted:
    return Wanted(tuple(options.baseline), tuple(options.judge))


def second_wanted(options: argparse.Namespace) -> Wanted:
    """The same of --second-judge: of several judges in it, the one that --judge does not name."""
    return Wanted(tuple(options.baseline), but=tuple(options.judge))


def require_fitting(options: argparse.Namespace) -> None:
    """Raise UserError for an option that would have no effect, or a number that is none of its kind."""
    for name, (benchmarks, remedy) in FOR.items():
        if getattr(options, name) and options.benchmark not in benchmarks:
            named = f"--{name.replace('_', '-')}"
            raise UserError(f"{named} is for {', '.join(benchmarks)}, not {options.benchmark}", remedy)
    if options.resamples < 1:
        raise UserError(f"--resamples {options.resamples} gives no interval", "give 1 or more")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed} is below 0", "give 0 or more")


def scores(options: argparse.Namespace, answers: Answers) -> list[Any]:
    """The records of every model, baseline and judge, best first."""
    drawn = {"resamples": options.resamples, "seed": options.seed, "wanted": wanted_of(options)}
    if options.benchmark == "alpaca_eval":
        shared = read_coefficients(options.coefficients or PACKAGED)
        return list(alpaca_eval.score_file(options.annotations, shared, **drawn))
    if options.benchmark == "mt_bench":
        return list(mt_bench.score_file(options.annotations, **drawn))
    version = ARENA[options.benchmark]
    styles = styles_of(answers) if answers and version == "v2.0" else None
    resample: arena_hard.Resample = "battles" if options.original_intervals else "questions"
    if options.original_intervals:
        drawn["resamples"] = 100
    return list(arena_hard.score_file(options.annotations, version, styles, resample, **drawn))


def looks(options: argparse.Namespace, answers: Answers) -> list[dict[str, Any]]:
    """What the judged models' answers look like, where a file holds them: a score says little without."""
    texts: dict[str, list[str]] = {}
    if options.benchmark == "alpaca_eval":
        for each in alpaca_eval.read_verdicts(options.annotations, wanted_of(options)):
            texts.setdefault(each.model, each.answers)
    for (model, _), answer in answers.items():
        texts.setdefault(model, []).append(answer.text)
    profiles = {model: profile(own) for model, own in texts.items() if own}
    return [
        {"model": model, **dataclasses.asdict(one), "warnings": warnings(model, one)} for model, one in profiles.items()
    ]


def met_itself(options: argparse.Namespace, answers: Answers) -> list[str]:
    """Warnings of models that were judged against themselves: their scores are of nothing."""
    met: dict[tuple[str, str], dict[str, bool]] = {}  # by model and baseline, then question: whether answers are alike
    for each in JUDGED[options.benchmark](options.annotations, wanted_of(options)):
        if each.baseline is None:
            continue  # rated, not compared
        own = met.setdefault((each.model, each.baseline), {})
        match each:
            case alpaca_eval.Verdicts():
                own |= {one.instruction: one.alike for one in each.found}
            case Battle():
                ours, theirs = (answers.get((name, each.question)) for name in (each.model, each.baseline))
                own[each.question] = each.alike or (
                    ours is not None and theirs is not None and ours.text == theirs.text
                )
    return [
        warning
        for (model, baseline), alike in met.items()
        for warning in of_itself(model, baseline, sum(alike.values()), len(alike))
    ]


def comparisons(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model of one file against every model of the other."""
    read, wanted = BENCHMARKS[options.benchmark], wanted_of(options)
    found = []
    for model, ours in read(options.annotations, wanted).items():
        for other, theirs in read(options.against, wanted).items():
            if not ours.keys() & theirs.keys():
                named = f"{model} of {options.annotations} and {other} of {options.against}"
                raise UserError(f"{named} have no question in common", "compare verdicts on the same questions")
            result = paired(ours, theirs, options.resamples, options.seed)
            names = (model, other) if model != other else _by_file(model, options)
            found.append({"model": names[0], "against": names[1], **dataclasses.asdict(result)})
    return found


def unlike(options: argparse.Namespace) -> list[str]:
    """What the verdicts of two files that are compared do not share, where they say so."""
    judged, wanted = JUDGED[options.benchmark], wanted_of(options)
    both = [judged(path, wanted) for path in (options.annotations, options.against)]
    found = []
    for kind in ("baseline", "judge"):
        ours, theirs = (
            {str(name) for each in own if (name := getattr(each, kind)) not in (None, UNNAMED)} for own in both
        )
        if ours and theirs and not ours & theirs:
            told = " and ".join(", ".join(sorted(names)) for names in (ours, theirs))
            found.append(f"the models compared have not the same {kind} ({told})")
    return found


def agreement(options: argparse.Namespace) -> list[dict[str, Any]]:
    """How far two judges agree on each model: won, tied or lost, or on MT-Bench the rating itself."""
    read, wanted = BENCHMARKS[options.benchmark], wanted_of(options)
    first = read(options.annotations, wanted)
    second = read(options.second_judge, second_wanted(options))
    if not first.keys() & second.keys():
        raise UserError(
            f"{options.annotations} and {options.second_judge} judge no model in common", "give the same models"
        )
    require_two_of_one(options)

    def category(points: float) -> Hashable:
        return points if options.benchmark == "mt_bench" else (points > 0.5) - (points < 0.5)

    found = []
    for model in sorted(first.keys() & second.keys()):
        shared = sorted(first[model].keys() & second[model].keys(), key=str)
        if not shared:
            raise UserError(f"the two judges of {model} have no question in common", "judge the same questions")
        ours, theirs = ([category(judge[model][key]) for key in shared] for judge in (first, second))
        agreed = sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(shared)
        found.append({"model": model, "verdicts": len(shared), "agreed": 100 * agreed, "kappa": kappa(ours, theirs)})
    return found


def both_judges(options: argparse.Namespace) -> tuple[Sequence[Judged], Sequence[Judged]]:
    judged = JUDGED[options.benchmark]
    first = judged(options.annotations, wanted_of(options))
    return first, judged(options.second_judge, second_wanted(options))


def require_two_of_one(options: argparse.Namespace) -> None:
    """Raise UserError where a second judge's verdicts are the first one's, or on answers to another baseline's."""
    first, second = both_judges(options)
    if first == second and file_digest(options.annotations) == file_digest(options.second_judge):
        raise UserError(
            f"--second-judge {options.second_judge} holds the verdicts of {options.annotations}: "
            "every judge agrees with itself",
            "give another judge's verdicts, or name the first of several judges in one file by --judge",
        )
    ours, theirs = met_by(first), met_by(second)
    for key in ours.keys() & theirs.keys():
        if UNNAMED not in (pair := (ours[key], theirs[key])) and pair[0] != pair[1]:
            raise UserError(
                f"--second-judge {options.second_judge}: {key[0]} is compared with {pair[1]} there, and with "
                f"{pair[0]} in {options.annotations}",
                "give another judge's verdicts against the same baseline, or name one that both have by --baseline",
            )


def met_by(judged: Sequence[Judged]) -> dict[tuple[str, str | None], str | None]:
    """The baseline of each model, and on Arena-Hard, whose categories may each have their own, of each question."""
    return {(each.model, getattr(each, "question", None)): each.baseline for each in judged}


def of_one_judge(options: argparse.Namespace) -> list[str]:
    """A note where both files name one judge: two readings of it are compared."""
    ours, theirs = ({each.judge for each in own if each.judge} for own in both_judges(options))
    named = ", ".join(sorted(ours & theirs))
    return [f"both files are judged by {named}: an agreement with itself"] if named else []


def _by_file(model: str, options: argparse.Namespace) -> tuple[str, str]:
    """Two runs of one name, told apart."""
    return f"{model} ({options.annotations})", f"{model} ({options.against})"


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
    several = len({score.judge for score in found["scores"]}) > 1
    for score in found["scores"]:
        first, *more = described(score)
        by = f", judged by {score.judge or 'one without a name'}" if several else ""
        lines += [first + by, *more, *(f"  note: {note}" for note in score.notes), ""]
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


if __name__ == "__main__":
    main()
