"""The cards of models and data, from the manifests of the results that they speak of; see jobs/publish.py."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.line.steps import Plan, Step
from pipeline.objectives.presets import resolve
from pipeline.report.card import Card, Figure, share
from pipeline.results.artifacts import Artifact
from pipeline.results.files import MANIFEST
from pipeline.settings.inputs import EMBEDDED, SAMPLED


def hub_name(source: str, given: str | None = None) -> str | None:
    """The name by which others find a model or a data set on the hub; None of what lies on this machine."""
    if given:
        return given
    return source if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not os.path.exists(source) else None


def model_card(plan: Plan, trained: Artifact, licence: str, base: str | None, adapter: bool, name: str) -> Card:
    """Of a trained model, or of adapters."""
    config, start = plan.config, plan.config.train.start
    source = hub_name(config.model_of(start).source, base)
    lora = config.train.lora is not None
    _, parameters = resolve(config.objective.name, config.objective.parameters)
    settings = {section: getattr(config, section).model_dump(mode="json") for section in ("schedule", "train")}
    if start:
        settings["train"]["start"] = _shown(start.source)
    metadata = {
        "license": licence,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["widemargin", "preference-optimisation", config.objective.name, *(["lora"] if lora else [])],
        **({"base_model": source} if source else {}),
        **({"base_model_relation": "adapter" if adapter else "finetune"} if source else {}),
        **({"datasets": [data]} if (data := hub_name(config.data.source)) else {}),
    }
    what = "LoRA adapters for" if adapter else "Trained from"
    return Card(
        title=name,
        about=f"{what} {source or 'a model that is not on the hub'} by {config.objective.name}, with widemargin.",
        metadata=metadata,
        figures=list(figures(plan, trained)),
        warnings=warnings(plan),
        settings={"objective": {"name": config.objective.name, **parameters}, **settings},
        facts=facts(plan, trained),
        usage=usage(name, source, adapter),
    )


def usage(name: str, base: str | None, adapter: bool) -> str:
    if adapter and base:
        return (
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "{name}")'
        )
    return "" if adapter else f'from transformers import pipeline\n\nchat = pipeline("text-generation", model="{name}")'


def data_card(plan: Plan, made: Artifact, licence: str, name: str) -> Card:
    """Of prepared pairs, or of a reference's log-probs."""
    config, pairs = plan.config, made.manifest["stage"] == "prepare"
    weights = config.model if pairs else config.reference.model or config.model
    source, model = hub_name(config.data.source), hub_name(weights.source)
    metadata = {
        "license": licence,
        "tags": ["widemargin", "preference" if pairs else "reference-log-probs"],
        "configs": [{"config_name": "default", "data_files": "data/*.parquet"}],
        **({"source_datasets": [source]} if source else {}),
    }
    if pairs:
        about = (
            "Preference pairs as widemargin trains on them: messages, texts, token ids, scores, and a column `split`."
        )
    else:
        about = "Log-prob sums of both sides of preference pairs under the reference, by pair id, with token counts."
    found = [Figure("rows", f"{made.manifest['rows']:,}")]
    if pairs:
        ledger, splits = made.manifest["ledger"], made.manifest["metrics"]["splits"]
        found += [Figure(f"of split {split}", f"{count:,}") for split, count in sorted(splits.items())]
        found += [Figure(f"dropped: {reason}", f"{count:,}") for reason, count in ledger["dropped"].items()]
    own = {"tokenised for" if pairs else "scored by": model or "a model that is not on the hub"}
    return Card(name, about, metadata, figures=found, facts={**own, **facts(plan, made)})


def facts(plan: Plan, made: Artifact) -> dict[str, str]:
    """Of what it was made, by digests, and by which versions."""
    prepared, then = plan.steps["prepare"], made.manifest["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in then["versions"].items())
    return {
        "fingerprint": made.manifest["fingerprint"],
        "base model": f"{hub_name(plan.config.model.source) or 'local'}, SHA-256 {plan.model.digest}",
        **dict(_beside(plan, made.manifest["stage"])),
        "data": f"{hub_name(plan.config.data.source) or _local(plan.config.data.source)}, {_content(prepared)}",
        "made by": f"widemargin, commit {then['commit'] or 'unknown'}, {versions}",
    }


def _beside(plan: Plan, stage: str) -> Iterator[tuple[str, str]]:
    """The models beside model.source that a training, or a reference, is of."""
    if (start := plan.config.train.start) and stage == "train":
        yield "started from", f"{_shown(start.source)}, SHA-256 {plan.start.digest}"
    if (reference := plan.config.reference.model) and stage in ("train", "reference"):
        yield "measured against", f"{_shown(reference.source)}, SHA-256 {plan.reference.digest}"


def _local(source: str) -> str:
    return source if source in (EMBEDDED, SAMPLED) else "local"


def _content(prepared: Step) -> str:
    """What the pairs were read from, as their identity has it; no path is in that."""
    return json.dumps(prepared.identity["data"]["content"], sort_keys=True)


def figures(plan: Plan, trained: Artifact) -> Iterator[Figure]:
    """What the line measured of a trained model, as far as it is there."""
    judged = plan.steps["judge"].address.find()
    found: Mapping[str, Any] = judged.manifest["metrics"] if judged else {}
    if "comparison" in found:
        won = found["comparison"]
        counts = f"{won['wins']} won, {won['ties']} tied, {won['losses']} lost"
        yield Figure("win rate over the base model, by rules", f"{share(won['rate'])}, {counts}")
        for model in ("base", "trained"):
            yield Figure(f"constraints met, {model} model", share(found[model]["share_met"]))
    for benchmark, own in found.get("benchmarks", {}).items():
        for match in own.get("judged", {}).get("matches", ()):
            if rate := match["summary"].get("rate"):
                yield Figure(f"{benchmark}, {match['model']} against {match['against']}, by a judge", share(rate))
    held_out = trained.manifest["metrics"]["held_out"]
    if held_out:
        before = held_out.get("before", {}).get("accuracy")
        after = f"{100 * held_out['after']['accuracy']:.1f} % of {held_out['pairs']} ranked as labelled"
        yield Figure("held-out pairs", after + ("" if before is None else f", {100 * before:.1f} % before"))
    for ranking in rankings(plan, trained):
        own = ranking["own_measure"] or next(iter(ranking["all"]["accuracy"]))
        count = f"{ranking['all']['pairs']:,} other pairs ({_shown(ranking['data'])})"
        yield Figure(f"{count} ranked as labelled, {own}", share(ranking["all"]["accuracy"][own]))


def _shown(source: str) -> str:
    return hub_name(source) or _local(source)


def rankings(plan: Plan, trained: Artifact) -> Iterator[Mapping[str, Any]]:
    """What jobs.rank made of this training."""
    for file in sorted((plan.steps["train"].address.root / "rank").glob(f"*/{MANIFEST}")):
        ranking = json.loads(file.read_text(encoding="utf-8")).get("metrics", {}).get("ranking", {})
        if ranking.get("train") == trained.manifest["fingerprint"]:
            yield ranking


def warnings(plan: Plan) -> list[str]:
    """What the report warns of at its top; where the line did not come so far, that."""
    from jobs.common.judged_answers import notes
    from jobs.common.stage import Work
    from jobs.report import OPENED

    step = plan.steps["report"]
    inputs = {role: found for role, made in step.inputs.items() if (found := made.address.find())}
    if len(inputs) < len(step.inputs):
        return ["Its answers were not compared with the base model's."]
    for role, found in inputs.items():
        found.verify(opened=OPENED.get(step.inputs[role].stage, ("*",)))
    return notes(Work(plan, step, inputs, step.address.partial))
