"""The line as data: which results a configuration means, what each depends on, and where it is.

    [sample ─► rate ─► pair ─►] prepare ─► [features ─►] reference ─► schedule ─► train ─► generate ─► judge ─► report

Answers without torch, ray or vllm. A step is one result of one stage; generate makes two, one a model, and rate one a
rater. The first three are there where data.source is SAMPLED (onpolicy.py). Where the objective looks at features,
reference makes two, the second of these; the stage features trains what finds them, where nothing is given that does. A
stream of further pairs is a line of its own up to its schedule, the one that its configuration alone would have; train
joins the lines.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.compute.autoencoders import find
from pipeline.compute.generation import exported
from pipeline.compute.limits import require_trainable
from pipeline.compute.models import ModelSource, locate
from pipeline.compute.version import COMPUTE_VERSION
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.judging import baselines, words
from pipeline.line.onpolicy import Front, front
from pipeline.objectives.presets import resolve
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.preferences.rows import Source
from pipeline.preferences.sources import open_source
from pipeline.preferences.verifiable import VERSION as VERIFIABLE_VERSION
from pipeline.results.address import Address
from pipeline.results.artifacts import Artifact, fingerprint
from pipeline.results.files import DigestMemory, file_digest, given_path
from pipeline.settings.config import RunConfig, Train
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data

COLUMNS = {  # what a row may carry beside the pair, and what to do where it does not
    "scores": "give rows chosen_score and rejected_score, or choose a setting that asks for none",
    "label_confidence": "give rows label_confidence, P(chosen is preferred), or choose another objective",
    "difficulty": "give rows difficulty, or name the column that holds it in data.difficulty_column",
}

_LATER = ("columns", "pairing", "long_prompts", "equal_lengths", "thoughts")  # settings of `data`

LOOKED = 10_000  # rows of a source, at most, in which a first pair is looked for

_ASKED = ("generate", "judge", "report")
STAGES = ("sample", "rate", "pair", "prepare", "features", "reference", "schedule", "train", *_ASKED)

OF_A_STREAM = STAGES[: STAGES.index("schedule") + 1]  # what its own line makes

# Raise a stage's version when its code changes what it writes.
VERSIONS = {"model": 1, "prepare": 5, "reference": 1, "schedule": 3, "train": 4, "generate": 4, "judge": 8, "report": 7}
VERSIONS |= {"sample": 1, "rate": 1, "pair": 1, "features": 1}
VERSIONS["study"] = 2  # not of the line: the page of jobs.study


@dataclass(frozen=True)
class Step:
    """One result: its address, and the steps whose results it reads, by role."""

    # The stage, or stage:model for generate, stage:rater for rate, reference:features; of a stream's line stream/stage.
    name: str
    address: Address
    identity: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    stream: str | None = None  # whose line it is of

    @property
    def stage(self) -> str:
        return self.address.stage

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
            f"python -m jobs.{step.stage} with the same --config and overrides, or python -m jobs.run",
        )


@dataclass(frozen=True)
class Plan:
    """A configuration and every result it means."""

    config: RunConfig
    model: ModelSource
    judge: ModelSource | None  # judge.local
    steps: Mapping[str, Step]  # in the order of the line
    front: Front | None  # where pairs are made of answers of the model's own
    streams: Mapping[str, "Plan"]  # of each its own line's

    def of(self, *stages: str) -> list[Step]:
        """The steps of some stages, in the order in which they are made."""
        return [step for step in self.steps.values() if step.stage in stages]

    def line_of(self, step: Step) -> tuple["Plan", Step]:
        """The plan of the line that a step is of, and the step as it stands there."""
        if step.stream is None:
            return self, step
        line = self.streams[step.stream]
        return line, line.steps[step.name.removeprefix(f"{step.stream}/")]

    @property
    def model_folder(self) -> Path:
        """Where the base model is, or will be once prepare has converted it."""
        return self.converted(self.model).path if self.model.is_gguf else self.model.path

    def converted(self, model: ModelSource) -> Address:
        """The address of a .gguf model in Hugging Face format: the only result that is not a stage of the line."""
        digest = fingerprint("model", VERSIONS["model"], {"model": model.weights}, {})
        return self.steps["prepare"].address.beside("model", model.label, digest)


def make_plan(config: RunConfig) -> Plan:
    """Everything a configuration will make. Raises UserError where the model or the data cannot be found."""
    store = None
    if "://" in config.resources.root:
        from pipeline.results.store import Store

        store = Store(config.resources.root)
        root = store.mirror(given_path(config.resources.mirror, "resources.mirror").absolute())
    else:
        root = given_path(config.resources.root, "resources.root").absolute()  # workers run elsewhere
    memory = DigestMemory(root)
    model = locate(config.model, memory)
    if not model.is_gguf:  # which is made float as it is converted
        require_trainable(model.path, f"model.source={config.model.source}")
    local = config.judge.local
    judge = locate(local, memory, setting="judge.local") if local else None
    steps: dict[str, Step] = {}

    def add(name: str, label: str, identity: Mapping[str, Any], **inputs: str) -> None:
        stage = name.partition(":")[0]
        needed = {role: steps[other] for role, other in inputs.items()}
        digest = fingerprint(
            stage, VERSIONS[stage], identity, {role: step.address.fingerprint for role, step in needed.items()}
        )
        steps[name] = Step(name, Address(root, stage, readable(label) or stage, digest, store), identity, needed)

    def section(name: str) -> dict[str, Any]:
        return getattr(config, name).model_dump(mode="json")

    weights = {"model": model.digest, "dtype": config.model.dtype, "compute": COMPUTE_VERSION}
    preset, parameters = resolve(config.objective.name, config.objective.parameters)
    sampled = front(config, model, memory) if config.data.source == SAMPLED else None
    for each in sampled.steps if sampled else ():
        name, label, identity, inputs = each
        add(name, label, identity, **inputs)
    content, first = _data(config)
    _require_columns(config, first)
    trained = {**preset.functions, "parameters": parameters}
    benchmark = section("generate") | {"benchmarks": _questions(config)}
    compared = config.schedule.difficulty in ("reference-gap", "reference-gap-per-token")

    prepared = {"data": content, "tokenizer": model.digest}
    add("prepare", Path(config.data.source).stem, prepared, **({"selected": "pair"} if sampled else {}))
    streams = {name: make_plan(config.of_stream(name)) for name in config.streams}
    beside = {step.name: step for name, line in streams.items() for step in _of_stream(name, line)}
    # All pairs first: what is wrong with them is told before any is scored.
    steps.update({name: step for name, step in beside.items() if step.stage not in ("reference", "schedule")})
    add("reference", model.label, weights, pairs="prepare")
    read = _features(config, memory)
    if read:
        by = {}
        if config.features.source is None:
            add("features", model.label, {**weights, **read}, pairs="prepare")
            by["autoencoder"] = "features"
        add("reference:features", model.label, {**weights, **read}, pairs="prepare", **by)
    add(
        "schedule",
        config.schedule.order or "",
        section("schedule"),
        pairs="prepare",
        **({"reference": "reference"} if compared else {}),
    )
    steps.update(beside)
    # Before the training, which would be for nothing with a model that vLLM cannot serve.
    add("generate:base", model.label, {"generate": benchmark, "model": model.digest, "dtype": config.model.dtype})
    train = {"objective": trained, "train": _train(config.train), **weights, **_exported(config, model)}
    if streams:
        train["streams"] = [[name, stream.weight] for name, stream in config.streams.items()]
    own = line_roles(config)
    lines = {f"{role}:{name}": f"{name}/{step}" for name in streams for role, step in own.items()}
    add("train", config.objective.name, train, **own, **lines)
    add("generate:trained", config.objective.name, {"generate": benchmark, "dtype": config.model.dtype}, model="train")
    add(
        "judge",
        "-".join(config.generate.benchmarks),
        _judge(config, judge),
        base="generate:base",
        trained="generate:trained",
    )
    shown = {"report": section("report"), "name": config.name}
    add("report", config.name, shown, **{name.replace(":", "_"): name for name in steps})
    return Plan(config, model, judge, steps, sampled, streams)


def line_roles(config: RunConfig) -> dict[str, str]:
    """The roles in which train reads a line's results, and the steps that make them; of a stream `role:stream`."""
    roles = {"pairs": "prepare", "reference": "reference", "schedule": "schedule"}
    if config.reads_features:
        roles["features"] = "reference:features"
        roles |= {"autoencoder": "features"} if config.features.source is None else {}
    return roles


def _features(config: RunConfig, memory: DigestMemory) -> dict[str, Any]:
    """What features depend on beside the model: the autoencoder's content, or how it is trained; and the layer.

    Raises UserError where it cannot be read, or is of another layer.
    """
    settings = config.features
    if not config.reads_features:
        return {}
    if settings.source is None:
        return {"features": settings.model_dump(mode="json", exclude={"source"})}
    found = find(given_path(settings.source, "features.source"))
    settings.require_layer(found.layer)
    return {"features": {"layer": settings.layer}, "autoencoder": found.digest(memory)}


def _of_stream(stream: str, line: Plan) -> list[Step]:
    """The steps of a stream's own line, under its name."""
    found: dict[str, Step] = {}
    for step in line.of(*OF_A_STREAM):
        inputs = {role: found[other.name] for role, other in step.inputs.items()}
        found[step.name] = replace(step, name=f"{stream}/{step.name}", inputs=inputs, stream=stream)
    return [*found.values()]


def _exported(config: RunConfig, model: ModelSource) -> dict[str, str]:
    """What the trained model's folder takes over from the model without being computed with; adapters alone nothing.

    It is in no digest of the model, so that other values of it leave the pairs and the reference as they are.
    """
    lora = config.train.lora
    found = "" if model.is_gguf or (lora and not lora.merge) else exported(model.path)
    return {"generation_config": found} if found else {}


def readable(label: str) -> str:
    """What is left of a user's name that is good for a folder's."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-.")


def _judge(config: RunConfig, local: ModelSource | None) -> dict[str, Any]:
    """What verdicts depend on. Raises UserError where words to the judge, or answers to compare with, are not there."""
    settings = config.judge
    judge = settings.model_dump(mode="json", exclude={"max_missing", "local", "wording", "baselines"})
    if settings.model is None and settings.local is None:
        return {key: judge[key] for key in ("resamples", "seed")}
    if settings.local is None or local is None:
        del judge["shard_prompts"]
    else:
        judge["local"] = {"model": local.digest, "dtype": settings.local.dtype}
    judge["wording"] = {name: words.identity(name, settings.wording.get(name)) for name in config.generate.benchmarks}
    judge["baselines"] = {
        name: [file_digest(each.file) for each in baselines.locate(name, given)]
        for name, given in settings.baselines.items()
    }
    return judge


def _train(settings: Train) -> dict[str, Any]:
    """The section, without what came later than results that are there and is not given."""
    later = {"optimizer"} if settings.optimizer == Train.model_fields["optimizer"].default else set()
    return settings.model_dump(mode="json", exclude=later)


def _questions(config: RunConfig) -> dict[str, Any]:
    """What is asked, by benchmark: the embedded tasks' version, or a digest of the questions' file."""
    return {
        name: VERIFIABLE_VERSION if name == EMBEDDED else questions.identity(name, file)
        for name, file in config.generate.benchmarks.items()
    }


def _data(config: RunConfig) -> tuple[dict[str, Any], Preference | None]:
    """What the pairs depend on: a file's content, a hub data set's commit, the tasks' version; and a first row.

    The row is None for pairs that are made, and where none of the first LOOKED rows holds a pair (prepare says why).
    Raises UserError where none of the first has an accepted shape, or lacks a column that a setting names, and where
    the source ends without a pair.
    """
    given = config.data
    # What came later than results that are there enters an identity only where it is given.
    later = {name for name in _LATER if getattr(given, name) == Data.model_fields[name].default}
    data = given.model_dump(mode="json", exclude={"source", "max_dropped", "max_suspect", *later})
    if given.source == SAMPLED:  # the pairs themselves are an input
        of_a_source = {"split", "subset", "revision", "columns", "pairing", "difficulty_column"}
        of_a_source |= {"pairs", "dev_pairs", "seed", "thoughts"}
        return {"content": SAMPLED, **{key: data[key] for key in data.keys() - of_a_source}}, None
    if given.source == EMBEDDED:
        used = data.keys() - {"dev_fraction", "difficulty_column", "columns", "pairing"}
        return {"content": {"verifiable": VERIFIABLE_VERSION}, **{key: data[key] for key in used}}, None
    used = data.keys() - {"pairs", "dev_pairs", "seed", "thoughts"}
    source = open_source(
        given.source, split=given.split, subset=given.subset, revision=given.revision, columns=given.columns.values()
    )
    look = Normaliser(source.rows, given.columns, given.difficulty_column, given.pairing)
    return {"content": source.identity, **{key: data[key] for key in used}}, look.first or _first_pair(
        given, source, look
    )


def _first_pair(data: Data, source: Source, look: Normaliser) -> Preference | None:
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    looked = 0
    for number, row in itertools.islice(source.rows, LOOKED):
        looked += 1
        for outcome in look.read(row):
            if isinstance(outcome, Preference):
                return outcome
            reasons[outcome.reason] += 1
            examples.setdefault(outcome.reason, f"row {number}: {outcome.detail}")
    if looked == LOOKED:
        return None
    told = "; ".join(f"{reason}: {example}" for reason, example in examples.items())
    raise UserError(
        f"data.source={data.source}: no pair is found in it; {looked} of {looked} rows are none: {dict(reasons)}",
        f"mend the data, such as {told}",
    )


def needed_columns(config: RunConfig, every_pair: bool = False) -> dict[str, str]:
    """The columns that the objective or the schedule lives on, each with the setting that asks for it.

    With `every_pair` those alone that no train pair may lack: what an objective needs of its own pairs, a pair that is
    dropped or goes to SFT can do without.
    """
    schedule = config.schedule
    preset, _ = resolve(config.objective.name, config.objective.parameters)
    apart = (schedule.drop_percentile, schedule.sft_percentile, schedule.sft_below) != (None,) * 3
    needs = {} if every_pair and apart else {name: f"objective.name={config.objective.name}" for name in preset.needs}
    by = {"column": "difficulty", "score-margin": "scores"}.get(schedule.difficulty)
    if by and schedule.ranks:
        needs.setdefault(by, f"schedule.difficulty={schedule.difficulty}")
    return {name: setting for name, setting in needs.items() if name in COLUMNS}


def _require_columns(config: RunConfig, first: Preference | None) -> None:
    """Raise UserError, before any work, where the data lack a column that the objective or the schedule lives on."""
    if config.data.source == EMBEDDED:
        has = {"scores": True}
    elif config.data.source == SAMPLED:
        confident = config.pair.confidence_temperature is not None
        has = {"scores": config.pair.rule != "delta", "label_confidence": confident}
    elif first:
        scores = first.chosen_score is not None and first.rejected_score is not None
        has = {"scores": scores, "label_confidence": first.label_confidence is not None}
        has |= {"difficulty": first.difficulty is not None}
    else:
        return
    for name, setting in needed_columns(config).items():
        if not has.get(name):
            raise UserError(f"{setting} needs {name}, which data.source={config.data.source} lacks", COLUMNS[name])
