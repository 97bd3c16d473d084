"""What happened, step by step and pair by pair: rows on disk as Parquet parts, so that no worker holds them all.

A part holds the rows of steps `first` to `end` - 1. Rows are written before the checkpoint that covers them, and one of
step k covers those of all steps before k: a run that goes on from there removes what is beyond, and has each row once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.training.rows import Rows

Row = dict[str, Any]
_PAIRS = 10_000  # rows that are held at most, and those of a step
_OPTIONAL = {"reliability": tables.RELIABILITY, "streams": tables.STREAMS}  # which not every training has
_TABLES = {"steps": tables.STEPS, "trained_pairs": tables.TRAINED_PAIRS, **_OPTIONAL}


class Journal:
    """Kept in `folder`, which is its own, by the first worker; without one, nothing is kept."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.rows: dict[str, list[Row]] = {table: [] for table in _TABLES}  # not yet written

    @property
    def steps(self) -> list[Row]:
        """Those not yet written, like the next."""
        return self.rows["steps"]

    @property
    def pairs(self) -> list[Row]:
        return self.rows["trained_pairs"]

    def add(self, step: Row, rows: Rows, **more: Sequence[Row]) -> None:
        """A row of tables.STEPS, that step's pairs, and what it has of the tables that not every training has."""
        if not self.folder:
            return
        for table, added in ({"steps": [step], "trained_pairs": rows.trained(step["step"])} | more).items():
            self.rows[table] += added
        if len(self.pairs) >= _PAIRS:
            self.write()

    def write(self) -> None:
        """Write down what is not; before a checkpoint."""
        if not self.folder or not self.steps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.steps[0]['step']:09}-{self.steps[-1]['step'] + 1:09}.parquet"
        for table, schema in _TABLES.items():
            if self.rows[table] or table not in _OPTIONAL:
                tables.write(self.rows[table], schema, self.folder / f"{table}-{name}")
        self.rows = {table: [] for table in _TABLES}

    def go_on(self, step: int) -> None:
        """Keep the rows of the steps before `step`, and no others. Raises UserError where some are not there."""
        self.rows = {table: [] for table in _TABLES}
        for table in _TABLES if self.folder else ():
            covered = 0
            for part in self._parts(table):
                first, end = map(int, part.stem.split("-")[1:])
                if end > step:
                    part.unlink()
                elif first == covered:
                    covered = end
            if covered != step and table not in _OPTIONAL:
                raise UserError(
                    f"{self.folder} has rows of {table} up to step {covered}, and the checkpoint is of step {step}",
                    "remove the folder that this one is in; the same command trains from the start",
                )

    def steps_before(self, step: int) -> Iterator[Row]:
        """The rows of tables.STEPS that `go_on(step)` kept, read as they are asked for, by whatever thread."""
        for part in self._parts("steps"):
            if int(part.stem.split("-")[2]) <= step:
                yield from tables.read(part.parent, tables.STEPS, pattern=part.name).to_pylist()

    def export(self, folder: Path) -> None:
        """All rows, as steps.parquet, trained_pairs.parquet and, where there are any, the others."""
        self.write()
        for table, schema in _TABLES.items():
            parts = self._parts(table)
            if parts or table not in _OPTIONAL:
                tables.gather(parts, schema, folder / f"{table}.parquet")

    def _parts(self, table: str) -> list[Path]:
        return sorted(self.folder.glob(f"{table}-*.parquet")) if self.folder else []
