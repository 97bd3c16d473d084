"""What every door shares: reading the command line, making one result, skipping what is there, saying what happens.

A stage is a module of this package with `run(work: Work) -> Outcome`. Where it does not open all files of its inputs,
`OPENED` says which, as patterns of names by the stage that made them. Torch, ray and vllm are imported inside `run`, so
that `--help` and a bad configuration are answered at once.
"""

import argparse
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from actors.survival import may_restart, outlive
from jobs.common.check import check
from jobs.common.provenance import provenance
from jobs.common.saying import doing, heard, say, shown, tell
from pipeline.errors import UserError, no_room
from pipeline.line.plan import make_plan
from pipeline.line.steps import VERSIONS, Plan, Step
from pipeline.results.artifacts import Artifact
from pipeline.results.files import write_aside
from pipeline.settings.config import RunConfig, load
from pipeline.settings.inputs import SAMPLED
from pipeline.settings.unused import unused


@dataclass(frozen=True)
class Work:
    """One result to be made: its plan and step, its inputs (committed, and verified where it opens them), and the
    folder to write into.
    """

    plan: Plan
    step: Step
    inputs: Mapping[str, Artifact]
    folder: Path

    @property
    def config(self) -> RunConfig:
        return self.plan.config


@dataclass
class Outcome:
    """What a stage says of its result; it becomes part of the manifest."""

    rows: dict[str, int]  # of each Parquet file
    tokens: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    scratch: tuple[str, ...] = ()  # of the unfinished folder, what a killed run goes on from, and that is no result


class Terminated(KeyboardInterrupt):
    """SIGTERM: the machine is wanted back."""


def main(stage: str, arguments: Sequence[str] | None = None) -> None:
    """The door of one stage: python -m jobs.<stage> --config FILE [section.key=value ...] [--force]."""
    parser = door(f"python -m jobs.{stage}", f"Make the result of stage {stage} from the committed results before it.")
    parser.add_argument("--force", action="store_true", help="make it again, even where it is committed")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        outlive(say)
        plan = planned(stage, options.config, options.overrides)
        steps = require_stage(plan, stage)
        check(plan, [step for step in steps if options.force or not step.address.find()], options.overrides)
        for step in steps:
            for line in places(make(plan, step, force=options.force)):
                say(line)


def require_stage(plan: Plan, stage: str) -> list[Step]:
    """The results of a stage. Raises UserError where this line has none."""
    steps = plan.of(stage)
    if not steps:
        config = plan.config
        why = {
            "weigh": (f"with objective.name={config.objective.name}", "it is there for tis-dpo, d2po, bmc and kto"),
            "bridge": ("where nobody edits pairs", "set bridge.judge or bridge.local"),
        }
        sampled = f"set data.source={SAMPLED} for pairs of the model's own answers"
        where, remedy = why.get(stage, (f"with data.source={config.data.source}", sampled))
        raise UserError(f"there is no stage {stage} {where}", remedy)
    return steps


class _Once(argparse.Action):
    """An option of which a second would silently take the place of the first."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        if (first := getattr(namespace, self.dest)) is not None:
            parser.error(f"{option} {first} and {option} {values}: give one; single settings as section.key=value")
        setattr(namespace, self.dest, values)


class Asked(Exception):
    """A parser on its way to whoever completes words, in place of what it would have parsed."""

    def __init__(self, parser: argparse.ArgumentParser):
        self.parser = parser


class Parser(argparse.ArgumentParser):
    """What every door reads its arguments with. While `asked`, a parser is raised as it is about to read any."""

    asked = False
    before = "python -m jobs."  # a door's name, as it was called

    def __init__(self, **options: Any):
        prog = options.pop("prog").replace("python -m jobs.", self.before)
        super().__init__(prog=prog, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if Parser.asked:
            raise Asked(self)
        return super().parse_known_args(args, namespace)


def door(
    command: str, description: str, manifest: bool = False, such_as: str = "configs/quickstart.yaml"
) -> argparse.ArgumentParser:
    """The arguments all doors take; with `manifest`, one may stand in place of the configuration."""
    parser = Parser(prog=command, description=description)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config",
        metavar="FILE",
        action=_Once,
        help=f"a YAML file, such as {such_as}, or a recipe by name (configs/README.md), such as papers/zephyr",
    )
    if manifest:
        help = "the manifest.json of a result: make it again, from the settings it was made with"
        source.add_argument("--from-manifest", dest="manifest", metavar="FILE", action=_Once, help=help)
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="change single settings, checked like the file"
    )
    return parser


@contextmanager
def reported() -> Iterator[None]:
    """Turns what ended the work into an exit status and one plain message.

    2: a UserError, without a traceback. 130: Ctrl-C. 143: SIGTERM. 1: anything else, which is our fault: what failed
    and where to look, then the traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except UserError as error:
        tell(f"error: {error}", sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        how, status = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        say(f"{how}; what is finished is kept, the same command goes on from there")
        os._exit(status)  # at once: threads that are inside Ray would meet its end on the way out, and crash
    except Exception as error:
        if full := no_room(error):
            tell(f"error: {full}", sys.stderr)
            sys.exit(2)
        notes = getattr(error, "__notes__", [])
        told = "; ".join(["failed unexpectedly", *notes])
        notes.clear()
        tell(f"{told}\n{''.join(traceback.format_exception(error))}", sys.stderr)
        sys.exit(1)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group's processes may be told twice
    raise Terminated


def say_first(command: str, config: str, overrides: Sequence[str] = ()) -> None:
    """Say what is about to be planned, before all else. Not where and how: an address may hold a secret."""
    say(" ".join((f"{command}: planning", config, *(each for each in overrides if not each.startswith("resources")))))


def planned(command: str, config: str, overrides: Sequence[str] = ()) -> Plan:
    """The plan of a configuration, by a door that is going to make something."""
    say_first(command, config, overrides)
    settings = load(config, overrides)
    may_restart(settings.resources.max_failures)
    with heard(command, settings.resources.log_seconds):
        doing("finding model and data")
        return make_plan(settings)


def make(plan: Plan, step: Step, force: bool = False) -> Artifact:
    """The result of one step: the committed one, or a new one. Raises UserError where an input is missing or spoilt.

    With `force`, a committed one stays until the new one is committed.
    """
    if not force and (artifact := kept(step)):
        return artifact
    with heard(step.name, plan.config.resources.log_seconds):
        doing("checking what it is made from")
        stage = importlib.import_module(f"jobs.{step.stage}")
        opened = getattr(stage, "OPENED", {})
        inputs = {role: step.input(role, opened.get(made.stage, ("*",))) for role, made in step.inputs.items()}
        line, own = plan.line_of(step)
        say(f"{step.name}: making {shown(step.address.path)}")
        started = time.perf_counter()
        with in_use(plan, *inputs.values()), step.address.writing(anew=force) as folder:
            if not force and (artifact := kept(step)):  # another process made it a moment ago
                return artifact
            try:
                doing("loading its libraries")
                outcome = stage.run(Work(line, own, inputs, folder))
            except Exception as error:
                error.add_note(f"{step.name} is not done, its finished parts are kept in {shown(folder)}")
                raise
            doing("committing it")
            seconds = time.perf_counter() - started
            artifact = step.address.commit(manifest(line, own, outcome, seconds), outcome.rows, outcome.scratch)
    rate = f", {outcome.tokens / seconds:,.0f} tokens/s" if outcome.tokens else ""
    say(f"{step.name}: done in {seconds:.1f} s, {sum(outcome.rows.values()):,} rows{rate}")
    return artifact


@contextmanager
def in_use(plan: Plan, *results: Artifact) -> Iterator[ExitStack]:
    """Within it jobs.prune leaves these results where they are, models that were converted for the plan, and what is
    entered later."""
    with ExitStack() as held:
        converted = [found for address in plan.conversions() if (found := address.find())]
        for each in (*results, *converted):
            held.enter_context(each.held())
        yield held


def kept(step: Step) -> Artifact | None:
    if artifact := step.address.find():
        say(f"{step.name}: committed already, kept ({shown(artifact.path)})")
    return artifact


PLACES = {"report.html": "report", "model": "trained model", "adapter": "trained adapters"}


def places(result: Artifact) -> Iterator[str]:
    """A line for what people look for in a result: the report, the trained model or its adapters."""
    if result.manifest["stage"] not in ("train", "report"):
        return
    for name in sorted({file.partition("/")[0] for file in result.manifest["outputs"]} & PLACES.keys()):
        place = shown(result.path / name)
        if result.store:
            here = f"and here {place}" if result.is_here() else "not here: python -m jobs.fetch brings it"
            place = f"{result.store.address(f'{result.name}/{name}')}, {here}"
        yield f"{PLACES[name]}: {place}"


def write_config(config: RunConfig, file: Path) -> None:
    """A configuration as a file, to run it alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_aside(file, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def manifest(plan: Plan, step: Step, outcome: Outcome, seconds: float) -> dict[str, Any]:
    return {
        "name": step.stage if step.run else step.name,
        "version": VERSIONS[step.stage],
        "identity": dict(step.identity),
        "inputs": {role: {"stage": i.name, "fingerprint": i.address.fingerprint} for role, i in step.inputs.items()},
        "resources": plan.config.resources.model_dump(mode="json"),
        "config": plan.config.model_dump(mode="json", exclude={"resources"}),
        "not_used": unused(plan.config),
        "provenance": provenance(),
        "seconds": round(seconds, 3),
        "rows": sum(outcome.rows.values()),
        "tokens": outcome.tokens,
        "metrics": outcome.metrics,
        "ledger": outcome.ledger,
    }
