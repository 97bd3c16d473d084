"""Read, check and tokenise the preference pairs: python -m jobs.prepare --config FILE [section.key=value ...]"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.account import refuse_losses, refuse_suspects, tell
from jobs.common.models import base_model
from jobs.common.reader import Reader
from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.settings.config import EMBEDDED, Data

if TYPE_CHECKING:
    from pipeline.preferences.files import Rows

Row = dict[str, Any]


def run(work: Work) -> Outcome:
    """Parts of pairs, and a ledger: what was dropped and why stands in dropped.parquet."""
    from pipeline.compute.limits import Limits
    from pipeline.preferences.tokenise import open_tokeniser
    from pipeline.results import tables

    data = work.config.data
    model = work.config.model
    folder = base_model(work.plan)
    doing("opening the tokenizer")
    tokeniser = open_tokeniser(folder, data.max_prompt_tokens, data.max_completion_tokens, **model.rendering)
    limits = Limits.of(folder)
    limits.require(tokeniser)
    doing("reading rows")
    rows, loader = open_rows(data)
    reader = Reader(tokeniser, limits, data, rows)
    noted = tokeniser.notes.copy()
    counts, lacking = write(reader, work.folder)
    if reader.normaliser.outdone:
        say("prepare: of some pairs a later copy says more than the first: reading again, to keep that one")
        tokeniser.notes = noted
        reader = Reader(tokeniser, limits, data, rows, reader.normaliser.best)
        counts, lacking = write(reader, work.folder)
    kept, dropped = reader.kept, len(reader.dropped)
    tables.write(reader.dropped, tables.DROPPED, work.folder / "dropped.parquet")
    reasons = dict(Counter(row["reason"] for row in reader.dropped).most_common())
    # A row that holds no pair counts as one: read is kept and dropped together, and more than rows where a row is
    # a list of completions that make several pairs.
    ledger = {"rows": reader.rows_read, "read": kept + dropped, "kept": kept, "dropped": reasons}
    ledger["beyond_limit"] = kept - sum(counts.values())
    refuse_suspects(reader)
    refuse_losses(data, ledger, work.folder / "dropped.parquet", reader.examples())
    if dropped:
        say(f"prepare: {dropped} of {kept + dropped} rows dropped: {reasons}")
    if data.source != EMBEDDED:
        tell(reader)
    for remark, count in tokeniser.remarks().items():
        say(f"prepare: {remark}" + (f" ({count} times)" if count > 1 else ""))
    found = {"end_of_turn": tokeniser.end, "template": tokeniser.remarks(), "lacking": lacking}
    return Outcome(counts, metrics={"loader": loader, **reader.metrics(), **found}, ledger=ledger)


def write(reader: Reader, folder: Path) -> tuple[dict[str, int], dict[str, Row]]:
    """Write a reader's pairs; the rows of each part, and what `count_lacking` counts."""
    from pipeline.results import tables

    for earlier in folder.glob("part-*.parquet"):
        earlier.unlink()
    data, counts, lacking = reader.data, dict[str, int](), dict[str, Row]()
    pairs: Iterable[Row] = reader.pairs()
    if data.limit is not None:
        pairs = limited(list(pairs), data.limit)
    for number, part in enumerate(tables.parts(count_lacking(pairs, lacking), data.shard_pairs)):
        name = f"part-{number:05d}.parquet"
        counts[name] = tables.write(part, tables.PAIRS, folder / name)
        doing(f"{sum(counts.values())} pairs written")
    return counts, lacking


def open_rows(data: Data) -> tuple["Rows", str]:
    """Numbered rows as a user's own file would have them, and the name of what read them."""
    from pipeline.preferences import verifiable
    from pipeline.preferences.files import Rows
    from pipeline.preferences.sources import open_source

    if data.source == EMBEDDED:

        def made() -> Iterator[tuple[int, Row]]:
            parts = (("train", data.pairs), ("dev", data.dev_pairs))
            return enumerate(itertools.chain(*(verifiable.pairs(*part, data.seed) for part in parts)))

        return Rows(made), EMBEDDED
    source = open_source(
        data.source, split=data.split, subset=data.subset, revision=data.revision, columns=data.columns.values()
    )
    return source.rows, source.loader


def count_lacking(pairs: Iterable[Row], lacking: dict[str, Row]) -> Iterator[Row]:
    """The same pairs, without the number of their row.

    `lacking` then says of each column that some train pairs have not got: how many, of how many, and the first's row.
    """
    held = {"scores": "chosen_score", "label_confidence": "label_confidence", "difficulty": "difficulty"}
    train = 0
    for pair in pairs:
        row = pair.pop("row")
        if pair["split"] == "train":
            train += 1
            for name in (name for name, column in held.items() if pair[column] is None):
                lacking.setdefault(name, {"pairs": 0, "row": row})["pairs"] += 1
        yield pair
    for one in lacking.values():
        one["of"] = train


def limited(pairs: list[Row], limit: int) -> list[Row]:
    """`limit` train pairs, those of the lowest ids, whatever the order of rows; other splits in proportion."""
    by_split: dict[str, list[Row]] = {}
    for pair in sorted(pairs, key=lambda pair: pair["pair_id"]):
        by_split.setdefault(pair["split"], []).append(pair)
    share = min(1.0, limit / max(1, len(by_split.get("train", []))))
    return [pair for members in by_split.values() for pair in members[: round(share * len(members))]]


if __name__ == "__main__":
    main("prepare")
