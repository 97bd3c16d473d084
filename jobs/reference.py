"""Score every pair once under the base model: python -m jobs.reference --config FILE [section.key=value ...]"""

from collections.abc import Mapping
from pathlib import Path

from jobs.common.saying import doing
from jobs.common.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """One part of log-prob sums for every part of pairs, by a pool of scorers."""
    return scored(work, {part.name: part for part in sorted(work.inputs["pairs"].path.glob("part-*.parquet"))})


def scored(work: Work, parts: Mapping[str, Path], trained: Path | None = None) -> Outcome:
    """A part of log-prob sums for each of these files of pairs, by its name: of the base model, or of what lies in the
    folder of a training, `trained`.
    """
    from actors.cluster import connected, threads
    from actors.environment import environment
    from actors.scorer import Scorer, ScorerSpec
    from jobs.common.models import base_model
    from jobs.common.pool import run_parts

    config, resources = work.config, work.config.resources
    whole = trained is not None and (trained / "model").is_dir()
    doing("starting or joining Ray")
    with connected():
        spec = ScorerSpec(
            model=str(trained / "model" if trained and whole else base_model(work.plan)),
            adapter=str(trained / "adapter") if trained and not whole else None,
            lora=config.train.lora if trained and not whole else None,
            dtype=config.model.dtype,
            trust_remote_code=config.model.trust_remote_code,
            folder=str(work.folder),
            resources=resources,
            threads=threads(resources.scorers),
        )
        outcome = run_parts(
            [{"part": name, "pairs": str(file)} for name, file in parts.items()],
            Scorer,
            spec,
            what=work.step.name,
            setting="resources.scorers",
            actors=resources.scorers,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.gpus_per_actor),
        )
    outcome.tokens = sum(map(tokens, parts.values()))
    return outcome


def tokens(part: Path) -> int:
    """Token ids in a part of pairs."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lists = pq.read_table(part, columns=["prompt_ids", "chosen_ids", "rejected_ids"])
    return sum(pc.sum(pc.list_value_length(lists[name])).as_py() or 0 for name in lists.column_names)


if __name__ == "__main__":
    main("reference")
