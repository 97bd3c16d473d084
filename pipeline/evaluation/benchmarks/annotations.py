"""Verdicts made elsewhere, as rows of JSON, JSON Lines or Parquet. What cannot be used is counted, never guessed."""

import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pipeline.errors import UserError
from pipeline.preferences.columnar import is_parquet, open_parquet
from pipeline.preferences.files import open_json
from pipeline.preferences.rows import Unreadable

Row = dict[str, Any]
ROW_KEYS = ("instruction", "uid", "question_id")
UNNAMED = "baseline"  # what a baseline is called that its file does not name

# Of a second verdict on one question by one judge: the first one stands, whatever a tool's own code counts.
REPEATED, CONTRADICTING = "that repeat a verdict", "that contradict the first verdict on their question"


class LeftOut(Counter[str]):
    """How many rows are left out, by reason."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.most_common())


def read(path: Path, left_out: LeftOut) -> list[Row]:
    """The rows of a file. Raises UserError where it is none of the formats or holds no row."""
    return list(read_numbered(path, left_out).values())


def read_numbered(path: Path, left_out: LeftOut) -> dict[int, Row]:
    """The same by their numbers, counted from 1; in JSON Lines that is the line's."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "give a .json, .jsonl or .parquet file of verdicts")
    rows = {}
    for number, row in (open_parquet(path) if is_parquet(path) else open_json(path, ROW_KEYS)).rows:
        if isinstance(row, Unreadable):
            left_out["unreadable"] += 1
        else:
            rows[number] = row
    if not rows:
        problem = f"{path} holds no rows ({left_out or 'it is empty'})"
        raise UserError(problem, "give verdicts as JSON, JSON Lines or Parquet")
    return rows


def require(rows: Iterable[Row], names: Iterable[tuple[str, ...]], path: Path, what: str) -> None:
    """Raise UserError where no row has one of each of `names`: the file is of something else."""
    rows = list(rows)
    for alternatives in names:
        if not any(name in row for row in rows for name in alternatives):
            raise UserError(
                f"{path} is no file of {what}: no row has {' or '.join(alternatives)}",
                f"give {what}, or another --benchmark",
            )


def identified(rows: dict[int, Row], left_out: LeftOut, noun: str = "") -> list[Row]:
    """The rows that name their question; the others are counted, and the first of them is told."""
    found = [row for row in rows.values() if question(row) is not None]
    if others := [(number, row) for number, row in rows.items() if question(row) is None]:
        number, row = others[0]
        told = ", ".join(f"{name} {reprlib.repr(row[name])}" for name in ("uid", "question_id") if name in row)
        left_out[f"{noun}whose question has no id (row {number}: {told or 'none'})"] += len(others)
    return found


def question(row: Row) -> str | None:
    """The id of the question that a row of Arena-Hard's or FastChat's is about."""
    return next((found for name in ("uid", "question_id") if (found := identifier(row.get(name))) is not None), None)


def identifier(value: Any) -> str | None:
    """An id as text; None for what is none. 81, 81.0, "81" and "81.0" are one: a table that had gaps writes floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        return None
    return re.sub(r"^(\d+)\.0+$", r"\1", value)


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


def judge_of(row: Row) -> str | None:
    """Who judged: FastChat writes the judge beside the name of the words it was told, AlpacaEval an annotator."""
    named = row.get("judge", row.get("annotator"))
    first = named[0] if isinstance(named, list | tuple) and named else named
    return first if isinstance(first, str) else None


class Judged(Protocol):
    """What verdicts are about, and whose they are; None where the file does not say, or has no such thing."""

    @property
    def model(self) -> str: ...
    @property
    def baseline(self) -> str | None: ...
    @property
    def judge(self) -> str | None: ...


AnyJudged = TypeVar("AnyJudged", bound=Judged)


@dataclass(frozen=True)
class Wanted:
    """Whose verdicts are meant, by name; all where none is named."""

    baselines: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    but: tuple[str, ...] = ()  # judges whose verdicts are not meant, where there are others

    def of(self, found: Sequence[AnyJudged], source: str) -> list[AnyJudged]:
        """Those of `found` that are meant. Raises UserError where none is."""
        for option, wanted, kind in (("baseline", self.baselines, "baseline"), ("judge", self.judges, "judge")):
            kept = [each for each in found if not wanted or getattr(each, kind) in wanted]
            if not kept:
                raise UserError(
                    f"--{option} {' '.join(wanted)}: {source} has no verdict of {'it' if len(wanted) == 1 else 'them'}",
                    f"--{option} can be {', '.join(_names(found, kind)) or 'left out: the file names none'}",
                )
            found = kept
        return [each for each in found if each.judge not in self.but] or list(found)


ALL = Wanted()


def require_one(found: Iterable[Judged], source: str) -> None:
    """Raise UserError where one model's verdicts are of several baselines or judges: a mean of them all is nobody's."""
    by_model: dict[str, list[Judged]] = {}
    for each in found:
        by_model.setdefault(each.model, []).append(each)
    for model, own in by_model.items():
        for kind in ("baseline", "judge"):
            if len(names := _names(own, kind)) > 1:
                raise UserError(
                    f"{source}: {model} has verdicts of {len(names)} {kind}s ({', '.join(names)})",
                    f"name one by --{kind}",
                )


def _names(found: Iterable[Judged], kind: str) -> list[str]:
    return sorted({str(getattr(each, kind) or "one without a name") for each in found})
