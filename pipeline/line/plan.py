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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
from pipeline.line.steps import OF_A_STREAM, START, VERSIONS, Plan, Step, role_of
from pipeline.objectives.presets import resolve
from pipeline.onpolicy.bridging import SOURCE as BRIDGED
from pipeline.results.address import Address
from pipeline.results.artifacts import fingerprint
from pipeline.results.files import MANIFEST, DigestMemory, given_path
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import SAMPLED, Model, Weights
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from pipeline.results.store import Store


class Models(NamedTuple):
    """The models of a configuration as they were found; see Plan."""

    model: ModelSource
    start: ModelSource
    reference: ModelSource
    judge: ModelSource | None
    editor: ModelSource | None

    @property
    def apart(self) -> bool:
        """Whether training starts from another model than the reference."""
        return self.start.digest != self.reference.digest


class Line:
    """The steps of a configuration as they are added, each after those that it reads."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.root, self.store = root_of(config.resources)
        self.memory = DigestMemory(self.root)
        self.steps: dict[str, Step] = {}

    def add(self, name: str, label: str, identity: Mapping[str, Any], **inputs: str | Step) -> None:
        """A step by what it depends on, and the steps, or their names, that it reads."""
        stage = name.partition(":")[0]
        needed = {role: self.steps[other] if isinstance(other, str) else other for role, other in inputs.items()}
        fingerprints = {role: step.address.fingerprint for role, step in needed.items()}
        digest = fingerprint(stage, VERSIONS[stage], identity, fingerprints)
        address = Address(self.root, stage, readable(label) or stage, digest, self.store)
        self.steps[name] = Step(name, address, identity, needed)

    def weights(self, of: ModelSource) -> dict[str, Any]:
        """What log-probs under a model depend on."""
        return {"model": of.digest, "dtype": self.config.model.dtype, "compute": COMPUTE_VERSION}


def make_plan(config: RunConfig) -> Plan:
    """Everything a configuration will make. Raises UserError where the model or the data cannot be found."""
    line = Line(config)
    models = _models(config, line.memory)
    sampled = front(config, models.start, line.memory) if config.data.source == SAMPLED else None
    _add_pairs(line, models, sampled)
    streams = {name: make_plan(config.of_stream(name)) for name in config.streams}
    beside = {step.name: step for name, own in streams.items() for step in _of_stream(name, own)}
    # All pairs first: what is wrong with them is told before any is scored.
    line.steps.update({name: step for name, step in beside.items() if step.stage not in ("reference", "schedule")})
    _add_scores(line, models)
    compared = config.schedule.difficulty in ("reference-gap", "reference-gap-per-token")
    read = {"pairs": "prepare", **({"reference": "reference"} if compared else {})}
    line.add("schedule", config.schedule.order or "", without_later(config.schedule, "swap_labels"), **read)
    line.steps.update(beside)
    weighed = _add_weighing(line, models.reference)
    _add_training(line, models, weighed)
    shown = {"report": report_of(config.report, line.steps["train"].address.fingerprint), "name": config.name}
    line.add("report", config.name, shown, **{role_of(name): name for name in line.steps})
    return Plan(config, **models._asdict(), steps=line.steps, front=sampled, streams=streams)


def _models(config: RunConfig, memory: DigestMemory) -> Models:
    def trained(weights: Weights | None, setting: str) -> ModelSource:
        found = locate(section := config.model_of(weights), memory, setting=setting)
        if not found.is_gguf:  # which is made float as it is converted
            require_trainable(found.path, f"{setting}.source={section.source}")
        return found

    def here(local: Model | None, setting: str) -> ModelSource | None:
        return locate(local, memory, setting=setting) if local else None

    model = trained(None, "model")
    return Models(
        model,
        start=trained(config.train.start, "train.start") if config.train.start else model,
        reference=trained(config.reference.model, "reference.model") if config.reference.model else model,
        judge=here(config.judge.local, "judge.local"),
        editor=here(config.bridge.local, "bridge.local"),
    )


def _add_pairs(line: Line, models: Models, sampled: Front | None) -> None:
    """Up to prepare: what is sampled, and what is edited."""
    config = line.config
    for name, label, identity, inputs in sampled.steps if sampled else ():
        line.add(name, label, identity, **inputs)
    content, first = data_of(config)
    require_columns(config, first)
    before: dict[str, Step] = {}
    if sampled:
        before = {"selected": line.steps["pair"], **_earlier(config.data.earlier, line.root, line.store)}
    if config.bridge.by:
        line.add("bridge", Path(config.bridge.by).stem, bridge_of(config, models.editor, content), **before)
        content = {name: content[name] for name in READ_LATER if name in content} | {"content": BRIDGED}
        before = {"selected": line.steps["bridge"]}
    identity = {"data": content, "tokenizer": models.model.digest}
    line.add("prepare", Path(config.data.source).stem, identity, **before)


def _add_scores(line: Line, models: Models) -> None:
    """What the pairs are under the reference, and under what training starts from; and their features."""
    reference = line.weights(models.reference)
    line.add("reference", models.reference.label, reference, pairs="prepare")
    if models.apart:
        line.add(START, models.start.label, line.weights(models.start), pairs="prepare")
    if read := features_of(line.config, line.memory):
        by = {}
        if line.config.features.source is None:
            line.add("features", models.reference.label, {**reference, **read}, pairs="prepare")
            by["autoencoder"] = "features"
        line.add("reference:features", models.reference.label, {**reference, **read}, pairs="prepare", **by)


def _add_training(line: Line, models: Models, weighed: Mapping[str, str]) -> None:
    """The training, both models' answers and what is made of them. `weighed` is what _add_weighing returns."""
    config, model = line.config, models.model
    preset, parameters = resolve(config.objective.name, config.objective.parameters)
    asked, dtype = config.generate.model_dump(mode="json") | {"benchmarks": asked_of(config)}, config.model.dtype
    # Before the training, which would be for nothing with a model that vLLM cannot serve.
    line.add("generate:base", model.label, {"generate": asked, "model": model.digest, "dtype": dtype})
    train = {
        "objective": {**preset.functions, "parameters": parameters},
        "train": without_later(config.train, "optimizer", aside=("start",)),  # which is there as its digest
        **line.weights(models.start),
        **taken_over(config, models.start),
    }
    if config.streams:
        train["streams"] = [[name, stream.weight] for name, stream in config.streams.items()]
    own = line_roles(config, models.apart)
    beside = {f"{role}:{name}": f"{name}/{step}" for name in config.streams for role, step in own.items()}
    line.add("train", config.objective.name, train, **own, **beside, **weighed)
    line.add("generate:trained", config.objective.name, {"generate": asked, "dtype": dtype}, model="train")
    answers = {"base": "generate:base", "trained": "generate:trained"}
    line.add("judge", "-".join(config.generate.benchmarks), judge_of(config, models.judge), **answers)


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


def _add_weighing(line: Line, model: ModelSource) -> dict[str, str]:
    """Add what the objective asks of tokens, and of other runs, under the reference `model`; what training reads."""
    config, weights = line.config, line.weights(model)
    preset, _ = resolve(config.objective.name, config.objective.parameters)
    if config.streams and (preset.token_columns or "mismatched" in preset.needs):
        problem = (
            f"objective.name={config.objective.name} looks at tokens or pairs of one source, and there are streams"
        )
        raise UserError(problem, "leave out streams, or choose another objective")
    read = {}
    if preset.token_columns:
        line.add("weigh:base", model.label, weights, pairs="prepare")
        read["token_reference"] = "weigh:base"
    if "contrast" in preset.token_columns:
        scored = {name: weights[name] for name in ("dtype", "compute")}
        for side, other in contrasts(config).items():
            run = make_plan(other)
            for stage in ("schedule", "train"):
                line.steps[f"{stage}:{side}"] = replace(run.steps[stage], name=f"{stage}:{side}", run=run)
            line.add(f"weigh:{side}", side, scored, pairs="prepare", model=f"train:{side}")
        sides = {side: f"weigh:{side}" for side in SIDES}
        line.add("weigh", config.weigh.transform, weigh_of(config), schedule="schedule", **sides)
        read["contrast"] = "weigh"
    if "mismatched" in preset.needs:
        stepwise = {**weights, "batch_size": config.train.batch_size}
        inputs = {"pairs": "prepare", "reference": "reference", "schedule": "schedule"}
        line.add("weigh:mismatched", model.label, stepwise, **inputs)
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
