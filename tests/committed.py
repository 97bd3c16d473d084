"""Results that stand for what a run made: committed at their addresses, with real manifests and any files."""

from collections.abc import Mapping
from typing import Any

from jobs.common.stage import Outcome, manifest
from pipeline.line.steps import Plan, Step
from pipeline.results.artifacts import Artifact


def commit(plan: Plan, step: Step, files: Mapping[str, bytes] | None = None, **outcome: Any) -> Artifact:
    """Commit one result of a plan, or find it."""
    if found := step.address.find():
        return found
    with step.address.writing() as folder:
        for name, content in (files or {"part-00000.parquet": step.name.encode()}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return step.address.commit(manifest(plan, step, Outcome(outcome.pop("rows", {}), **outcome), 1.0), {})


def commit_all(plan: Plan) -> list[Artifact]:
    return [commit(plan, step) for step in plan.steps.values()]
