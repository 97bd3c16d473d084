"""Score verdicts made elsewhere: python -m jobs.score --benchmark NAME --annotations FILE [--json] [...]

How a benchmark's files are read and scored is in pipeline/evaluation/benchmarks, what is printed in
jobs/common/score_table.py.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.common.saying import tell
from jobs.common.score_table import plain, table
from jobs.common.stage import Parser, reported
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import comparing
from pipeline.evaluation.benchmarks.annotations import Wanted
from pipeline.evaluation.benchmarks.arena_battles import ARENA
from pipeline.evaluation.benchmarks.arena_style import read_answers
from pipeline.evaluation.benchmarks.scoring import BENCHMARKS, Annotations

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
        found = scored(options)
        tell(json.dumps(plain(found), indent=2, ensure_ascii=False) if options.json else table(found))


def parser() -> argparse.ArgumentParser:
    door = Parser(prog="python -m jobs.score", description="Score verdicts made elsewhere.")
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


def scored(options: argparse.Namespace) -> dict[str, Any]:
    """All that is asked for, by the names that JSON has for it."""
    answers, drawn = read_answers(options.answers or ()), (options.resamples, options.seed)
    own = Annotations(options.benchmark, options.annotations, Wanted(tuple(options.baseline), tuple(options.judge)))
    found: dict[str, Any] = {
        "benchmark": options.benchmark,
        "scores": own.scores(answers, options.coefficients, options.original_intervals, *drawn),
        "warnings": own.met_itself(answers),
    }
    if looked := own.looks(answers):
        found["answers"] = looked
    if options.against:
        other = Annotations(options.benchmark, options.against, own.wanted)
        found["comparisons"] = comparing.comparisons(own, other, *drawn)
        found["notes"] = comparing.unlike(own, other)
    if options.second_judge:
        # Of several judges in that file, the one that --judge does not name.
        but = Wanted(tuple(options.baseline), but=tuple(options.judge))
        second = Annotations(options.benchmark, options.second_judge, but)
        found["agreement"] = comparing.agreement(own, second)
        found["notes"] = [*found.get("notes", ()), *comparing.of_one_judge(own, second)]
    return found


if __name__ == "__main__":
    main()
