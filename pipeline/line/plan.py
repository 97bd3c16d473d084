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

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute.autoencoders import find
from pipeline.compute.generation import exported
from pipeline.compute.limits import require_trainable
from pipeline.compute.models import ModelSource, locate
from pipeline.compute.version import COMPUTE_VERSION
from pipeline.errors import UserError
from pipeline.evaluation import harness
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.judging import baselines, words
from pipeline.line.contrast import SIDES, contrasts
from pipeline.line.onpolicy import Front, engine_version, front
from pipeline.objectives.presets import resolve
from pipeline.onpolicy.bridging import SOURCE as BRIDGED
from pipeline.onpolicy.bridging import WORDS_VERSION
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.preferences.rows import Source
from pipeline.preferences.sources import open_source
from pipeline.preferences.verifiable import VERSION as VERIFIABLE_VERSION
from pipeline.results.address import Address
from pipeline.results.artifacts import Artifact, fingerprint
from pipeline.results.files import MANIFEST, DigestMemory, file_digest, given_path
from pipeline.settings.config import Report, RunConfig
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data, Weights
from pipeline.settings.resources import Resources
from pipeline.settings.section import Section

if TYPE_CHECKING:
    from pipeline.results.store import Store

COLUMNS = {  # what a row may carry beside the pair, and what to do where it does not
    "scores": "give rows chosen_score and rejected_score, or choose a setting that asks for none",
    "label_confidence": "give rows label_confidence, P(chosen is preferred), or choose another objective",
    "difficulty": "give rows difficulty, or name the column that holds it in data.difficulty_column",
}

_CUTS = ("long_prompts", "equal_lengths", "changed_tokens")
_LATER = ("columns", "pairing", *_CUTS)  # settings of `data`
START = "reference:start"  # the step that scores pairs under the model that training starts from

# Of `data`, what is done to pairs once they are edited.
_READ_LATER = ("limit", "dev_fraction", "max_prompt_tokens", "max_completion_tokens", "shard_pairs", *_CUTS)

LOOKED = 10_000  # rows of a source, at most, in which a first pair is looked for

STAGES = (
    *("sample", "rate", "pair", "bridge"),  # where they are asked for, as are features and weigh
    *("prepare", "features", "reference", "schedule", "weigh", "train", "generate", "judge", "report"),
)

OF_A_STREAM = STAGES[: STAGES.index("schedule") + 1]  # what its own line makes

# Raise a stage's version when its code changes what it writes.
VERSIONS = {"model": 1, "prepare": 5, "reference": 1, "schedule": 3, "train": 4, "generate": 4, "judge": 8, "report": 7}
VERSIONS |= {"sample": 1, "rate": 1, "pair": 1, "weigh": 1, "bridge": 1, "features": 1}
VERSIONS |= {"study": 2, "rounds": 1, "sweep": 1, "rank": 1}  # pages over several runs, and what jobs.rank makes


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
    content, first = _data(config)
    _require_columns(config, first)
    trained = {**preset.functions, "parameters": parameters}
    benchmark = section("generate") | {"benchmarks": _questions(config)}
    compared = config.schedule.difficulty in ("reference-gap", "reference-gap-per-token")

    editor = locate(config.bridge.local, memory, setting="bridge.local") if config.bridge.local else None
    before = {"selected": steps["pair"], **_earlier(config.data.earlier, root, store)} if sampled else {}
    if config.bridge.by:
        add("bridge", Path(config.bridge.by).stem, _bridge(config, editor, content), **before)
        content = {name: content[name] for name in _READ_LATER if name in content} | {"content": BRIDGED}
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
    read = _features(config, memory)
    if read:
        by = {}
        if config.features.source is None:
            add("features", reference.label, {**weights(reference), **read}, pairs="prepare")
            by["autoencoder"] = "features"
        add("reference:features", reference.label, {**weights(reference), **read}, pairs="prepare", **by)
    add(
        "schedule",
        config.schedule.order or "",
        _without_later(config.schedule, "swap_labels"),
        pairs="prepare",
        **({"reference": "reference"} if compared else {}),
    )
    steps.update(beside)
    weighed = _add_weighing(add, steps, config, reference, weights(reference))
    # Before the training, which would be for nothing with a model that vLLM cannot serve.
    add("generate:base", model.label, {"generate": benchmark, "model": model.digest, "dtype": config.model.dtype})
    train = {
        "objective": trained,
        "train": _without_later(config.train, "optimizer", aside=("start",)),  # which is there as its digest
        **weights(start),
        **_exported(config, start),
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
        _judge(config, judge),
        base="generate:base",
        trained="generate:trained",
    )
    shown = {"report": _report(config.report, steps["train"]), "name": config.name}
    add("report", config.name, shown, **{name.replace(":", "_"): name for name in steps})
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
        add("weigh", config.weigh.transform, _weigh(config), schedule="schedule", **{s: f"weigh:{s}" for s in SIDES})
        read["contrast"] = "weigh"
    if "mismatched" in preset.needs:
        stepwise = {**weights, "batch_size": config.train.batch_size}
        add("weigh:mismatched", model.label, stepwise, pairs="prepare", reference="reference", schedule="schedule")
        read["mismatched"] = "weigh:mismatched"
    return read


def _bridge(config: RunConfig, editor: ModelSource | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """What edited pairs depend on: the pairs as they are read, and the editor's words."""
    bridge, judging = config.bridge, config.judge
    identity: dict[str, Any] = {"pairs": {name: value for name, value in content.items() if name not in _READ_LATER}}
    identity |= {name: content[name] for name in ("limit", "dev_fraction") if name in content}
    identity |= {"max_growth": bridge.max_growth, "max_tokens": bridge.max_tokens, "words": WORDS_VERSION}
    identity |= {name: getattr(judging, name) for name in ("temperature", "seed")}
    if editor is None or bridge.local is None:
        return identity | {"judge": bridge.judge}
    shards = {"shard_prompts": judging.shard_prompts}  # a batch's shape moves its words
    return identity | {"local": editor.digest, "dtype": bridge.local.dtype, "engine": engine_version(), **shards}


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


def _without_later(section: Section, *later: str, aside: Sequence[str] = ()) -> dict[str, Any]:
    """The section without what is `aside`, and without settings that came later than results that are there and are
    not given.
    """
    default = {name for name in later if getattr(section, name) == type(section).model_fields[name].default}
    return section.model_dump(mode="json", exclude=default | set(aside))


def _weigh(config: RunConfig) -> dict[str, Any]:
    """What token weights depend on beside both models, which are inputs."""
    aside = {"rank": {"clip"}, "published": {"span"}}.get(config.weigh.transform, set())
    return config.weigh.model_dump(mode="json", exclude={"contrast", *aside})


def _report(settings: Report, train: "Step") -> dict[str, Any]:
    """What the page shows beside the line's own results: that by content. Raises UserError for another training's."""
    found = settings.model_dump(mode="json", exclude={"ranked", "lm_eval"})
    if settings.ranked:
        found["ranked"] = [_ranking(name, train.address.fingerprint) for name in settings.ranked]
    if settings.lm_eval:
        folder = given_path(settings.lm_eval, "report.lm_eval")
        files = {model: harness.newest(folder / model) for model in harness.MODELS}
        harness.compare(*map(harness.read, files.values()))
        found["lm_eval"] = {model: file_digest(file) for model, file in files.items()}
    return found


def _ranking(name: str, train: str) -> str:
    """The digest of a file that jobs.rank made."""
    file = given_path(name, "report.ranked")
    try:
        ranked = json.loads(file.read_text(encoding="utf-8"))["train"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"report.ranked={name}: is no ranking ({type(error).__name__}: {error})"
        raise UserError(problem, "python -m jobs.rank makes one, and says where it is") from None
    if ranked != train:
        problem = f"report.ranked={name}: it is of the training {str(ranked)[:12]}, and this one is {train[:12]}"
        raise UserError(problem, "python -m jobs.rank with this configuration makes its own")
    return file_digest(file)


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
    data = given.model_dump(mode="json", exclude={"source", "max_dropped", "max_suspect", "earlier", *later})
    if given.source == SAMPLED:  # the pairs themselves are an input
        of_a_source = {"split", "subset", "revision", "columns", "pairing", "difficulty_column"}
        of_a_source |= {"pairs", "dev_pairs", "seed"}
        return {"content": SAMPLED, **{key: data[key] for key in data.keys() - of_a_source}}, None
    if given.source == EMBEDDED:
        used = data.keys() - {"dev_fraction", "difficulty_column", "columns", "pairing"}
        return {"content": {"verifiable": VERIFIABLE_VERSION}, **{key: data[key] for key in used}}, None
    used = data.keys() - {"pairs", "dev_pairs", "seed"}
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
    if config.bridge.by:
        has = {}  # nobody has rated an edit
    elif config.data.source == EMBEDDED:
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
