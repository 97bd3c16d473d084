"""What a row says, checked value by value; each check raises Unusable with the reason and the value at fault."""

import json
import math
from decimal import Decimal
from typing import Any

from pipeline.preferences.messages import RESULTS, Message, Unusable, plain, short
from pipeline.preferences.rows import Row

SCORES = (("chosen_score", "rejected_score"), ("score_chosen", "score_rejected"))
SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
SPLITS |= dict.fromkeys(("dev", "development", "val", "valid", "validation", "eval", "evaluation"), "dev")


def after(question: str, answer: str) -> str | None:
    """What follows the question in an answer that begins with it, to the end of a word; None in any other."""
    if not question or not answer.lstrip().startswith(question):
        return None
    rest = answer.lstrip()[len(question) :]
    return rest.lstrip() if not rest or rest[0].isspace() else None


def check_prompt(prompt: list[Message]) -> None:
    for message in prompt:
        check_text(message)
    if not prompt:
        raise Unusable("empty-prompt", short.repr(prompt))
    role = prompt[-1]["role"]
    if role != "user" and role not in RESULTS:
        raise Unusable("bad-role", f"the prompt ends with a message of role {role!r}, not 'user'")
    if role == "user" and not prompt[-1]["content"].strip():
        raise Unusable("empty-prompt", short.repr(prompt))


def check_answers(chosen: Message, rejected: Message) -> None:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        check_text(side)
        if not side["content"].strip() and "tool_calls" not in side:
            raise Unusable("empty-completion", f"{name} is {short.repr(side['content'])}")
    if chosen == rejected:
        raise Unusable("equal-completions", short.repr(plain(chosen)))


def check_text(value: str | Message) -> None:
    """A text, or all that is in a message, must have a spelling in UTF-8."""
    if isinstance(value, dict) and len(value) > 2:
        return check_json(value)
    text = value if isinstance(value, str) else value["content"]
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unusable("bad-text", f"{error.reason} at {error.start}: {short.repr(text)}") from None


def check_json(value: dict[str, Any]) -> None:
    """A message with calls, or a tool, must have a spelling in JSON: Parquet may hold a date or bytes in it."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable("bad-text", f"{type(error).__name__}: {short.repr(value)}") from None


def scores(row: Row) -> tuple[float | None, float | None]:
    """Of chosen and rejected, under either pair of names; both or none."""
    found = {}
    for names in SCORES:
        chosen, rejected = (number(row, name, "bad-score") for name in names)
        if (chosen is None) != (rejected is None):
            raise Unusable("bad-score", f"only one of {' and '.join(names)} is given")
        if chosen is not None:
            found[chosen, rejected] = names
    if len(found) > 1:
        told = "; ".join(f"{' and '.join(names)} are {short.repr(pair)}" for pair, names in found.items())
        raise Unusable("two-scores", f"{told}; data.columns={{chosen_score: null}} leaves the first two unread")
    return next(iter(found), (None, None))


def number(row: Row, name: str, reason: str) -> float | None:
    """A finite number, also one that is written as text; None where the column is null or absent."""
    value = row.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
            raise ValueError
        found = float(value)
    except (ValueError, OverflowError):
        raise Unusable(reason, f"{name} is {short.repr(value)}, not a number") from None
    if not math.isfinite(found):
        raise Unusable(reason, f"{name} is {found}")
    return found


def split(value: Any) -> str | None:
    """train, dev or test, for any of their names."""
    if value is None:
        return None
    found = SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        others = sorted(SPLITS.keys() - {"train", "dev", "test"})
        raise Unusable("bad-split", f"split is {short.repr(value)}, not train, dev or test, nor {', '.join(others)}")
    return found
