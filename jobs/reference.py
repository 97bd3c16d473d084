"""Score every pair once under the base model: python -m jobs.reference --config FILE [section.key=value ...]"""

from pathlib import Path

from jobs.common.saying import doing
from jobs.common.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """One part of log-prob sums for every part of pairs, by a pool of scorers; or of the pairs' features."""
    from actors.cluster import connected, threads
    from actors.environment import environment
    from actors.scorer import Scorer, ScorerSpec
    from jobs.common.models import autoencoder, base_model
    from jobs.common.pool import run_parts

    pairs, resources = work.inputs["pairs"], work.config.resources
    parts = sorted(path.name for path in pairs.path.glob("part-*.parquet"))
    doing("starting or joining Ray")
    with connected():
        spec = ScorerSpec(
            model=str(base_model(work.plan)),
            dtype=work.config.model.dtype,
            trust_remote_code=work.config.model.trust_remote_code,
            pairs=str(pairs.path),
            folder=str(work.folder),
            resources=resources,
            threads=threads(resources.scorers),
            autoencoder=autoencoder(work) if work.step.name == "reference:features" else None,
            features=work.config.features,
        )
        outcome = run_parts(
            [{"part": name} for name in parts],
            Scorer,
            spec,
            what=work.step.name,
            setting="resources.scorers",
            actors=resources.scorers,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.gpus_per_actor),
        )
    outcome.tokens = sum(tokens(pairs.path / name) for name in parts)
    return outcome


def tokens(part: Path) -> int:
    """Token ids in a part of pairs."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lists = pq.read_table(part, columns=["prompt_ids", "chosen_ids", "rejected_ids"])
    return sum(pc.sum(pc.list_value_length(lists[name])).as_py() or 0 for name in lists.column_names)


if __name__ == "__main__":
    main("reference")
