"""What of a configuration is there, a line a result: python -m jobs.status --config FILE [section.key=value ...]"""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.common.saying import shown, tell
from jobs.common.stage import door, reported
from pipeline.line.plan import Plan, Step, make_plan
from pipeline.results.address import leftovers
from pipeline.settings.config import RunConfig, load


def main(arguments: Sequence[str] | None = None) -> None:
    options = door(
        "python -m jobs.status", "Say of every result whether it is committed, partial, stale or missing."
    ).parse_intermixed_args(arguments)
    with reported():
        plan = make_plan(load(options.config, options.overrides))
        tell(f"{'result':17s} {'status':10s} {'rows':>9s} {'seconds':>9s}  address")
        for step in plan.steps.values():
            tell(line(step, plan.config))
        if (prepared := plan.steps["prepare"].address.find()) and (
            end := prepared.manifest["metrics"].get("end_of_turn")
        ):
            tell(f"a turn ends with {end['text']} (token {end['token']}), in training and in answers")
        for told in unfinished(plan):
            tell(told)


def line(step: Step, config: RunConfig) -> str:
    artifact = step.address.find()
    rows, seconds = (
        (f"{artifact.manifest['rows']:,}", f"{artifact.manifest['seconds']:.1f}") if artifact else ("-", "-")
    )
    place = shown(artifact.path if artifact else step.address.path)
    if store := step.address.store:
        place = store.address(artifact.name if artifact else f"{step.stage}/{step.address.path.name}")
    status = "committed" if artifact else step.address.status(alike(config))
    return f"{step.name:17s} {status:10s} {rows:>9s} {seconds:>9s}  {place}"


def alike(config: RunConfig) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a manifest is of a run of the same model on the same data: another's results are none of ours, stale."""

    def same(manifest: Mapping[str, Any]) -> bool:
        sections = manifest.get("config", {})
        return all(sections.get(name, {}).get("source") == getattr(config, name).source for name in ("model", "data"))

    return same


def unfinished(plan: Plan) -> list[str]:
    """A line for each folder that a killed run left, of other settings or of a forced run, and how to be rid of it."""
    ours = {step.address.partial for step in plan.steps.values() if not step.address.find()}
    told = []
    for folder, lock in leftovers(plan.steps["prepare"].address.root).items():
        if folder not in ours:
            files = [file.stat() for file in folder.rglob("*") if file.is_file()]
            hours = (time.time() - max((file.st_mtime for file in files), default=folder.stat().st_mtime)) / 3600
            size = sum(file.st_size for file in files) / 1e6
            rid = shlex.join(["rm", "-r", *(shown(path) for path in (folder, lock) if path.exists())])
            told.append(f"left over: {size:,.1f} MB, last written {hours:.1f} h ago; unless it is being made: {rid}")
    return told


if __name__ == "__main__":
    main()
