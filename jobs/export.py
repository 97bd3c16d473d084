"""Write answers and verdicts for the benchmarks' own tools: python -m jobs.export --config FILE --to DIR

With --for lm-eval both models are handed to lm-evaluation-harness: its commands are said, and run where it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.contests import MODELS, Answers, baseline_answers, contest, first_samples
from jobs.common.lm_eval import hand_over
from jobs.common.saying import say
from jobs.common.stage import door, planned, reported
from pipeline.errors import UserError
from pipeline.evaluation.harness import TASKS
from pipeline.line.plan import readable
from pipeline.line.steps import Plan
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    from pipeline.results.artifacts import Artifact

VERDICTS = "annotations.json"  # AlpacaEval's
Files = Iterator[tuple[str, str]]  # name below the folder, content


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.export", "Write committed answers and verdicts for AlpacaEval, Arena-Hard, FastChat.")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="a folder; one below it a benchmark")
    parser.add_argument("--for", dest="tool", choices=("benchmarks", "lm-eval"), default="benchmarks")
    parser.add_argument("--tasks", metavar="TASKS", help=f"of lm-eval, by commas ({','.join(TASKS)})")
    parser.add_argument("--dry-run", action="store_true", help="of lm-eval: say its commands, and run none")
    options = parser.parse_intermixed_args(arguments)
    if options.tool == "benchmarks" and (options.tasks or options.dry_run):
        parser.error("--tasks and --dry-run are for --for lm-eval")
    with reported():
        if options.tool == "lm-eval":
            tasks = [task.strip() for task in (options.tasks or ",".join(TASKS)).split(",") if task.strip()]
            hand_over(planned("export", options.config, options.overrides), tasks, options.to, options.dry_run)
        else:
            write(options.config, options.overrides, options.to)


def write(config: str, overrides: Sequence[str], folder: Path) -> None:
    """Raises UserError, before a file is written, where nothing can be, or one of another run stands in the way."""
    from pipeline.results.files import write_aside

    plan = planned("export", config, overrides)
    asked = [name for name in plan.config.generate.benchmarks if name != EMBEDDED]
    if not asked:
        raise UserError(
            f"nothing to export: generate.benchmarks asks {EMBEDDED} alone, which no other tool knows",
            "name benchmarks, such as generate.benchmarks='{alpaca_eval: null}', and python -m jobs.run makes answers",
        )
    files = {folder / name: content for made in (answers(plan, asked), verdicts(plan)) for name, content in made}
    for file, content in files.items():
        if file.exists() and file.read_text(encoding="utf-8", errors="replace") != content:
            problem = f"{file} is there already, with other content: of another run, or before it was made again"
            raise UserError(problem, "give another --to, or remove it; nothing was written")
    for file, content in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_aside(file, content)
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror})", "give another --to") from None
        say(f"export: {file}")
    if not any(VERDICTS in file.name or "model_judgment" in file.parts for file in files):
        say("export: answers alone; no model judged them (judge.model or judge.local)")


def labels(plan: Plan) -> dict[str, str]:
    """What our models are called for others: by the folder of their answers, which no other run shares by chance."""
    return {model: plan.steps[f"generate:{model}"].address.path.name for model in MODELS}


def answers(plan: Plan, benchmarks: Sequence[str]) -> Files:
    """A file a benchmark and model."""
    from pipeline.evaluation.exports.answers import export
    from pipeline.results import tables

    for model, label in labels(plan).items():
        rows = tables.read(plan.steps["judge"].input(model).path, tables.RESPONSES).to_pylist()
        for benchmark in benchmarks:
            name, content = export(benchmark, label, [row for row in rows if row["benchmark"] == benchmark])
            yield f"{benchmark}/{name}", content


def verdicts(plan: Plan) -> Files:
    """A file a benchmark and model, or where a judge rated one for both; nothing where no model judged."""
    judged = plan.steps["report"].inputs["judge"].address.find()
    if judged is None:
        return
    found: Answers = {model: first_samples(plan.steps["judge"].input(model)) for model in MODELS}
    for benchmark, figures in judged.verify().manifest["metrics"]["benchmarks"].items():
        if "judged" in figures and benchmark != EMBEDDED:
            yield from verdicts_on(plan, judged, benchmark, found, figures["judged"]["judge"])


def verdicts_on(plan: Plan, judged: Artifact, benchmark: str, found: Answers, judge: str) -> Files:
    from pipeline.evaluation.benchmarks.arena_battles import ARENA
    from pipeline.evaluation.exports import verdicts as exports
    from pipeline.evaluation.judging.games import Game
    from pipeline.evaluation.judging.ratings import Rated
    from pipeline.results import tables

    def rows(schema: Any, file: str) -> list[dict[str, Any]]:
        own = tables.read(judged.path, schema, pattern=file).to_pylist()
        return [row for row in own if row["benchmark"] == benchmark]

    names, folder = labels(plan), readable(judge) or "judge"
    baseline = baseline_answers(rows(tables.BASELINES, "baselines.parquet"))
    metas: Mapping[str, Any] = {row["question_id"]: json.loads(row["meta"]) for row in found["base"][benchmark]}
    games = [Game(**row) for row in rows(tables.GAMES, "games.parquet")]
    for match in contest(plan.config.judge, benchmark, found, baseline).matches:
        own = [game for game in games if game.model == match.model]
        label = names[match.model]
        arena = benchmark in ARENA
        file = f"model_judgment/{folder}/{label}.jsonl" if arena else f"{label}/{folder}/{VERDICTS}"
        made = exports.of_match(match, own, judge, metas, names)
        yield f"{benchmark}/{file}", exports.as_text(made, lines=arena)
    rated = [
        Rated(**{key: value for key, value in row.items() if key != "benchmark"})
        for row in rows(tables.RATINGS, "ratings.parquet")
    ]
    if rated:
        made = exports.of_ratings(rated, names, judge)
        yield f"{benchmark}/model_judgment/{folder}_single.jsonl", exports.as_text(made, lines=True)


if __name__ == "__main__":
    main()
