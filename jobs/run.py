"""Walk the line and make what is not there: python -m jobs.run --config FILE [section.key=value ...] [--dry-run]"""

import argparse
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.survival import may_restart, outlive
from jobs.common.check import check, recheck
from jobs.common.provenance import provenance
from jobs.common.saying import doing, heard, say, shown, tell
from jobs.common.stage import door, in_use, make, places, planned, reported, require_stage, say_first
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.line.steps import STAGES, VERSIONS, Plan, Step
from pipeline.results.artifacts import Artifact
from pipeline.settings.config import load, validate
from pipeline.settings.file import override

ON_RAY = ("sample", "rate", "bridge", "features", "reference", "weigh", "train", "generate")


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Those of the command line; `wanted` are the stages from the first to the last."""
    parser = door("python -m jobs.run", "Make every result of the line that is not committed yet.", manifest=True)
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
    options.wanted = STAGES[STAGES.index(options.first) : STAGES.index(options.last) + 1]
    if beyond := sorted(set(options.force) - set(options.wanted)):
        parser.error(f"--force {beyond[0]} is not between --from {options.first} and --until {options.last}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    with reported():
        outlive(say)
        started, plan = time.perf_counter(), plan_of(options)
        steps = plan.of(*options.wanted)
        for stage in ({options.first} - {STAGES[0]}) | {options.last, *options.force}:
            require_stage(plan, stage)
        pending = [step for step in steps if step.part in options.force or not step.address.find()]
        check(plan, pending, options.overrides)
        if options.dry_run:
            from jobs.fit import brief

            for step in steps:
                tell(f"{'make' if step in pending else 'keep'}  {step.name:17s} {shown(step.address.path)}")
            for line in brief(plan, pending):
                tell(line)
            return
        for result in walk(plan, steps, pending, options.force):
            for line in places(result):
                say(line)
        if plan.config.resources.trackers and any(step.stage in ("train", "judge", "report") for step in pending):
            from jobs.common.tracked import hand_over

            hand_over(plan, plan.config.resources.trackers)
        made, seconds = len(pending), time.perf_counter() - started
        say(f"{plan.config.name}: {made} results made, {len(steps) - made} kept, {seconds:.1f} s")


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options mean; before the planning of what will be made it is said."""
    if options.manifest:
        if not options.dry_run:
            say_first("run", options.manifest, options.overrides)
        plan = plan_again(Path(options.manifest), options.overrides)
        may_restart(plan.config.resources.max_failures)
        return plan
    if options.dry_run:
        return make_plan(load(options.config, options.overrides))
    return planned("run", options.config, options.overrides)


def plan_again(file: Path, overrides: Sequence[str]) -> Plan:
    """The plan of the run that wrote a manifest.

    Raises UserError where its result would not be the same one, unless `overrides` ask for another.
    """
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        raw = manifest["config"] | {"resources": manifest["resources"]}
        name, then = manifest["name"], manifest["provenance"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"--from-manifest {file}: is no manifest of a result of the line ({type(error).__name__}: {error})"
        raise UserError(problem, "give ROOT/<stage>/<label>-<fingerprint>/manifest.json") from None
    override(raw, overrides)
    plan = make_plan(validate(raw))
    if name not in plan.steps:
        problem = f"--from-manifest {file}: is of {name}, which is no result of the line"
        raise UserError(problem, "jobs.study or jobs.rounds with its --config makes a page over several runs again")
    step = plan.steps[name]
    if step.address.fingerprint != manifest["fingerprint"] and all(o.startswith("resources.") for o in overrides):
        raise UserError(
            f"--from-manifest {file}: {name} would be another result, as {', '.join(changed(manifest, step))} changed",
            f"bring back what it was made from (its code was commit {then['commit']}), or run with --config",
        )
    now = provenance()
    other = [f"{key} {was}" for key, was in then["versions"].items() if now["versions"].get(key) != was]
    if other or then["commit"] != now["commit"]:
        say(f"run: it was made by commit {then['commit']}{' with ' if other else ''}{', '.join(other)}")
    return plan


def changed(manifest: dict[str, Any], step: Step) -> list[str]:
    """What differs between a manifest and the same step today."""
    here = json.loads(json.dumps(dict(step.identity)))
    names = [key for key in here | manifest["identity"] if here.get(key) != manifest["identity"].get(key)]
    for role, known in manifest["inputs"].items():
        if role not in step.inputs or step.inputs[role].address.fingerprint != known["fingerprint"]:
            names.append(f"its {role}")
    return names + (["the stage's code"] if manifest["version"] != VERSIONS[step.stage] else [])


def walk(plan: Plan, steps: Sequence[Step], pending: Sequence[Step], force: Sequence[str]) -> list[Artifact]:
    """The line's own results of the steps, all made in order, on one cluster from the first that needs one."""
    made = []
    kept = [found for step in steps if step not in pending and (found := step.address.find())]
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(in_use(plan, *kept))
        for number, step in enumerate(steps):
            if step.stage in ON_RAY and step in pending:
                from actors.cluster import connected

                with heard("run", plan.config.resources.log_seconds):
                    doing("starting or joining Ray")
                    stack.enter_context(connected())  # does nothing the second time
            result = held.enter_context(make(plan, step, force=step.part in force).held())
            if not step.run:  # another run's model is not what was asked for
                made.append(result)
            if step.stage == "prepare" and step in pending:
                recheck([(plan, [later for later in steps[number + 1 :] if later in pending])])
    return made


if __name__ == "__main__":
    main()
