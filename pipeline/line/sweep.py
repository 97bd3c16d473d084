"""A sweep: methods that are tuned alike, by as many trials each, and then compared as they were chosen.

    sweep:
      methods:                              # as a study's; each may have ranges of its own
        dpo: {objective: dpo}
        gamma-dpo: {objective: gamma-dpo, ranges: {objective.tau: {log: [0.1, 8]}}}
      ranges:                               # of every method
        train.learning_rate: {log: [1.0e-5, 3.0e-4]}
      trials: 6                             # a method
      choose_by: accuracy                   # on the dev split; the test questions are for what is chosen
      seeds: [0, 1]                         # of what is chosen

A trial and a final run are lines of their own, which share what they can with all others.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.errors import UserError
from pipeline.line.plan import make_plan, readable
from pipeline.line.proposals import Trial, propose
from pipeline.line.steps import VERSIONS, Plan, Step
from pipeline.line.study import CHANGED, with_method, written_out
from pipeline.line.tuned import check_sweep
from pipeline.results.artifacts import fingerprint
from pipeline.settings.config import RunConfig, validate
from pipeline.settings.faults import own_section
from pipeline.settings.file import override, read
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.shorthand import expand
from pipeline.settings.sweep import Range, Sweep

BASELINE = "dpo"  # what methods are compared with, where a method is called so


class _File(BaseModel):
    sweep: Sweep


@dataclass(frozen=True)
class Run:
    """One line of a sweep: a trial, maybe a short one, or a final run."""

    name: str
    method: str
    settings: Mapping[str, Any]  # the tuned ones, by their dotted names
    config: RunConfig
    number: int | None = None  # of a trial
    seed: int | None = None  # of a final run


@dataclass(frozen=True)
class Tuning(Plan):
    """The plan of the base configuration, and what a sweep makes of it."""

    sweep: Sweep
    raw: Mapping[str, Any]  # the base configuration as it is written

    @property
    def trials_until(self) -> str:
        return "judge" if self.sweep.choose_by == "win_rate" else "train"

    @property
    def against(self) -> str:
        first = next(iter(self.sweep.methods))
        return self.sweep.against or (BASELINE if BASELINE in self.sweep.methods else first)

    @property
    def lengths(self) -> list[int | None]:
        """Values of halving's setting, one after the other; None is the whole length."""
        return [*(self.sweep.halving.values if self.sweep.halving else ()), None]

    def ranges(self, method: str) -> dict[str, Range]:
        return self.sweep.ranges | self.sweep.methods[method].ranges

    def trials(self, method: str) -> int:
        return self.sweep.trials if self.ranges(method) else 1

    def batches(self) -> list[range]:
        """Numbers of trials that are proposed together."""
        size = self.sweep.batch
        return [range(first, min(first + size, self.sweep.trials)) for first in range(0, self.sweep.trials, size)]

    def proposed(self, method: str, number: int, before: Sequence[Trial] = ()) -> dict[str, Any]:
        """The settings of a trial, from those of the batches before its own.

        At random, all methods meet the same values of what all have ranges of: luck is alike, too.
        """
        sweep = self.sweep
        return propose(self.ranges(method), sweep.sampler, sweep.seed, number, before)

    def trial(self, method: str, number: int, settings: Mapping[str, Any], length: int | None = None) -> Run:
        """Raises UserError where the settings do not go together."""
        name, more = f"{readable(method)}-trial{number}", dict(settings)
        raw = dict(self.raw)
        if self.sweep.halving and length is not None:
            more[self.sweep.halving.setting] = length
            name += f"-{self.sweep.halving.setting.partition('.')[2]}{length}"
        if self.sweep.choose_by == "win_rate":  # by rules, on questions that are for choosing
            generate, judge = (dict(raw.get(section) or {}) for section in ("generate", "judge"))
            raw["generate"] = generate | {"split": "dev", "benchmarks": {EMBEDDED: None}}
            raw["judge"] = {key: judge[key] for key in ("resamples", "seed") if key in judge}
        return Run(name, method, settings, self._config(raw, method, more, name), number=number)

    def final(self, method: str, settings: Mapping[str, Any], seed: int) -> Run:
        name = f"{readable(method)}-seed{seed}"
        raw = {**self.raw, "generate": {**(self.raw.get("generate") or {}), "split": "test"}}
        more = {**settings, "schedule.seed": seed, "train.seed": seed}
        return Run(name, method, settings, self._config(raw, method, more, name), seed=seed)

    def _config(self, raw: Mapping[str, Any], method: str, settings: Mapping[str, Any], name: str) -> RunConfig:
        changes = self.sweep.methods[method].model_dump(include=set(CHANGED))
        written = copy.deepcopy(with_method(raw, changes))  # overrides go in place
        try:
            override(written, [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()])
            return validate(written | {"name": name})
        except UserError as error:
            raise UserError(f"sweep.methods.{method}: {error.problem}", error.remedy) from None

    @property
    def digest(self) -> str:
        """Of what proposals and figures of trials depend on: more trials or seeds of the same sweep are its like."""
        sweep = self.sweep.model_dump(mode="json", exclude={"trials", "seeds", "until", "against"})
        base = self.config.model_dump(mode="json", exclude={"resources", "name", "report", "judge"})
        steps = {name: self.steps[name].address.fingerprint for name in ("reference", "train", "generate:base")}
        return fingerprint("sweep", VERSIONS["sweep"], {"sweep": sweep, "base": base}, steps)

    @property
    def label(self) -> str:
        return readable(self.config.name) or "sweep"

    @property
    def folder(self) -> Path:
        """Where the sweep keeps Optuna's file and its lines' configurations."""
        return self.steps["prepare"].address.root / "sweep" / "trials" / f"{self.label}-{self.digest[:12]}"


@dataclass(frozen=True)
class Swept(Plan):
    """A sweep that is over, as its page shows it."""

    tuning: Tuning
    trials: tuple[Trial, ...]
    runs: tuple[tuple[Run, Plan], ...]  # of trials, short ones too, whose results are there
    finals: tuple[tuple[Run, Plan], ...]  # the same of final runs
    lost: Mapping[str, str]  # final runs that failed, and why

    def step(self) -> Step:
        """The step that makes the page: a result like any other, found by those that it shows."""
        tuning, inputs = self.tuning, dict[str, Step]()
        for runs, until in ((self.runs, tuning.trials_until), (self.finals, tuning.sweep.until)):
            for run, plan in runs:
                inputs |= {
                    f"{run.name}:{step.stage}": step for step in plan.of("train", "judge") if step in plan.until(until)
                }
        identity = {
            "sweep": tuning.sweep.model_dump(mode="json"),
            "name": tuning.config.name,
            "judge": tuning.config.judge.model_dump(mode="json", include={"resamples", "seed"}),
            "failed": {f"{trial.method} {trial.number}": trial.reason for trial in self.trials if trial.figure is None},
            "lost": dict(self.lost),
        }
        made_from = {role: step.address.fingerprint for role, step in inputs.items()}
        digest = fingerprint("sweep", VERSIONS["sweep"], identity, made_from)
        address = tuning.steps["prepare"].address.beside("sweep", tuning.label, digest)
        return Step("sweep", address, identity, inputs)


def plan_sweep(path: str, overrides: Sequence[str] = ()) -> Tuning:
    """The sweep that a file means. Raises UserError for a bad configuration of any method, anywhere in its ranges."""
    _named_once(read(path).get("sweep"))  # an override may well name what the file does
    raw = expand(read(path, overrides))
    sweep: Sweep = own_section(raw, path, _File, "configs/bench/noise.yaml", _long)
    raw.pop("study", None)  # of another door
    tuning = Tuning(**vars(make_plan(validate(raw))), sweep=sweep, raw=raw)
    check_sweep(tuning)
    return tuning


def _long(sweep: Any) -> Any:
    """The section with its short forms written out, and ranges by the dotted names of their settings."""
    sweep = written_out(sweep)
    if not isinstance(sweep, dict):
        return sweep
    if isinstance(methods := sweep.get("methods"), dict):
        sweep = sweep | {"methods": {name: _with_ranges(method) for name, method in methods.items()}}
    return _with_ranges(sweep)


def _with_ranges(section: Any) -> Any:
    if not isinstance(section, dict) or not isinstance(section.get("ranges"), dict):
        return section
    return section | {"ranges": dict(_flat(section["ranges"]))}


def _named_once(sweep: Any) -> None:
    """Raise UserError where a setting has two ranges, one by its dotted name and one below its section."""
    methods = sweep.get("methods") if isinstance(sweep, dict) else None
    own = methods.values() if isinstance(methods, dict) else ()
    for section in (sweep, *own):
        if isinstance(section, dict) and isinstance(ranges := section.get("ranges"), dict):
            names = [name for name, _ in _flat(ranges)]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UserError(f"ranges of a sweep name {twice} twice", "leave one of them out")


def _flat(ranges: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, Any]]:
    """Ranges however deep they stand, as overrides put them; a list is a choice."""
    found: list[tuple[str, Any]] = []
    for name, value in ranges.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value and not set(value) & set(Range.model_fields) and depth < 4:
            found += _flat(value, f"{path}.", depth + 1)
        else:
            found.append((path, {"choice": value} if isinstance(value, list) else value))
    return found
