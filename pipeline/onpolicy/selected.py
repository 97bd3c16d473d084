"""The pairs that were selected, as rows that prepare reads like a user's own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.preferences.messages import said
from pipeline.preferences.rows import LOT_ROWS, Held, Row, Rows, Source
from pipeline.results.tables import SELECTED
from pipeline.settings.inputs import SAMPLED

_READ = ["prompt", "chosen", "rejected", "chosen_score", "rejected_score", "label_confidence", "source", "split"]


def selected_pairs(folder: Path, loader: str = SAMPLED) -> Source:
    """The pairs of a result of stage pair, or of stage bridge, in the order of its parts."""
    return Source(Rows(lambda: _held(folder)), loader, {})


def _held(folder: Path) -> Iterator[Held]:
    number = 1
    for part in sorted(folder.glob("part-*.parquet")):
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
