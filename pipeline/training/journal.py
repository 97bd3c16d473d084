"""What happened, step by step and pair by pair: rows on disk as Parquet parts, so that no worker holds them all.

A part holds the rows of steps `first` to `end` - 1. Rows are written before the checkpoint that covers them, and one of
step k covers those of all steps before k: a run that goes on from there removes what is beyond, and has each row once.
"""

from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.results import tables
from pipeline.training.rows import Rows

Row = dict[str, Any]
_PAIRS = 10_000  # rows that are held at most, and those of a step
_TABLES = {"steps": tables.STEPS, "trained_pairs": tables.TRAINED_PAIRS}


class Journal:
    """Kept in `folder`, which is its own, by the first worker; without one, nothing is kept."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.steps: list[Row] = []  # not yet written, like the next
        self.pairs: list[Row] = []

    def add(self, step: Row, rows: Rows) -> None:
        """A row of tables.STEPS, and that step's pairs."""
        if not self.folder:
            return
        self.steps.append(step)
        self.pairs += rows.trained(step["step"])
        if len(self.pairs) >= _PAIRS:
            self.write()

    def write(self) -> None:
        """Write down what is not; before a checkpoint."""
        if not self.folder or not self.steps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.steps[0]['step']:09}-{self.steps[-1]['step'] + 1:09}.parquet"
        for (table, schema), rows in zip(_TABLES.items(), (self.steps, self.pairs), strict=True):
            tables.write(rows, schema, self.folder / f"{table}-{name}")
        self.steps, self.pairs = [], []

    def go_on(self, step: int) -> None:
        """Keep the rows of the steps before `step`, and no others. Raises UserError where some are not there."""
        self.steps, self.pairs = [], []
        for table in _TABLES if self.folder else ():
            covered = 0
            for part in self._parts(table):
                first, end = map(int, part.stem.split("-")[1:])
                if end > step:
                    part.unlink()
                elif first == covered:
                    covered = end
            if covered != step:
                raise UserError(
                    f"{self.folder} has rows of {table} up to step {covered}, and the checkpoint is of step {step}",
                    "remove the folder that this one is in; the same command trains from the start",
                )

    def export(self, folder: Path) -> None:
        """All rows, as steps.parquet and trained_pairs.parquet."""
        self.write()
        for table, schema in _TABLES.items():
            tables.gather(self._parts(table), schema, folder / f"{table}.parquet")

    def _parts(self, table: str) -> list[Path]:
        return sorted(self.folder.glob(f"{table}-*.parquet")) if self.folder else []
