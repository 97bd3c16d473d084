"""Bring results down from an object store, verified: python -m jobs.fetch --config FILE --to DIR [--stage STAGE]

Of a ROOT that is a folder they are copied likewise. DIR is laid out as a ROOT is, so that it can be one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobs.common.saying import doing, heard, say, shown
from jobs.common.stage import door, places, planned, reported
from pipeline.errors import UserError
from pipeline.line.plan import STAGES

WANTED = ("train", "report")  # what people look for


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.fetch", "Copy committed results into a folder, from an object store or from here.")
    parser.add_argument("--to", metavar="DIR", type=Path, required=True, help="a folder, laid out as a ROOT is")
    parser.add_argument(
        "--stage", choices=STAGES, action="append", default=[], help="of this stage (may be repeated): train and report"
    )
    options = parser.parse_intermixed_args(arguments)
    with reported():
        fetch(options.config, options.overrides, options.stage or WANTED, options.to.absolute())


def fetch(config: str, overrides: Sequence[str], stages: Sequence[str], folder: Path) -> None:
    """Raises UserError where a result is not there, not as it was committed, or another copy stands in its way."""
    plan = planned("fetch", config, overrides)
    steps = plan.of(*stages)
    found = {step.name: step.address.find() for step in steps}
    if missing := [name for name, artifact in found.items() if artifact is None]:
        stages_told = sorted({name.partition(":")[0] for name in missing})
        raise UserError(
            f"{', '.join(missing)}: not there yet, in {plan.config.resources.root}",
            f"python -m jobs.run makes {'it' if len(missing) == 1 else 'them'}, with the same --config and overrides; "
            f"or leave out --stage {stages_told[0]}",
        )
    for step in steps:
        artifact = found[step.name]
        assert artifact is not None
        with heard("fetch", plan.config.resources.log_seconds):
            doing(f"bringing {artifact.name}")
            copy = replace(step.address, root=folder, store=None).copy(artifact.verify())
        say(f"fetch: {step.name}, {copy.size() / 1e6:,.1f} MB in {shown(copy.path)}")
        for line in places(copy):
            say(line)


if __name__ == "__main__":
    main()
