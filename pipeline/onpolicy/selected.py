"""The pairs that were selected, as rows that prepare reads like a user's own."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.preferences.messages import said
from pipeline.preferences.rows import LOT_ROWS, Held, Row, Rows, Source
from pipeline.results.artifacts import Artifact
from pipeline.results.tables import SELECTED
from pipeline.settings.inputs import SAMPLED

_READ = ["prompt", "chosen", "rejected", "chosen_score", "rejected_score", "label_confidence", "source", "split"]


def selected_pairs(folders: Sequence[Path], loader: str = SAMPLED) -> Source:
    """The pairs of some results of stage pair, or of stage bridge, one after the other, in the order of their parts."""
    return Source(Rows(lambda: _held(folders)), loader, {})


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*.parquet"))


@dataclass(frozen=True)
class Origin:
    """What became of the pairs of one of several results. `first` is the row that its first pair is."""

    result: str
    first: int
    rows: int
    kept: int
    repeated: int  # dropped, as another of the results has the pair, too
    dropped: int  # for any other reason
    beyond_limit: int = 0  # of data.limit


def origins(results: Sequence[Artifact], dropped: Path) -> list[Origin]:
    """The same of all results that `selected_pairs` was given, by the rows that are in the file `dropped`."""
    table = pq.read_table(dropped, columns=["row", "reason"])
    again = pc.is_in(table["reason"], pa.array(["duplicate", "contradicting-duplicate"]))
    found, first = list[Origin](), 1
    for each in results:
        rows = sum(pq.read_metadata(part).num_rows for part in parts(each.path))
        own = pc.and_(pc.greater_equal(table["row"], first), pc.less(table["row"], first + rows))
        lost, repeated = (pc.sum(mask).as_py() or 0 for mask in (own, pc.and_(own, again)))
        found.append(Origin(each.name, first, rows, rows - lost, repeated, lost - repeated))
        first += rows
    return found


def within_limit(found: Sequence[Origin], written: Sequence[Sequence[int]]) -> list[Origin]:
    """The same once some of the pairs that could be kept were `written`: by each who wrote, so many of each result."""
    counts = map(sum, zip(*written, strict=True))
    return [
        replace(each, kept=count, beyond_limit=each.kept - count) for each, count in zip(found, counts, strict=True)
    ]


def _held(folders: Sequence[Path]) -> Iterator[Held]:
    number = 1
    for part in (part for folder in folders for part in parts(folder)):
        for batch in pq.ParquetFile(part).iter_batches(LOT_ROWS, columns=_READ):
            table = pa.Table.from_batches([batch]).select(_READ).cast(pa.schema([SELECTED.field(n) for n in _READ]))
            yield Held(range(number, number + table.num_rows), table, _rows, table.nbytes)
            number += table.num_rows


def _rows(table: pa.Table) -> list[Row]:
    """As messages, whatever an answer looks like: no text of a model is taken for a transcript, or for JSON."""
    return [
        row
        | {"prompt": json.loads(row["prompt"]), "chosen": [said(row["chosen"])], "rejected": [said(row["rejected"])]}
        for row in table.to_pylist()
    ]
