"""The one check before any work: what the settings, the data, the models, this machine and the cluster cannot do.

The same for every door and for --dry-run. What only a made result shows is looked at again once it is made.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial

from jobs.common.saying import say
from pipeline.errors import UserError
from pipeline.line.check import faults, found
from pipeline.line.steps import Plan, Step
from pipeline.results.files import given_path
from pipeline.settings.config import RunConfig
from pipeline.settings.unused import described, refuse_unused, unused


def check(plan: Plan, steps: Sequence[Step], overrides: Sequence[str] = ()) -> None:
    """Raise UserError with every fault that making `steps` in order would meet, as far as it can be known now.

    Settings without effect are said, and refused where `overrides` hold them.
    """
    check_all([(plan, steps)], overrides)


def check_all(planned: Sequence[tuple[Plan, Sequence[Step]]], overrides: Sequence[str] = ()) -> None:
    """The same of several plans at once, such as a study's cells: what one of them uses is used."""
    idle = _unused([plan for plan, _ in planned])
    refuse_unused(idle, overrides)
    if idle:
        say(f"not used: {described(idle)}")
    recheck(planned)


def recheck(planned: Sequence[tuple[Plan, Sequence[Step]]]) -> None:
    """Once more, now that something is made that says more: of the pairs, which columns they lack."""
    errors: dict[str, UserError] = {}
    for plan, steps in planned:
        here = [partial(look, plan, steps) for look in (endpoint, places, root, trackers)]
        for error in [*faults(plan, steps), *found(here)]:
            errors.setdefault(str(error), error)
    if errors:
        first, *others = errors.values()
        raise UserError(first.problem, "".join([first.remedy, *(f"\nerror: {other}" for other in others)]))


def _unused(plans: Sequence[Plan]) -> Mapping[str, str]:
    first, *others = (unused(plan.config) for plan in plans)
    return {setting: why for setting, why in first.items() if all(setting in other for other in others)}


def endpoint(plan: Plan, steps: Sequence[Step]) -> None:
    """A judge without a URL, or whose key is not in the environment; whoever asks it, a stream's line among them."""
    lines = [(step.stage, plan.line_of(step)[0].config) for step in steps]
    if any(asks(stage, config) for stage, config in lines):
        from jobs.common.ask_judge import address

        address(plan.config.resources.judge_endpoint)


def asks(stage: str, config: RunConfig) -> bool:
    """Whether a stage of a line puts anything to the judge at the endpoint."""
    judges = {"judge": [config.judge.model], "bridge": [config.bridge.judge]}
    judges["rate"] = [rater.judge for rater in config.rate.raters]
    return any(name is not None for name in judges.get(stage, ()))


def root(plan: Plan, steps: Sequence[Step]) -> None:
    """A place for results that is no folder, or where none can be made."""
    given = plan.config.resources.root
    if not steps or "://" in given:
        return
    folder = given_path(given, "resources.root").absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is no folder" if not there.is_dir() else "may not be written"
        raise UserError(f"resources.root={given}: {there} {what}", "give a folder with room that you may write")


def trackers(plan: Plan, steps: Sequence[Step]) -> None:
    """A tracker whose package is not here; or its key, where workers find what this process does."""
    if not plan.config.resources.trackers or not any(step.stage == "train" for step in steps):
        return
    from actors.cluster import starts_its_own
    from actors.trackers import require_installed, require_key

    for name in plan.config.resources.trackers:
        require_installed(name)
        if starts_its_own():
            require_key(name)


def places(plan: Plan, steps: Sequence[Step]) -> None:
    """More actors than the cluster can place, for any stage."""
    resources, gpus = plan.config.resources, plan.config.resources.gpus_per_actor
    edited = any(plan.line_of(step)[0].editor for step in steps if step.stage == "bridge")
    pools = {
        "sample": ("resources.generators", resources.generators, gpus),
        "rate": ("resources.scorers", resources.scorers, gpus),
        "features": ("resources.scorers", 1, gpus),
        "reference": ("resources.scorers", resources.scorers, gpus),
        "weigh": ("resources.scorers", resources.scorers, gpus),
        "generate": ("resources.generators", resources.generators, gpus),
        "train": ("resources.train_workers", resources.workers.least, min(gpus, 1.0)),
        "judge": ("resources.judges", resources.judges if plan.judge else 0, gpus),
        "bridge": ("resources.judges", resources.judges if edited else 0, gpus),
    }
    asked = [pools[stage] for stage in dict.fromkeys(step.stage for step in steps) if stage in pools]
    if all(actors <= 1 and not gpus for _, actors, gpus in asked):
        return  # any cluster has room for them
    from actors.cluster import nodes_ahead, require_places, starts_its_own

    nodes = nodes_ahead()
    if nodes is not None and (starts_its_own() or not resources.wait_for_cluster):  # others may come, but not here
        for setting, actors, each in asked:
            require_places(setting, actors, each, nodes)
