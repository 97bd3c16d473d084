"""Rows made one form, or counted out: every row ends as a `Preference` or as `Dropped` with a reason.

The reason is a short slug for the ledger, the detail gives the value at fault. Nothing here raises on a row, whatever
is in it. Which shapes of row are accepted is in shapes.py.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipeline.preferences.files import Row, Unreadable
from pipeline.preferences.shapes import SHAPES, Dropped, Message, Unusable, shape_of, short

SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class Preference:
    """A normalised pair. Which completion is better is what the row says; the scores may disagree with it."""

    prompt: tuple[Message, ...]
    chosen: Message  # of role assistant, as rejected
    rejected: Message
    chosen_score: float | None = None
    rejected_score: float | None = None
    label_confidence: float | None = None  # P(chosen is preferred)
    difficulty: float | None = None  # larger is harder
    source: str = ""
    split: str | None = None  # train | dev | test, where the row says so
    tools: tuple[Any, ...] = ()  # functions that the assistant may call, as chat templates take them


def normalise(
    row: Row | Unreadable, seen: set[str] | None = None, difficulty_column: str = "difficulty"
) -> Preference | Dropped:
    """The pair a row holds, or why it holds none.

    `seen` collects the pair ids of a source; with it, a pair that was there before is dropped as a duplicate.
    """
    if isinstance(row, Unreadable):
        return Dropped("unreadable-row", row.detail)
    try:
        preference = _preference(row, difficulty_column)
    except Unusable as unusable:
        return unusable.dropped
    if seen is not None:
        key = pair_id(preference)
        if key in seen:
            return Dropped("duplicate", f"pair {key}")
        seen.add(key)
    return preference


def pair_id(preference: Preference) -> str:
    """Content digest of prompt, chosen, rejected and tools: 32 hex digits. Scores are no part of it."""
    sides = [plain(message) for message in (preference.chosen, preference.rejected)]
    return _digest([list(preference.prompt), *sides, *([list(preference.tools)] if preference.tools else [])])[:32]


def plain(message: Message) -> str | Message:
    """The text of a message that is nothing but text."""
    return str(message["content"]) if message.keys() == {"role", "content"} else message


def split_of(preference: Preference, dev_fraction: float) -> str:
    """The row's own split, else dev for about `dev_fraction` of the prompts and train for the others.

    Drawn from the prompt alone, so that all pairs of a prompt are on the same side.
    """
    if preference.split is not None:
        return preference.split
    draw = int(_digest(["split", list(preference.prompt)])[:13], 16) / 16**13  # 52 bits: exact in a float
    return "dev" if draw < dev_fraction else "train"


def _digest(value: Any) -> str:
    canonical = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _preference(row: Row, difficulty_column: str) -> Preference:
    shape = shape_of(row)
    if shape is None:
        raise _why_no_shape(row)
    prompt, chosen, rejected = SHAPES[shape].read(row.get("prompt"), row["chosen"], row["rejected"])
    chosen_score, rejected_score = _scores(row)
    source = row.get("source")  # a label for reading; whatever is no text is left out
    source = source if isinstance(source, str) else ""
    _check_texts(prompt, chosen, rejected, source)
    confidence = _number(row, "label_confidence", "bad-confidence")
    if confidence is not None and not 0 <= confidence <= 1:
        raise Unusable("bad-confidence", f"label_confidence is {confidence}, not in [0, 1]")
    difficulty, split = _number(row, difficulty_column, "bad-difficulty"), _split(row.get("split"))
    return Preference(
        tuple(prompt), chosen, rejected, chosen_score, rejected_score, confidence, difficulty, source, split
    )


def _why_no_shape(row: Row) -> Unusable:
    for name in ("chosen", "rejected", "prompt"):
        if row.get(name) is None:
            return Unusable(f"missing-{name}", f"the row has the columns {short.repr(sorted(map(str, row)))}")
        if name != "prompt" and row[name] == []:
            return Unusable("empty-completion", f"{name} is an empty list")
    types = ", ".join(f"{name}: {type(row[name]).__name__}" for name in ("prompt", "chosen", "rejected"))
    return Unusable("wrong-type", f"no accepted shape has these types: {types}")


def _check_texts(prompt: list[Message], chosen: Message, rejected: Message, source: str) -> None:
    for text in (*(message["content"] for message in (*prompt, chosen, rejected)), source):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Unusable("bad-text", f"{error.reason} at {error.start}: {short.repr(text)}") from None
    if not prompt or not prompt[-1]["content"].strip():
        raise Unusable("empty-prompt", short.repr(prompt))
    if prompt[-1]["role"] != "user":
        raise Unusable("bad-role", f"the prompt ends with a message of role {prompt[-1]['role']!r}, not 'user'")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side["content"].strip():
            raise Unusable("empty-completion", f"{name} is {short.repr(side['content'])}")
    if chosen == rejected:
        raise Unusable("equal-completions", short.repr(plain(chosen)))


def _scores(row: Row) -> tuple[float | None, float | None]:
    for names in (("chosen_score", "rejected_score"), ("score_chosen", "score_rejected")):
        chosen, rejected = (_number(row, name, "bad-score") for name in names)
        if (chosen is None) != (rejected is None):
            raise Unusable("bad-score", f"only one of {' and '.join(names)} is given")
        if chosen is not None:
            return chosen, rejected
    return None, None


def _number(row: Row, name: str, reason: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise Unusable(reason, f"{name} is {short.repr(value)}, not a number") from None
    if not math.isfinite(number):
        raise Unusable(reason, f"{name} is {number}")
    return number


def _split(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in SPLITS:
        raise Unusable("bad-split", f"split is {short.repr(value)}, not one of {', '.join(SPLITS)}")
    return SPLITS[value]
