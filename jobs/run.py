"""Walk the line and make what is not there: python -m jobs.run --config FILE [section.key=value ...] [--dry-run]"""

import contextlib
import time
from collections.abc import Sequence

from jobs.stage import door, make, reported, say, shown
from pipeline.config import load
from pipeline.plan import STAGES, Plan, Step, make_plan

ON_RAY = ("reference", "train", "generate")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.run", "Make every result of the line that is not committed yet.")
    parser.add_argument(
        "--from", dest="first", choices=STAGES, default=STAGES[0], help="begin here; what is before must be there"
    )
    parser.add_argument("--until", dest="last", choices=STAGES, default=STAGES[-1], help="end after this stage")
    parser.add_argument(
        "--force",
        choices=STAGES,
        action="append",
        default=[],
        help="make this stage again (may be repeated); later stages, whose identity stays the same, are kept",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and make nothing")
    options = parser.parse_intermixed_args(arguments)
    if STAGES.index(options.first) > STAGES.index(options.last):
        parser.error(f"--from {options.first} comes after --until {options.last}")
    wanted = STAGES[STAGES.index(options.first) : STAGES.index(options.last) + 1]
    if beyond := sorted(set(options.force) - set(wanted)):
        parser.error(f"--force {beyond[0]} is not between --from {options.first} and --until {options.last}")
    with reported():
        started = time.perf_counter()
        plan = make_plan(load(options.config, options.overrides))
        steps = [step for stage in wanted for step in plan.of(stage)]
        pending = [step for step in steps if step.stage in options.force or not step.address.find()]
        if options.dry_run:
            for step in steps:
                print(f"{'make' if step in pending else 'keep'}  {step.name:17s} {shown(step.address.path)}")
            return
        walk(plan, steps, pending, options.force)
        if wanted[-1] == "report":
            say(f"report: {shown(plan.steps['report'].address.path / 'report.html')}")
        made, seconds = len(pending), time.perf_counter() - started
        say(f"{plan.config.name}: {made} results made, {len(steps) - made} kept, {seconds:.1f} s")


def walk(plan: Plan, steps: Sequence[Step], pending: Sequence[Step], force: Sequence[str]) -> None:
    """Make the steps in order, on one cluster where any of them needs one."""
    with contextlib.ExitStack() as stack:
        if any(step.stage in ON_RAY for step in pending):
            from actors.cluster import connected

            stack.enter_context(connected())
        for step in steps:
            make(plan, step, force=step.stage in force)


if __name__ == "__main__":
    main()
