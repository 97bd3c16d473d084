"""A study: one configuration, and a grid of changes to it. Every cell is a line of its own that shares what it can.

    study:
      methods:                       # a name, and the sections that make it
        dpo: {objective: {name: dpo, beta: 0.1}}
        mixdpo: {objective: {name: mixdpo}, schedule: {sft_percentile: 30}}
      flip_fractions: [0, 0.4]
      seeds: [0, 1]                  # of the order, of the flips and of the training

The cells of one seed and flip fraction flip the same pairs. Prepare and reference are the same for all cells, unless
the pairs are made of the model's own answers and a method samples, rates or pairs in its own way.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pipeline.errors import UserError
from pipeline.line.plan import make_plan, readable
from pipeline.line.steps import VERSIONS, Plan, Step
from pipeline.results.artifacts import fingerprint
from pipeline.settings.config import RunConfig, Section, validate
from pipeline.settings.faults import own_section, refuse_odd_values
from pipeline.settings.file import read
from pipeline.settings.inputs import SAMPLED
from pipeline.settings.shorthand import expand

# The sections a method may change; the others are shared by all cells. The second are of data.source=SAMPLED alone.
CHANGED = ("objective", "schedule", "train")
PAIRING = ("sample", "rate", "pair")
LONGEST = 100  # bytes of a method's name: files are called so, with a trial's or a cell's number


class Study(Section):
    methods: dict[str, dict[Literal["objective", "schedule", "train", "sample", "rate", "pair"], dict[str, Any]]] = (
        Field(min_length=1, examples=[{"dpo": {"objective": {"name": "dpo"}}}])
    )
    flip_fractions: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.0], min_length=1, examples=[[0, 0.2]])
    seeds: list[int] = Field(default=[0], min_length=1, examples=[[0, 1]])
    # judge: answers and win rates. train: held-out accuracy and margin alone, at a fraction of the time.
    until: Literal["train", "judge"] = "judge"


class _File(BaseModel):
    study: Study


@dataclass(frozen=True)
class Cell:
    """One point of the grid and the configuration it means."""

    method: str
    flip_fraction: float
    seed: int
    config: RunConfig

    @property
    def name(self) -> str:
        """A name that is good for a file and for a line of progress."""
        return f"{readable(self.method)}-flip{self.flip_fraction:.15g}-seed{self.seed}"


def load_study(path: str, overrides: Sequence[str] = ()) -> tuple[Study, RunConfig, list[Cell]]:
    """The study, the configuration it changes, and its cells: methods, then flip fractions, then seeds.

    Raises UserError as config.load does, with the method's name where a method is at fault.
    """
    raw = expand(read(path, overrides))
    study: Study = own_section(raw, path, _File, "configs/study-noise.yaml", written_out)
    raw.pop("sweep", None)  # of another door
    base = validate(raw)
    for name in ("flip_fractions", "seeds"):
        values = getattr(study, name)
        if len(set(values)) < len(values):
            raise UserError(f"study.{name}={values} names a value twice", "name each value once")
    cells = [
        Cell(method, flip, seed, _config(raw, method, changes, flip, seed))
        for method, changes in study.methods.items()
        for flip in study.flip_fractions
        for seed in study.seeds
    ]
    require_names(study.methods, "study")
    return study, base, cells


def require_names(methods: Collection[str], door: str) -> None:
    """Raise UserError where a method's name is none for a file, or that of another."""
    names = [readable(method) for method in methods]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two methods of the {door} are both called {twice[0]!r} as a file", "rename one of them")
    for method, name in zip(methods, names, strict=True):
        if not 0 < len(name.encode()) <= LONGEST:
            problem = f"{door}.methods.{method}: the method's name is none for a file"
            raise UserError(problem, f"give one of letters and digits, {LONGEST} bytes at most")


def written_out(study: Any) -> Any:
    """The section with the short forms in its methods written out."""
    methods = study.get("methods") if isinstance(study, dict) else None
    if not isinstance(methods, dict):
        return study
    refuse_odd_values(study)
    written = {name: expand(changes) if isinstance(changes, dict) else changes for name, changes in methods.items()}
    return study | {"methods": written}


def _config(raw: dict[str, Any], method: str, changes: dict[Any, dict[str, Any]], flip: float, seed: int) -> RunConfig:
    written = with_method(raw, changes)
    written["schedule"] |= {"flip_fraction": flip, "seed": seed}
    written["train"] |= {"seed": seed}
    try:
        config = validate(written | {"name": method})
    except UserError as error:
        raise UserError(f"study.methods.{method}: {error.problem}", error.remedy) from None
    if config.data.source != SAMPLED and (unread := [name for name in PAIRING if name in changes]):
        problem = f"study.methods.{method} changes {' and '.join(unread)}, without data.source={SAMPLED}"
        raise UserError(problem, f"set data.source={SAMPLED}, or leave {' and '.join(unread)} out of the method")
    return config


def with_method(raw: Mapping[str, Any], changes: Mapping[Any, dict[str, Any] | None]) -> dict[str, Any]:
    """A configuration's content with what a method changes; its objective, where it has one, is another as a whole."""
    changed = (*CHANGED, *(name for name in PAIRING if name in changes))
    sections = {name: dict(raw.get(name) or {}) | (changes.get(name) or {}) for name in changed}
    if changes.get("objective") is not None:
        sections["objective"] = dict(changes["objective"] or {})  # another objective has other parameters
    return {**raw, **sections}


@dataclass(frozen=True)
class Grid(Plan):
    """The plan of the study's page: the base configuration's, the study, and a plan for each cell."""

    study: Study
    cells: tuple[tuple[Cell, Plan], ...]

    def results(self) -> dict[str, Step]:
        """What the page reads: of every cell the training, and the verdicts where there are any; by `cell:stage`."""
        stages = ("train", "judge") if self.study.until == "judge" else ("train",)
        return {f"{cell.name}:{stage}": plan.steps[stage] for cell, plan in self.cells for stage in stages}

    @property
    def prepared(self) -> dict[str, Step]:
        """The different results of prepare, each by a cell that reads it."""
        found = {plan.steps["prepare"].address.path: (cell.name, plan.steps["prepare"]) for cell, plan in self.cells}
        return dict(found.values())


def plan_study(path: str, overrides: Sequence[str]) -> tuple[Grid, Step]:
    """The grid and the step that makes its page. Raises UserError for a bad configuration of any cell."""
    study, config, cells = load_study(path, overrides)
    base = make_plan(config)
    planned = tuple((cell, make_plan(cell.config)) for cell in cells)
    grid = Grid(**vars(base), study=study, cells=planned)
    inputs = grid.results()
    identity = {"study": study.model_dump(mode="json"), "name": config.name, "judge": config.judge.model_dump()}
    digest = fingerprint(
        "study", VERSIONS["study"], identity, {role: step.address.fingerprint for role, step in inputs.items()}
    )
    address = base.steps["prepare"].address.beside("study", readable(config.name) or "study", digest)
    return grid, Step("study", address, identity, inputs)
