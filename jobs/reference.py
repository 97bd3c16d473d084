"""Score every pair once under the reference: python -m jobs.reference --config FILE [section.key=value ...]"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common.saying import doing
from jobs.common.stage import Outcome, Work, main
from pipeline.line.steps import START

if TYPE_CHECKING:
    from actors.scorer import ScorerSpec


def run(work: Work) -> Outcome:
    """One part of log-prob sums for every part of pairs; or of the pairs' features.

    Under the reference; or, where training starts from another model, under that: what it is before it is trained.
    """
    from jobs.common.models import start_model

    model = start_model(work.plan) if work.step.name == START else None
    return scored(work, parts_of(work.inputs["pairs"].path), model)


def parts_of(folder: Path) -> dict[str, Path]:
    return {part.name: part for part in sorted(folder.glob("part-*.parquet"))}


def scored(
    work: Work,
    parts: Mapping[str, Path],
    model: Path | None = None,
    trained: Path | None = None,
    by_token: bool = False,
) -> Outcome:
    """A part of log-probs, sums or `by_token`, for each of these files of pairs, by its name: by a pool of scorers.

    Under the model in the folder `model`, or what lies in the folder of a training, `trained`; without either under
    the reference.
    """
    from actors.cluster import connected, threads
    from actors.environment import environment
    from actors.scorer import Scorer
    from jobs.common.pool import run_parts

    resources, spec = work.config.resources, spec_of(work, model, trained, by_token)
    doing("starting or joining Ray")
    with connected():
        outcome = run_parts(
            [{"part": name, "pairs": str(file)} for name, file in parts.items()],
            Scorer,
            replace(spec, threads=threads(resources.scorers)),
            what=work.step.name,
            setting="resources.scorers",
            actors=resources.scorers,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.gpus_per_actor),
        )
    outcome.tokens = sum(map(tokens, parts.values()))
    return outcome


def spec_of(work: Work, model: Path | None, trained: Path | None, by_token: bool) -> "ScorerSpec":
    """Which model scores, and what it gives; see `scored`."""
    from actors.scorer import ScorerSpec
    from jobs.common.models import autoencoder, reference_model, start_model

    config, adapter = work.config, None
    if trained and (trained / "model").is_dir():
        model = trained / "model"
    elif trained:
        model, adapter = start_model(work.plan), trained / "adapter"
    return ScorerSpec(
        model=str(model or reference_model(work.plan)),
        adapter=str(adapter) if adapter else None,
        lora=config.train.lora if adapter else None,
        dtype=config.model.dtype,
        trust_remote_code=config.model.trust_remote_code,
        folder=str(work.folder),
        resources=config.resources,
        threads=1,
        by_token=by_token,
        autoencoder=autoencoder(work) if work.step.name == "reference:features" else None,
        features=config.features,
    )


def tokens(part: Path) -> int:
    """Token ids in a part of pairs."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lists = pq.read_table(part, columns=["prompt_ids", "chosen_ids", "rejected_ids"])
    return sum(pc.sum(pc.list_value_length(lists[name])).as_py() or 0 for name in lists.column_names)


if __name__ == "__main__":
    main("reference")
