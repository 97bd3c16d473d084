"""What configurations need: the fingerprints of every result that they mean, whether it is there or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import UserError
from pipeline.line.plan import Plan, make_plan, root_of
from pipeline.line.study import plan_study
from pipeline.settings.config import validate
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
    """Of a run, or of a study with all its cells. Raises UserError as planning it does."""
    raw = read(path, overrides)
    if "study" in raw:
        grid, page = plan_study(path, overrides)
        planned = [(plan, grid.steps_of(plan)) for _, plan in grid.cells]
        own = {page.address.fingerprint}
    else:
        plan = make_plan(validate(raw))
        planned, own = [(plan, list(plan.steps.values()))], set[str]()
    for each, steps in planned:
        own |= {step.address.fingerprint for step in steps} | {one.fingerprint for one in each.conversions()}
    place = _place(planned[0][0])
    return Needs(path, *place, frozenset(own))


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
