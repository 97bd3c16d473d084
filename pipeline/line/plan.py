"""The line as data: which results a configuration means, what each depends on, and where it is.

    [sample ─► rate ─► pair ─►] [bridge ─►] prepare ─► [features ─►] reference ─► schedule [─► weigh] ─► train
    ─► generate ─► judge ─► report

Answers without torch, ray or vllm. A step is one result of one stage; generate makes two, one a model, and rate one a
rater. The first three are there where data.source is SAMPLED (onpolicy.py), bridge where somebody edits pairs, and
weigh where the objective asks for it: it may take results of two other runs (contrast.py). reference makes a second
result where training does not start from the reference, and one where the objective looks at features; the stage
features trains what finds them, where nothing is given that does. A stream of further pairs is a line of its own up to
its schedule, the one that its configuration alone would have; train joins the lines.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute.limits import require_trainable
from pipeline.compute.models import ModelSource, locate
from pipeline.compute.version import COMPUTE_VERSION
from pipeline.errors import UserError
from pipeline.line.contrast import SIDES, contrasts
from pipeline.line.identity import (
    READ_LATER,
    asked_of,
    bridge_of,
    data_of,
    features_of,
    judge_of,
    report_of,
    require_columns,
    taken_over,
    weigh_of,
    without_later,
)
from pipeline.line.onpolicy import Front, front
from pipeline.objectives.presets import resolve
from pipeline.onpolicy.bridging import SOURCE as BRIDGED
from pipeline.results.address import Address
from pipeline.results.artifacts import Artifact, fingerprint
from pipeline.results.files import MANIFEST, DigestMemory, given_path
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import SAMPLED, Weights
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from pipeline.results.store import Store

START = "reference:start"  # the step that scores pairs under the model that training starts from

STAGES = (
    *("sample", "rate", "pair", "bridge"),  # where they are asked for, as are features and weigh
    *("prepare", "features", "reference", "schedule", "weigh", "train", "generate", "judge", "report"),
)

OF_A_STREAM = STAGES[: STAGES.index("schedule") + 1]  # what its own line makes

# Raise a stage's version when its code changes what it writes.
VERSIONS = {"model": 1, "prepare": 5, "reference": 1, "schedule": 3, "train": 4, "generate": 4, "judge": 8, "report": 8}
VERSIONS |= {"sample": 2, "rate": 2, "pair": 2, "weigh": 1, "bridge": 2, "features": 2}
VERSIONS |= {"study": 4, "rounds": 2, "sweep": 1, "rank": 1}  # pages over several runs, and what jobs.rank makes


@dataclass(frozen=True)
class Step:
    """One result: its address, and the steps whose results it reads, by role."""

    # The stage, or stage:model for generate, stage:rater for rate, stage:side of another run for weigh; START or
    # reference:features. Of a stream's line stream/name.
    name: str
    address: Address
    identity: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    run: "Plan | None" = field(default=None, compare=False, repr=False)  # another run that it is of; weigh reads it
    stream: str | None = None  # whose line it is of

    @property
    def stage(self) -> str:
        return self.address.stage

    @property
    def part(self) -> str:
        """The stage of the line that it is made for."""
        return "weigh" if self.run else self.stage

    def input(self, role: str, opened: Collection[str] = ("*",)) -> Artifact:
        """A committed input, verified as far as it is `opened`. Raises UserError that names what makes it."""
        artifact = self.inputs[role].address.find()
        if artifact is None:
            raise self.lacks(role)
        return artifact.verify(opened=opened)

    def lacks(self, role: str) -> UserError:
        """What to say of an input that is not there."""
        step = self.inputs[role]
        return UserError(
            f"stage {self.stage} needs the result of stage {step.stage}, which is not at {step.address.path}",
            f"python -m jobs.{step.part} with the same --config and overrides, or python -m jobs.run",
        )


@dataclass(frozen=True)
class Plan:
    """A configuration and every result it means."""

    config: RunConfig
    model: ModelSource  # whose tokens are trained, and whose answers the trained model's are compared with
    start: ModelSource  # train.start: what is trained, and answers prompts
    reference: ModelSource  # reference.model
    judge: ModelSource | None  # judge.local
    steps: Mapping[str, Step]  # in the order of the line
    front: Front | None  # where pairs are made of answers of the model's own
    editor: ModelSource | None  # bridge.local
    streams: Mapping[str, "Plan"]  # of each its own line's

    def of(self, *stages: str) -> list[Step]:
        """The steps of some stages, in the order in which they are made."""
        return [step for step in self.steps.values() if step.part in stages]

    def line_of(self, step: Step) -> tuple["Plan", Step]:
        """The plan of the run or line that a step is of, and the step as it stands there."""
        if step.stream is None:
            return step.run or self, step
        line = self.streams[step.stream]
        return line, line.steps[step.name.removeprefix(f"{step.stream}/")]

    def until(self, stage: str) -> list[Step]:
        """All steps in order, up to a stage."""
        return self.of(*STAGES[: STAGES.index(stage) + 1])

    @property
    def model_folder(self) -> Path:
        return self.folder_of(self.model)

    def folder_of(self, model: ModelSource) -> Path:
        """Where a model is, or will be once it is converted: the base model by prepare."""
        return self.converted(model).path if model.is_gguf else model.path

    def conversions(self) -> list[Address]:
        """The addresses of all .gguf models of the configuration in Hugging Face format."""
        front = self.front
        others = (front.model, front.against, *(each.model for each in front.raters)) if front else ()
        own = (self.model, self.start, self.reference, self.judge, self.editor)
        return [self.converted(each) for each in (*own, *others) if each and each.is_gguf]

    def converted(self, model: ModelSource) -> Address:
        """The address of a .gguf model in Hugging Face format: the only result that is not a stage of the line."""
        digest = fingerprint("model", VERSIONS["model"], {"model": model.weights}, {})
        return self.steps["prepare"].address.beside("model", model.label, digest)


def role_of(name: str) -> str:
    """The role by which the report reads the step of a name."""
    return name.replace(":", "_")


def make_plan(config: RunConfig) -> Plan:
    """Everything a configuration will make. Raises UserError where the model or the data cannot be found."""
    root, store = root_of(config.resources)
    memory = DigestMemory(root)

    def found(weights: Weights | None, setting: str) -> ModelSource:
        model = locate(section := config.model_of(weights), memory, setting=setting)
        if not model.is_gguf:  # which is made float as it is converted
            require_trainable(model.path, f"{setting}.source={section.source}")
        return model

    model = found(None, "model")
    start = found(config.train.start, "train.start") if config.train.start else model
    reference = found(config.reference.model, "reference.model") if config.reference.model else model
    local = config.judge.local
    judge = locate(local, memory, setting="judge.local") if local else None
    steps: dict[str, Step] = {}

    def add(name: str, label: str, identity: Mapping[str, Any], **inputs: str | Step) -> None:
        stage = name.partition(":")[0]
        needed = {role: steps[other] if isinstance(other, str) else other for role, other in inputs.items()}
        digest = fingerprint(
            stage, VERSIONS[stage], identity, {role: step.address.fingerprint for role, step in needed.items()}
        )
        steps[name] = Step(name, Address(root, stage, readable(label) or stage, digest, store), identity, needed)

    def section(name: str) -> dict[str, Any]:
        return getattr(config, name).model_dump(mode="json")

    def weights(of: ModelSource) -> dict[str, Any]:
        return {"model": of.digest, "dtype": config.model.dtype, "compute": COMPUTE_VERSION}

    preset, parameters = resolve(config.objective.name, config.objective.parameters)
    sampled = front(config, start, memory) if config.data.source == SAMPLED else None
    for each in sampled.steps if sampled else ():
        name, label, identity, inputs = each
        add(name, label, identity, **inputs)
    content, first = data_of(config)
    require_columns(config, first)
    trained = {**preset.functions, "parameters": parameters}
    benchmark = section("generate") | {"benchmarks": asked_of(config)}
    compared = config.schedule.difficulty in ("reference-gap", "reference-gap-per-token")

    editor = locate(config.bridge.local, memory, setting="bridge.local") if config.bridge.local else None
    before = {"selected": steps["pair"], **_earlier(config.data.earlier, root, store)} if sampled else {}
    if config.bridge.by:
        add("bridge", Path(config.bridge.by).stem, bridge_of(config, editor, content), **before)
        content = {name: content[name] for name in READ_LATER if name in content} | {"content": BRIDGED}
        before = {"selected": steps["bridge"]}
    add("prepare", Path(config.data.source).stem, {"data": content, "tokenizer": model.digest}, **before)
    streams = {name: make_plan(config.of_stream(name)) for name in config.streams}
    beside = {step.name: step for name, line in streams.items() for step in _of_stream(name, line)}
    # All pairs first: what is wrong with them is told before any is scored.
    steps.update({name: step for name, step in beside.items() if step.stage not in ("reference", "schedule")})
    add("reference", reference.label, weights(reference), pairs="prepare")
    apart = start.digest != reference.digest
    if apart:
        add(START, start.label, weights(start), pairs="prepare")
    read = features_of(config, memory)
    if read:
        by = {}
        if config.features.source is None:
            add("features", reference.label, {**weights(reference), **read}, pairs="prepare")
            by["autoencoder"] = "features"
        add("reference:features", reference.label, {**weights(reference), **read}, pairs="prepare", **by)
    add(
        "schedule",
        config.schedule.order or "",
        without_later(config.schedule, "swap_labels"),
        pairs="prepare",
        **({"reference": "reference"} if compared else {}),
    )
    steps.update(beside)
    weighed = _add_weighing(add, steps, config, reference, weights(reference))
    # Before the training, which would be for nothing with a model that vLLM cannot serve.
    add("generate:base", model.label, {"generate": benchmark, "model": model.digest, "dtype": config.model.dtype})
    train = {
        "objective": trained,
        "train": without_later(config.train, "optimizer", aside=("start",)),  # which is there as its digest
        **weights(start),
        **taken_over(config, start),
    }
    if streams:
        train["streams"] = [[name, stream.weight] for name, stream in config.streams.items()]
    own = line_roles(config, apart)
    lines = {f"{role}:{name}": f"{name}/{step}" for name in streams for role, step in own.items()}
    add("train", config.objective.name, train, **own, **lines, **weighed)
    add("generate:trained", config.objective.name, {"generate": benchmark, "dtype": config.model.dtype}, model="train")
    add(
        "judge",
        "-".join(config.generate.benchmarks),
        judge_of(config, judge),
        base="generate:base",
        trained="generate:trained",
    )
    shown = {"report": report_of(config.report, steps["train"].address.fingerprint), "name": config.name}
    add("report", config.name, shown, **{role_of(name): name for name in steps})
    return Plan(config, model, start, reference, judge, steps, sampled, editor, streams)


def _earlier(given: Sequence[str], root: Path, store: "Store | None") -> dict[str, Step]:
    """The results of stage pair that data.earlier names, by role. Raises UserError where one of them is none."""
    found: dict[str, Step] = {}
    for number, name in enumerate(given):
        folder = given_path(name, "data.earlier").absolute()
        try:
            known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            digest, identity = known["fingerprint"], known["identity"]
            label = folder.name.removesuffix(f"-{digest[:12]}")
            right = known["stage"] == "pair" and label != folder.name
        except (OSError, ValueError, KeyError, TypeError):
            right = False
        if not right:
            raise UserError(f"data.earlier={name}: is no result of stage pair", "give ROOT/pair/NAME, as it is printed")
        address = Address(folder.parents[1], "pair", label, digest, store if folder.parents[1] == root else None)
        if any(step.address.fingerprint == digest for step in found.values()):
            raise UserError(f"data.earlier names {folder.name} twice", "name each result once")
        found[f"earlier_{number}"] = Step("pair", address, identity)
    return found


def _add_weighing(
    add: Callable[..., None], steps: dict[str, Step], config: RunConfig, model: ModelSource, weights: Mapping[str, Any]
) -> dict[str, str]:
    """Add what the objective asks of tokens, and of other runs; returns what training reads of it, by role."""
    preset, _ = resolve(config.objective.name, config.objective.parameters)
    if config.streams and (preset.token_columns or "mismatched" in preset.needs):
        problem = (
            f"objective.name={config.objective.name} looks at tokens or pairs of one source, and there are streams"
        )
        raise UserError(problem, "leave out streams, or choose another objective")
    read = {}
    if preset.token_columns:
        add("weigh:base", model.label, weights, pairs="prepare")
        read["token_reference"] = "weigh:base"
    if "contrast" in preset.token_columns:
        scored = {name: weights[name] for name in ("dtype", "compute")}
        for side, other in contrasts(config).items():
            run = make_plan(other)
            for stage in ("schedule", "train"):
                steps[f"{stage}:{side}"] = replace(run.steps[stage], name=f"{stage}:{side}", run=run)
            add(f"weigh:{side}", side, scored, pairs="prepare", model=f"train:{side}")
        add("weigh", config.weigh.transform, weigh_of(config), schedule="schedule", **{s: f"weigh:{s}" for s in SIDES})
        read["contrast"] = "weigh"
    if "mismatched" in preset.needs:
        stepwise = {**weights, "batch_size": config.train.batch_size}
        add("weigh:mismatched", model.label, stepwise, pairs="prepare", reference="reference", schedule="schedule")
        read["mismatched"] = "weigh:mismatched"
    return read


def root_of(resources: Resources) -> tuple[Path, "Store | None"]:
    """The folder that stages work in, and the store that it mirrors, if there is one. Raises UserError."""
    if "://" not in resources.root:
        return given_path(resources.root, "resources.root").absolute(), None  # workers run elsewhere
    from pipeline.results.store import Store

    store = Store(resources.root)
    return store.mirror(given_path(resources.mirror, "resources.mirror").absolute()), store


def line_roles(config: RunConfig, apart: bool) -> dict[str, str]:
    """The roles in which train reads a line's results, and the steps that make them; of a stream `role:stream`."""
    roles = {"pairs": "prepare", "reference": "reference", "schedule": "schedule"}
    if apart:
        roles["start"] = START
    if config.reads_features:
        roles["features"] = "reference:features"
        roles |= {"autoencoder": "features"} if config.features.source is None else {}
    return roles


def _of_stream(stream: str, line: Plan) -> list[Step]:
    """The steps of a stream's own line, under its name."""
    found: dict[str, Step] = {}
    for step in line.of(*OF_A_STREAM):
        inputs = {role: found[other.name] for role, other in step.inputs.items()}
        found[step.name] = replace(step, name=f"{stream}/{step.name}", inputs=inputs, stream=stream)
    return [*found.values()]


def readable(label: str) -> str:
    """What is left of a user's name that is good for a folder's."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.")
