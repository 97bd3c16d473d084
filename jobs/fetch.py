"""Bring results down from an object store, verified: python -m jobs.fetch --config FILE --to DIR [--stage STAGE]

Of a ROOT that is a folder they are copied likewise. DIR is laid out as a ROOT is, so that it can be one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.common.saying import doing, heard, say, shown
from jobs.common.stage import door, places, planned, reported
from pipeline.errors import UserError
from pipeline.line.steps import STAGES

WANTED = ("train", "report")  # where no stage is named: what of them is there


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.fetch", "Copy committed results into a folder, from an object store or from here.")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="a folder, laid out as a ROOT is")
    parser.add_argument(
        "--stage", choices=STAGES, action="append", default=[], help="of this stage (may be repeated): train and report"
    )
    options = parser.parse_intermixed_args(arguments)
    with reported():
        fetch(options.config, options.overrides, options.stage, options.to.absolute())


def fetch(config: str, overrides: Sequence[str], stages: Sequence[str], folder: Path) -> None:
    """Raises UserError where a result is not there, or not as it was committed; without `stages`, where none is."""
    plan = planned("fetch", config, overrides)
    found = [(step, step.address.find()) for step in plan.of(*(stages or WANTED))]
    missing = [step.name for step, artifact in found if artifact is None]
    if missing and (stages or len(missing) == len(found)):
        problem = f"{', '.join(missing)}: not there yet, in {plan.config.resources.root}"
        raise UserError(problem, "python -m jobs.run makes what is missing, with the same --config and overrides")
    for step, artifact in found:
        if artifact is None:
            say(f"fetch: {step.name}: not there yet")
            continue
        with heard("fetch", plan.config.resources.log_seconds):
            doing(f"bringing {artifact.name}")
            with artifact.held():
                copy = replace(step.address, root=folder, store=None).copy(artifact.verify())
        say(f"fetch: {step.name}, {copy.size() / 1e6:,.1f} MB in {shown(copy.path)}")
        for line in places(copy):
            say(line)


if __name__ == "__main__":
    main()
