"""What the results of each stage depend on beside the results that they read: the identities of plan.py's steps.

What came later than results that are there enters an identity only where it is given, so that they stay what they are.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.compute.autoencoders import find
from pipeline.compute.generation import exported
from pipeline.compute.models import ModelSource
from pipeline.errors import UserError
from pipeline.evaluation import harness
from pipeline.evaluation.benchmarks import questions
from pipeline.evaluation.judging import baselines, words
from pipeline.line.onpolicy import engine_version
from pipeline.objectives.presets import resolve
from pipeline.onpolicy.bridging import WORDS_VERSION
from pipeline.preferences.normalise import Normaliser, Preference
from pipeline.preferences.rows import Source
from pipeline.preferences.sources import open_source
from pipeline.preferences.verifiable import VERSION as VERIFIABLE_VERSION
from pipeline.results.files import DigestMemory, file_digest, given_path
from pipeline.settings.config import RunConfig
from pipeline.settings.evaluation import Report
from pipeline.settings.inputs import EMBEDDED, SAMPLED, Data
from pipeline.settings.section import Section

COLUMNS = {  # what a row may carry beside the pair, and what to do where it does not
    "scores": "give rows chosen_score and rejected_score, or choose a setting that asks for none",
    "label_confidence": "give rows label_confidence, P(chosen is preferred), or choose another objective",
    "difficulty": "give rows difficulty, or name the column that holds it in data.difficulty_column",
}

_CUTS = ("long_prompts", "equal_lengths", "changed_tokens")
_LATER = ("columns", "pairing", "thoughts", *_CUTS)  # settings of `data`
LOOKED = 10_000  # rows of a source, at most, in which a first pair is looked for

# Of `data`, what is done to pairs once they are edited.
READ_LATER = ("limit", "dev_fraction", "max_prompt_tokens", "max_completion_tokens", "shard_pairs", *_CUTS)


def data_of(config: RunConfig) -> tuple[dict[str, Any], Preference | None]:
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


def require_columns(config: RunConfig, first: Preference | None) -> None:
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


def bridge_of(config: RunConfig, editor: ModelSource | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """What edited pairs depend on: the pairs as they are read, and the editor's words."""
    bridge, judging = config.bridge, config.judge
    identity: dict[str, Any] = {"pairs": {name: value for name, value in content.items() if name not in READ_LATER}}
    identity |= {name: content[name] for name in ("limit", "dev_fraction") if name in content}
    identity |= {"max_growth": bridge.max_growth, "max_tokens": bridge.max_tokens, "words": WORDS_VERSION}
    identity |= {name: getattr(judging, name) for name in ("temperature", "seed")}
    if editor is None or bridge.local is None:
        return identity | {"judge": bridge.judge}
    shards = {"shard_prompts": judging.shard_prompts}  # a batch's shape moves its words
    return identity | {"local": editor.digest, "dtype": bridge.local.dtype, "engine": engine_version(), **shards}


def features_of(config: RunConfig, memory: DigestMemory) -> dict[str, Any]:
    """What features depend on beside the model: the autoencoder's content, or how it is trained; and the layer, which a
    folder's name may say.

    Raises UserError where it cannot be read, or is of another layer or of nobody knows which.
    """
    settings = config.features
    if not config.reads_features:
        return {}
    if settings.source is None:
        return {"features": settings.model_dump(mode="json", exclude={"source"})}
    found = find(given_path(settings.source, "features.source"))
    return {"features": {"layer": settings.layer_read(found.layer)}, "autoencoder": found.digest(memory)}


def weigh_of(config: RunConfig) -> dict[str, Any]:
    """What token weights depend on beside both models, which are inputs."""
    aside = {"rank": {"clip"}, "published": {"span"}}.get(config.weigh.transform, set())
    return config.weigh.model_dump(mode="json", exclude={"contrast", *aside})


def taken_over(config: RunConfig, model: ModelSource) -> dict[str, str]:
    """What the trained model's folder takes over from the model without being computed with; adapters alone nothing.

    It is in no digest of the model, so that other values of it leave the pairs and the reference as they are.
    """
    lora = config.train.lora
    found = "" if model.is_gguf or (lora and not lora.merge) else exported(model.path)
    return {"generation_config": found} if found else {}


def asked_of(config: RunConfig) -> dict[str, Any]:
    """What is asked, by benchmark: the embedded tasks' version, or a digest of the questions' file."""
    return {
        name: VERIFIABLE_VERSION if name == EMBEDDED else questions.identity(name, file)
        for name, file in config.generate.benchmarks.items()
    }


def judge_of(config: RunConfig, local: ModelSource | None) -> dict[str, Any]:
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


def report_of(settings: Report, train: str) -> dict[str, Any]:
    """What the page shows beside the line's own results, by content; `train` is the training's fingerprint.

    Raises UserError for what is of another training.
    """
    found = settings.model_dump(mode="json", exclude={"ranked", "lm_eval"})
    if settings.ranked:
        found["ranked"] = [_ranking(name, train) for name in settings.ranked]
    if settings.lm_eval:
        folder = given_path(settings.lm_eval, "report.lm_eval")
        files = {model: harness.newest(folder / model) for model in harness.MODELS}
        base, trained = map(harness.read, files.values())
        harness.compare(base, trained)
        harness.require_of(base, trained, train)
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


def without_later(section: Section, *later: str, aside: Sequence[str] = ()) -> dict[str, Any]:
    """The section without what is `aside`, and without settings that came later than results that are there and are
    not given.
    """
    default = {name for name in later if getattr(section, name) == type(section).model_fields[name].default}
    return section.model_dump(mode="json", exclude=default | set(aside))
