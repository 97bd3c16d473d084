"""Decide order, route and flips of every train pair: python -m jobs.schedule --config FILE [section.key=value ...]"""

from jobs.common.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """One table: a row a position of the run, then the dropped pairs."""
    import pyarrow.compute as pc

    from pipeline.errors import UserError
    from pipeline.results import tables
    from pipeline.training.schedule import Candidate, make_schedule

    columns = ["pair_id", "chosen_score", "rejected_score", "difficulty", "split"]
    pairs = tables.read(work.inputs["pairs"].path, tables.PAIRS, columns)
    train = pairs.filter(pc.equal(pairs["split"], "train")).drop_columns(["split"])
    if not train.num_rows:
        raise UserError("no pair is in split train", "give rows of split train, or rows without a split")
    if "reference" in work.inputs:
        columns = ["pair_id", "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"]
        train = train.join(
            tables.read(work.inputs["reference"].path, tables.REFERENCE, columns), "pair_id", join_type="left outer"
        )
    settings = work.config.schedule
    rows = make_schedule([Candidate(**row) for row in train.to_pylist()], settings)
    tables.write(rows, tables.SCHEDULE, work.folder / "part-00000.parquet")
    counts = {route: sum(row["route"] == route for row in rows) for route in ("preference", "sft", "drop")}
    flipped = sum(row["flipped"] for row in rows if row["route"] != "drop")
    return Outcome({"part-00000.parquet": len(rows)}, metrics={**counts, "flipped": flipped})


if __name__ == "__main__":
    main("schedule")
