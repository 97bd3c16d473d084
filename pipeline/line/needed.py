"""What configurations need: the fingerprints of every result that they mean, whether it is there or not."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.line.plan import make_plan, root_of
from pipeline.line.rounds import plan_rounds
from pipeline.line.steps import Plan, Step
from pipeline.line.study import plan_study
from pipeline.line.sweep import plan_sweep
from pipeline.results.files import MANIFEST
from pipeline.settings.config import load, validate
from pipeline.settings.file import override, read
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from pipeline.results.store import Store


@dataclass(frozen=True)
class Needs:
    """A configuration by its name, where its results are, and their fingerprints."""

    name: str
    root: Path
    store: "Store | None"
    fingerprints: frozenset[str]


def needs_of(path: str, overrides: Sequence[str]) -> Needs:
    """Of a run, or of a study, of rounds or of a sweep with all their runs. Raises UserError as planning them does."""
    runs, own = _runs(path, overrides)
    for plan, steps in runs:
        read_by = [step for each in steps for step in each.inputs.values()]  # such as pairs of an earlier round
        own |= {step.address.fingerprint for step in (*steps, *read_by)}
        own |= {one.fingerprint for one in plan.conversions()} | set(_holding(plan))
    return Needs(path, *_place(runs[0][0]), frozenset(own))


def _runs(path: str, overrides: Sequence[str]) -> tuple[list[tuple[Plan, Sequence[Step]]], set[str]]:
    """Every run that a file means, with its results; and the fingerprints of the pages over them."""
    raw = read(path, overrides)
    if "study" in raw:
        grid, page = plan_study(path, overrides)
        return [(plan, plan.until(grid.study.until)) for _, plan in grid.cells], {page.address.fingerprint}
    if "rounds" in raw:
        series = plan_rounds(path, overrides)
        over_all = series.page()
        pages = {over_all.address.fingerprint} if over_all else set[str]()
        return [(plan, series.steps_of(plan)) for plan in series.planned], pages
    if "sweep" in raw:  # whose runs follow from each other's figures: those that there were
        tuning = plan_sweep(path, overrides)
        plans = [tuning, *(make_plan(load(str(file))) for file in sorted(tuning.folder.glob("*.yaml")))]
        known = tuning.folder.parents[1].glob(f"{tuning.label}-*/{MANIFEST}")
        return [(plan, list(plan.steps.values())) for plan in plans], {_fingerprint(file) for file in known}
    plan = make_plan(validate(raw))
    return [(plan, list(plan.steps.values()))], set()


def _holding(plan: Plan) -> Iterator[str]:
    """Of the results that a path of the configuration lies in, such as a model that another run has trained."""
    root = _place(plan)[0].resolve()
    for text in _texts(plan.config.model_dump(mode="json")):
        if file := _manifest_of(text, root):
            yield _fingerprint(file)


def _manifest_of(given: str, root: Path) -> Path | None:
    """The manifest of the result below `root` that a path lies in; None of what is no path, or lies elsewhere."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # of texts that can be none
        path = Path(given).expanduser().resolve()
        if root in path.parents:
            stage, name, *_ = (*path.relative_to(root).parts, "")
            file = root / stage / name / MANIFEST
            return file if file.is_file() else None
    return None


def _texts(value: Any) -> Iterator[str]:
    """All texts in some settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _fingerprint(manifest: Path) -> str:
    return str(json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"])


def _place(plan: Plan) -> tuple[Path, "Store | None"]:
    address = plan.steps["prepare"].address
    return address.root, address.store


def needs(paths: Sequence[str], overrides: Sequence[str]) -> list[Needs]:
    """Raises UserError where configurations have their results in several places."""
    found = [needs_of(path, overrides) for path in paths]
    roots = {each.store.url if each.store else str(each.root) for each in found}
    if len(roots) > 1:
        problem = f"the configurations have their results in {len(roots)} places: {', '.join(sorted(roots))}"
        raise UserError(problem, "name those of one place, or give all of them one: resources.root=...")
    return found


def place_of(overrides: Sequence[str]) -> tuple[Path, "Store | None"]:
    """Where results are, without a configuration. Raises UserError where the overrides say anything else."""
    if other := next(
        (each for each in overrides if not each.startswith(("resources.root=", "resources.mirror="))), None
    ):
        raise UserError(f"{other}: of which configuration?", "give --config FILE; without it, resources.root alone")
    raw: dict[str, dict[str, object]] = {}
    override(raw, overrides)
    return root_of(Resources.model_validate(raw.get("resources", {})))
