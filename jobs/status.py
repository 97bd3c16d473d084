"""What of a configuration is there, a line a result: python -m jobs.status --config FILE [section.key=value ...]"""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jobs.common.saying import shown, tell
from jobs.common.stage import door, reported
from pipeline.line.plan import make_plan
from pipeline.line.rounds import Series, plan_rounds
from pipeline.line.steps import Plan, Step
from pipeline.results.address import leftovers
from pipeline.settings.config import RunConfig, load
from pipeline.settings.file import read


def main(arguments: Sequence[str] | None = None) -> None:
    options = door(
        "python -m jobs.status", "Say of every result whether it is committed, partial, stale or missing."
    ).parse_intermixed_args(arguments)
    with reported():
        if "rounds" in read(options.config, options.overrides):
            plans = rounds(plan_rounds(options.config, options.overrides))
        else:
            plans = [make_plan(load(options.config, options.overrides))]
            results(plans[0], plans[0].steps.values())
        prepared = plans[0].steps["prepare"].address.find()
        if prepared and (end := prepared.manifest["metrics"].get("end_of_turn")):
            tell(f"a turn ends with {end['text']} (token {end['token']}), in training and in answers")
        for told in unfinished(plans):
            tell(told)


def results(plan: Plan, steps: Iterable[Step]) -> None:
    tell(f"{'result':17s} {'status':10s} {'rows':>9s} {'seconds':>9s}  address")
    for step in steps:
        tell(line(step, plan.config))


def rounds(series: Series) -> list[Plan]:
    """Say it of every round, as far as it is known, and of the page over all."""
    for number, plan in enumerate(series.planned, 1):
        tell(f"round {number} of {series.rounds.count}")
        results(plan, series.steps_of(plan))
    for told in series.not_known:
        tell(told)
    if page := series.page():
        tell(line(page, series.config))
    return list(series.planned)


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


def unfinished(plans: Sequence[Plan]) -> list[str]:
    """A line for each folder that a killed run left, of other settings or of a forced run, and how to be rid of it."""
    ours = {step.address.partial for plan in plans for step in plan.steps.values() if not step.address.find()}
    told = []
    for folder, lock in leftovers(plans[0].steps["prepare"].address.root).items():
        if folder not in ours:
            files = [file.stat() for file in folder.rglob("*") if file.is_file()]
            hours = (time.time() - max((file.st_mtime for file in files), default=folder.stat().st_mtime)) / 3600
            size = sum(file.st_size for file in files) / 1e6
            rid = shlex.join(["rm", "-r", *(shown(path) for path in (folder, lock) if path.exists())])
            told.append(f"left over: {size:,.1f} MB, last written {hours:.1f} h ago; unless it is being made: {rid}")
    return told


if __name__ == "__main__":
    main()
