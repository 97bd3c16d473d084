"""Write both models' answers for the benchmarks' own tools: python -m jobs.export --config FILE --to DIR"""

from collections.abc import Sequence
from pathlib import Path

from jobs.stage import door, reported, say
from pipeline.config import EMBEDDED, load
from pipeline.errors import UserError
from pipeline.plan import make_plan


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.export", "Write committed answers for AlpacaEval, Arena-Hard, FastChat.")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="a folder; one below it a benchmark")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        write(options.config, options.overrides, options.to)


def write(config: str, overrides: Sequence[str], folder: Path) -> None:
    """A file a benchmark and model. Raises UserError where the answers are not there, or a file cannot be written."""
    from pipeline import tables
    from pipeline.artifacts import write_aside
    from pipeline.evaluation.exports import export

    plan = make_plan(load(config, overrides))
    for role in ("base", "trained"):
        step = plan.steps[f"generate:{role}"]
        rows = tables.read(plan.steps["judge"].input(role).path, tables.RESPONSES).to_pylist()
        for benchmark in plan.config.generate.benchmarks:
            if benchmark == EMBEDDED:  # nobody else's tool knows it
                continue
            name, content = export(
                benchmark, step.address.label, [row for row in rows if row["benchmark"] == benchmark]
            )
            file = folder / benchmark / name
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_aside(file, content)
            except OSError as error:
                raise UserError(f"{file} cannot be written ({error.strerror})", "give another --to") from None
            say(f"export: {file}")


if __name__ == "__main__":
    main()
