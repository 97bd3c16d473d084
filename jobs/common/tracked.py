"""A finished training on its way to trackers: the steps they have not got, the run's figures, and its page."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import say
from pipeline.errors import UserError
from pipeline.line.steps import Plan, Step
from pipeline.results.inventory import TRACKING
from pipeline.settings.config import RunConfig

if TYPE_CHECKING:
    from actors.trackers import Run

PAGE_SECONDS = 120.0  # that a tracker has for the page at the end of a run
_NOT_FIGURES = ("kinds", "profile", "empty", "constant")  # of a judge's; the page has them


def run_of(step: Step, config: RunConfig) -> "Run":
    """What trackers are told of a train step: nothing of resources, which say where and how."""
    from actors.trackers import Run

    address, settings = step.address, config.model_dump(mode="json", exclude={"resources"})
    return Run(address.fingerprint, address.path.name, settings, address.root.resolve() / TRACKING)


def replay(plan: Plan, name: str) -> tuple[int, str]:
    """Send a tracker what it has not got of the committed results; returns of how many steps, and what to open.

    Raises UserError where the tracker cannot be used or does not take it, or nothing was trained.
    """
    from actors.trackers import TRACKERS, require_installed, require_key
    from actors.tracking import in_a_line, send

    require_installed(name)
    require_key(name)
    step, steps = plan.steps["train"], "steps.parquet"
    if (train := step.address.find()) is None:
        problem = f"nothing is trained yet: there is no result at {step.address.path}"
        raise UserError(problem, "python -m jobs.run with the same --config and overrides trains")
    file, report, figures = train.verify(opened=(steps,)).path / steps, page(plan), dict(summary(plan))
    try:
        tracker = TRACKERS[name](run_of(step, plan.config))
        told = send(tracker, rows(file))
        tracker.attach(report, figures)
        tracker.close()
    except (Exception, SystemExit) as error:
        problem = f"{name} does not take the run ({in_a_line(error)})"
        raise UserError(
            problem, "mend what it says; it keeps what it has, and the same command sends the rest"
        ) from None
    return told, tracker.where


def hand_over(plan: Plan, names: Sequence[str]) -> None:
    """The same at the end of a run, to all trackers at once, which may take so long and fail: the results are there."""

    def one(name: str) -> None:
        try:
            replay(plan, name)
            ended.append(name)
            say(f"{name} has the run's figures{there}")
        except UserError as error:
            ended.append(name)
            say(f"{name} has not got the page: {error.problem}; python -m jobs.track --to {name} sends it")

    ended: list[str] = []
    there = " and its page" if plan.steps["report"].address.find() else ""
    threads = [threading.Thread(target=one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PAGE_SECONDS / len(threads))
    for name in [name for name in names if name not in ended]:
        say(f"{name} still takes the page, or hangs; it is left at that, and python -m jobs.track --to {name} sends it")


def rows(file: Path) -> Iterator[Mapping[str, Any]]:
    """Rows of tables.STEPS."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(file).iter_batches(1024):
        yield from batch.to_pylist()


def page(plan: Plan) -> Path | None:
    """The report's page, where it is made."""
    found = plan.steps["report"].address.find()
    return found.verify().path / "report.html" if found else None


def summary(plan: Plan) -> Iterator[tuple[str, float]]:
    """The figures of the whole run that are there: held-out pairs before and after, what the judge found."""
    for stage in ("train", "judge"):
        if found := plan.steps[stage].address.find():
            metrics = found.manifest["metrics"]
            yield from _numbers(metrics if stage == "judge" else metrics["held_out"], f"result/{stage}")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NOT_FIGURES:
                yield from _numbers(inner, f"{name}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)
