"""Score every pair once under the base model: python -m jobs.reference --config FILE [section.key=value ...]"""

from jobs.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """One part of log-prob sums for every part of pairs, by a pool of scorers."""
    import pyarrow.compute as pc

    from actors.cluster import connected, threads
    from actors.scorer import Scorer, ScorerSpec
    from jobs.pool import run_parts
    from jobs.prepare import base_model
    from pipeline import tables

    pairs, resources = work.inputs["pairs"], work.config.resources
    parts = sorted(path.name for path in pairs.path.glob("part-*.parquet"))
    with connected():
        spec = ScorerSpec(
            model=str(base_model(work.plan)),
            dtype=work.config.model.dtype,
            pairs=str(pairs.path),
            folder=str(work.folder),
            score_tokens=resources.score_tokens,
            logits_chunk=resources.logits_chunk,
            threads=threads(resources.scorers),
        )
        outcome = run_parts(
            [{"part": name} for name in parts],
            Scorer,
            spec,
            what="reference",
            setting="resources.scorers",
            actors=resources.scorers,
            resources=resources,
            folder=work.folder,
        )
    lengths = tables.read(pairs.path, tables.PAIRS, ["prompt_ids", "chosen_ids", "rejected_ids"])
    outcome.tokens = sum(pc.sum(pc.list_value_length(lengths[name])).as_py() or 0 for name in lengths.column_names)
    return outcome


if __name__ == "__main__":
    main("reference")
