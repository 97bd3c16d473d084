"""A pair set ranked by a trained model and the base model: prepare and reference of that set, and then rank.

    pairs ──► prepare ──► reference ──► rank ◄── train
                                         ▲ held-out pairs of the run, and their reference

The first two are results like any other, found again by every training from the same base model.
"""

import itertools
from collections.abc import Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.line.plan import make_plan, readable
from pipeline.line.steps import VERSIONS, Plan, Step
from pipeline.preferences.normalise import HEAD
from pipeline.preferences.rows import Unreadable
from pipeline.preferences.sources import open_source
from pipeline.results.artifacts import fingerprint
from pipeline.settings.config import RunConfig, validate
from pipeline.settings.file import override
from pipeline.settings.inputs import EMBEDDED, SAMPLED
from pipeline.settings.shorthand import expand

# What a pair set is read with unless it says otherwise: as the run's own data.
_SHARED = ("max_prompt_tokens", "max_completion_tokens", "long_prompts", "max_dropped", "max_suspect", "shard_pairs")


def set_of(config: RunConfig, given: str) -> RunConfig:
    """The configuration whose data is the pair set: a source, or a section as `data` has it. Raises UserError."""
    raw: dict[str, Any] = {}
    override(raw, [f"data={given}"])
    data = expand(raw).get("data")
    if not isinstance(data, dict) or not data.get("source"):
        problem = f"--data {given}: names no pair set"
        raise UserError(problem, "give a source, or a section, such as --data '{source: FILE, split: test}'")
    if data["source"] == SAMPLED:
        raise UserError(f"--data {SAMPLED}: is no set of pairs that is there", "give a file, a folder or a hub name")
    shared = {name: getattr(config.data, name) for name in _SHARED}
    found = validate(
        {
            "name": config.name,
            "model": config.model.model_dump(),
            "reference": config.reference.model_dump(),  # which rewards are measured against
            "data": shared | data,
            "objective": {"name": "dpo"},  # which asks no column of a pair
            "resources": config.resources.model_dump(),
        }
    )
    return found.model_copy(update={"data": found.data.model_copy(update={"columns": _columns(found)})})


def _columns(config: RunConfig) -> Mapping[str, str | None]:
    """Where the first rows name their part of the set as RewardBench's do, by `subset`, it stands for their source."""
    data = config.data
    if data.source == EMBEDDED or "source" in data.columns:
        return data.columns
    rows = open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    ).rows
    head = [row for _, row in itertools.islice(rows, HEAD) if not isinstance(row, Unreadable)]
    named = any(isinstance(row.get("subset"), str) for row in head) and not any(row.get("source") for row in head)
    return data.columns | {"source": "subset"} if named else data.columns


def plan_ranking(plan: Plan, given: str) -> tuple[Plan, Step]:
    """The plan of the pair set, and the step that ranks it by the training of `plan`. Raises UserError."""
    pairs = make_plan(set_of(plan.config, given))
    inputs = {
        "pairs": pairs.steps["prepare"],
        "base": pairs.steps["reference"],
        "trained": plan.steps["train"],
        "run_pairs": plan.steps["prepare"],
        "run_base": plan.steps["reference"],
    }
    inputs |= {f"run_pairs:{name}": plan.steps[f"{name}/prepare"] for name in plan.streams}
    judge = plan.config.judge
    identity = {"resamples": judge.resamples, "seed": judge.seed}
    digests = {role: step.address.fingerprint for role, step in inputs.items()}
    digest = fingerprint("rank", VERSIONS["rank"], identity, digests)
    label = readable(f"{plan.config.objective.name}-{pairs.steps['prepare'].address.label}")
    return pairs, Step("rank", plan.steps["train"].address.beside("rank", label, digest), identity, inputs)
