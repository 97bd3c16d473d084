"""Verdicts made elsewhere, as rows of JSON, JSON Lines or Parquet. What cannot be used is counted, never guessed."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.files import Unreadable, is_parquet, open_json, open_parquet

Row = dict[str, Any]
ROW_KEYS = ("instruction", "uid", "question_id")


class LeftOut(Counter[str]):
    """How many rows are left out, by reason."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.most_common())


def read(path: Path, left_out: LeftOut) -> list[Row]:
    """The rows of a file. Raises UserError where it is none of the formats or holds no row."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give a .json, .jsonl or .parquet file of verdicts")
    rows = []
    for _, row in (open_parquet(path) if is_parquet(path) else open_json(path, ROW_KEYS)).rows:
        if isinstance(row, Unreadable):
            left_out["unreadable"] += 1
        else:
            rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no rows ({left_out or 'it is empty'})", "give a file of verdicts")
    return rows


def require(rows: Iterable[Row], names: Iterable[tuple[str, ...]], path: Path, what: str) -> None:
    """Raise UserError where no row has one of each of `names`: the file is of something else."""
    for alternatives in names:
        if not any(name in row for row in rows for name in alternatives):
            raise UserError(
                f"{path} is no file of {what}: no row has {' or '.join(alternatives)}",
                f"give {what}, or another --benchmark",
            )


def number(value: Any) -> float | None:
    """A finite number, also one that is written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def text(row: Row, *names: str) -> str | None:
    """The first of `names` that holds text."""
    return next((row[name] for name in names if isinstance(row.get(name), str)), None)


def by(rows: Iterable[Row], *names: str) -> dict[str, list[Row]]:
    """Rows by the first of `names` that each has."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[text(row, *names) or ""].append(row)
    return dict(sorted(found.items()))
