"""Decide order, route and flips of every train pair: python -m jobs.schedule --config FILE [section.key=value ...]"""

from jobs.common.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """One table: a row a position of the run, then the dropped pairs."""
    import pyarrow.compute as pc

    from pipeline.errors import UserError
    from pipeline.results import tables
    from pipeline.training.schedule import make_schedule

    columns = ["pair_id", "chosen_score", "rejected_score", "difficulty", "split"]
    pairs = tables.read(work.inputs["pairs"].path, tables.PAIRS, columns)
    if "reference" in work.inputs:
        columns = ["pair_id", "chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"]
        pairs = tables.joined(pairs, tables.read(work.inputs["reference"].path, tables.REFERENCE, columns))
    pairs = pairs.filter(pc.equal(pairs["split"], "train")).drop_columns(["split"])
    if not pairs.num_rows:
        raise UserError("no pair is in split train", "give rows of split train, or rows without a split")
    scheduled = make_schedule(pairs, work.config.schedule)
    name = "part-00000.parquet"
    rows = tables.write_tables(scheduled.tables(), tables.SCHEDULE, work.folder / name)
    return Outcome({name: rows}, metrics=scheduled.counts())


if __name__ == "__main__":
    main("schedule")
