"""Settings that change nothing in a configuration: given, other than their default, and read by nobody.

A file that several variants share may hold them, so that they are said. On the command line they are meant, so that
they are refused.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.objectives.presets import resolve
from pipeline.settings.bridge import Bridge
from pipeline.settings.config import RunConfig
from pipeline.settings.evaluation import Judge
from pipeline.settings.features import Features
from pipeline.settings.inputs import EMBEDDED, SAMPLED
from pipeline.settings.onpolicy import Pair, Rate, Sample
from pipeline.settings.resources import JudgeEndpoint
from pipeline.settings.streams import SECTIONS, Stream
from pipeline.settings.weigh import Weigh


def unused(config: RunConfig) -> dict[str, str]:
    """Why each of them is not used, such as `without judge.local`, by its dotted name.

    What a stream uses is used; what it says itself and does not use is named as its own.
    """
    found = _unused(config)
    for name, stream in config.streams.items():
        theirs, said = _unused(config.of_stream(name)), [*_said(stream)]
        found = {setting: why for setting, why in found.items() if setting in theirs}
        found |= {f"streams.{name}.{setting}": why for setting, why in theirs.items() if setting in said}
    return found


def _said(stream: Stream) -> Iterator[str]:
    """The dotted names of what a stream says."""
    for section in SECTIONS:
        given = getattr(stream, section)
        yield from (f"{section}.{name}" for name in (given if isinstance(given, dict) else {"source": given}))


def _unused(config: RunConfig) -> dict[str, str]:
    return {
        setting: why
        for applies, why, settings in rules(config)
        if applies
        for setting in settings
        if _given(config, setting)
    }


def refuse_unused(found: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Raise UserError where one of them was given on the command line."""
    for each in overrides:
        key = each.partition("=")[0]
        for setting, why in found.items():
            if f"{setting}.".startswith(f"{key}.") or key.startswith(f"{setting}."):
                raise UserError(f"{setting} has no effect {why}", f"leave {setting} out of the command line")


def described(found: Mapping[str, str]) -> str:
    """One line of them all, by reason: `data.pairs, data.seed (with data.source=pairs.jsonl)`."""
    reasons: dict[str, list[str]] = {}
    for setting, why in found.items():
        reasons.setdefault(why, []).append(setting)
    return "; ".join(f"{', '.join(each)} ({why})" for why, each in reasons.items())


def rules(config: RunConfig) -> Iterator[tuple[bool, str, Sequence[str]]]:
    """(whether it holds, what it says, the settings that are then not read)."""
    data, schedule, train = config.data, config.schedule, config.train
    embedded, source = data.source == EMBEDDED, f"with data.source={data.source}"
    read = _under("data", "subset split revision difficulty_column columns pairing")
    yield embedded, source, [*read, *_under("data", "dev_fraction max_suspect")]
    yield data.source == SAMPLED, source, read
    yield not embedded, source, _under("data", "pairs dev_pairs seed thoughts")
    yield data.source != SAMPLED, source, ["data.earlier"]
    yield from _onpolicy(config)
    of_bridge = [f"bridge.{name}" for name in Bridge.model_fields]
    yield config.bridge.by is None, "without bridge.judge or bridge.local", of_bridge
    preset, _ = resolve(config.objective.name, config.objective.parameters)
    of_weights = [f"weigh.{name}" for name in Weigh.model_fields]
    yield "contrast" not in preset.token_columns, f"with objective.name={config.objective.name}", of_weights
    yield config.weigh.transform == "published", "with weigh.transform=published", ["weigh.span"]
    yield config.weigh.transform == "rank", "with weigh.transform=rank", ["weigh.clip"]
    yield os.path.exists(config.model.source), "with a model.source on this machine", ["model.revision"]

    yield not schedule.ranks, "where nothing is ordered, routed or dropped by difficulty", ["schedule.difficulty"]
    yield schedule.drop_percentile is None, "without schedule.drop_percentile", ["schedule.drop"]
    yield train.lr_schedule != "wsd", f"with train.lr_schedule={train.lr_schedule}", ["train.decay_fraction"]
    yield embedded and data.dev_pairs == 0, "with data.dev_pairs=0", ["train.held_out_steps"]

    yield from _answers(config)

    of_features = [f"features.{name}" for name in Features.model_fields]
    yield not config.reads_features, "without an objective that looks at features", of_features
    trained = [name for name in of_features if name not in ("features.source", "features.layer")]
    yield config.reads_features and config.features.source is not None, "with features.source", trained
    yield from _resources(config)


def _answers(config: RunConfig) -> Iterator[tuple[bool, str, Sequence[str]]]:
    """The same of the benchmarks' answers, and of who judges, rates or edits."""
    asked, judge = list(config.generate.benchmarks), config.judge
    yield EMBEDDED not in asked, f"without the benchmark {EMBEDDED}", ["generate.split"]
    yield asked == [EMBEDDED], f"with the benchmark {EMBEDDED} alone", ["generate.preset"]

    by_model, here = judge.model is not None, judge.local is not None
    raters = config.rate.raters if config.data.source == SAMPLED else ()
    editor = config.bridge
    rates_there = any(rater.judge for rater in raters) or editor.judge is not None
    rates_here = any(rater.local for rater in raters) or editor.local is not None
    of_raters = ["max_tokens", "temperature"] if rates_there or rates_here else []
    aside = {"resamples", "seed", "model", "local", *of_raters, *(["shard_prompts"] if rates_here else [])}
    of_a_model = [f"judge.{name}" for name in Judge.model_fields if name not in aside]
    yield not (by_model or here), "without judge.model or judge.local", of_a_model
    yield by_model and not (here or rates_here), "without judge.local", ["judge.shard_prompts"]
    yield not (here or rates_here), "without judge.local", ["resources.judges"]
    at_endpoint = [f"resources.judge_endpoint.{name}" for name in JudgeEndpoint.model_fields]
    yield not (by_model or rates_there), "without judge.model", at_endpoint


def _resources(config: RunConfig) -> Iterator[tuple[bool, str, Sequence[str]]]:
    """The same of where and how it runs."""
    gpus = config.resources.gpus_per_actor > 0
    yield gpus, "on GPUs", ["resources.kv_cache_gib"]
    of_gpus = _under("resources", "gpu_memory_fraction cpu_offload offload_activations")
    yield not gpus, "without resources.gpus_per_actor", of_gpus
    alone = config.resources.workers.most == 1
    yield alone, "with one train worker", ["resources.collective_timeout_seconds", "resources.whole_gradients"]
    yield "://" not in config.resources.root, "with a folder as resources.root", ["resources.mirror"]


def _onpolicy(config: RunConfig) -> Iterator[tuple[bool, str, Sequence[str]]]:
    """The same of answers of the model's own."""
    sample, pair, apart = config.sample, config.pair, config.data.source != SAMPLED
    sections = (("sample", Sample), ("rate", Rate), ("pair", Pair))
    every = [f"{section}.{name}" for section, schema in sections for name in schema.model_fields]
    yield apart, f"without data.source={SAMPLED}", every
    if apart:
        return
    of_files = _under("sample.prompts", "subset split revision columns")
    yield sample.prompts.source == EMBEDDED, f"with sample.prompts.source={EMBEDDED}", of_files
    yield sample.branch.cuts == 0, "without sample.branch.cuts", ["sample.branch.children", "pair.among"]
    yield len(config.rate.raters) < 2, "with one rater", ["rate.combine"]
    yield pair.rule != "contrast", f"with pair.rule={pair.rule}", ["pair.contrast"]
    yield pair.rule == "delta", "with pair.rule=delta", _under("pair", "min_margin max_margin ties")


def _under(section: str, names: str) -> list[str]:
    return [f"{section}.{name}" for name in names.split()]


def _given(config: RunConfig, setting: str) -> bool:
    section, _, name = setting.rpartition(".")
    field = type(_value(config, section)).model_fields[name]
    return bool(_value(config, setting) != field.get_default(call_default_factory=True))


def _value(config: RunConfig, setting: str) -> Any:
    found: Any = config
    for name in setting.split("."):
        found = getattr(found, name)
    return found
