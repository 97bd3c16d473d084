"""The shapes of row that are accepted, and how each is read into a prompt of chat messages and two completions.

`SHAPES` is the whole list. A shape is seen by looking at the types of the columns prompt, chosen and rejected; a row
that fits one and still cannot be read raises `Unusable`, which normalise.py turns into an entry of the ledger.
"""

import reprlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.preferences.files import Row, Unreadable

# role and content (a text), and what templates know beside them: tool_calls, tool_call_id, name, reasoning_content.
Message = dict[str, Any]

ROLES = ("system", "user", "assistant")

short = reprlib.Repr()
short.maxstring = short.maxother = 80


@dataclass(frozen=True)
class Dropped:
    """A row that is not used: `reason` is a short slug to count by, `detail` the value at fault, shortened."""

    reason: str
    detail: str


class Unusable(Exception):
    """Carries a reason from wherever it is found out to `normalise`."""

    def __init__(self, reason: str, detail: str):
        self.dropped = Dropped(reason, detail)


_Sides = tuple[list[Message], Message, Message]  # prompt, chosen, rejected


def said(text: str) -> Message:
    """The assistant's message of this text."""
    return {"role": "assistant", "content": text}


def _plain(prompt: str, chosen: str, rejected: str) -> _Sides:
    return [{"role": "user", "content": prompt}], said(chosen), said(rejected)


def _messages(prompt: str | list[Any], chosen: str | list[Any], rejected: str | list[Any]) -> _Sides:
    start = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _read(prompt, "prompt")
    return start, _completion(chosen, "chosen"), _completion(rejected, "rejected")


def _conversation(prompt: str | list[Any] | None, chosen: list[Any], rejected: list[Any]) -> _Sides:
    start, other = _read(chosen[:-1], "chosen"), _read(rejected[:-1], "rejected")
    if start != other:
        raise Unusable("prompts-differ", "the conversations differ before their last message")
    if isinstance(prompt, str):
        agrees = prompt.strip() in [message["content"].strip() for message in start if message["role"] == "user"]
    else:
        agrees = prompt is None or start == _read(prompt, "prompt")
    if not agrees:
        raise Unusable("prompts-differ", f"the prompt column is not in the conversations: {short.repr(prompt)}")
    return start, _completion(chosen[-1:], "chosen"), _completion(rejected[-1:], "rejected")


def _completion(side: str | list[Any], column: str) -> Message:
    """The message of a side given as a text or as a list of one assistant message."""
    if isinstance(side, str):
        return said(side)
    messages = _read(side, column)
    if [message["role"] for message in messages] != ["assistant"]:
        roles = short.repr([message["role"] for message in messages])
        raise Unusable("bad-role", f"{column} must end in one assistant message, and has {roles}")
    return messages[0]


def _read(messages: list[Any], column: str) -> list[Message]:
    """Messages with their role and content only, both checked."""
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise Unusable("wrong-type", f"{column} has a message without text content: {short.repr(message)}")
        if message.get("role") not in ROLES:
            raise Unusable("bad-role", f"{column} has a message of role {short.repr(message.get('role'))}")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


class Shape(NamedTuple):
    fits: Callable[[Any, Any, Any], bool]  # of the columns prompt, chosen and rejected, None where absent
    read: Callable[[Any, Any, Any], _Sides]
    wording: str


def _is_side(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and len(value) == 1)


SHAPES: dict[str, Shape] = {
    "plain": Shape(
        lambda *columns: all(isinstance(column, str) for column in columns),
        _plain,
        "prompt, chosen and rejected are texts",
    ),
    "messages": Shape(
        lambda prompt, *sides: isinstance(prompt, str | list) and all(_is_side(side) for side in sides),
        _messages,
        "prompt is a list of {role, content}, chosen and rejected are texts or lists of one assistant message",
    ),
    "conversation": Shape(
        lambda prompt, *sides: (
            (prompt is None or isinstance(prompt, str | list))
            and all(isinstance(side, list) and side for side in sides)
            and any(len(side) > 1 for side in sides)
        ),
        _conversation,
        "chosen and rejected are whole conversations that differ in their last message (prompt may be left out)",
    ),
}


def shape_of(row: Row | Unreadable) -> str | None:
    """The name in SHAPES of the first shape the row fits, or None."""
    if isinstance(row, Unreadable):
        return None
    columns = [row.get(name) for name in ("prompt", "chosen", "rejected")]
    return next((name for name, shape in SHAPES.items() if shape.fits(*columns)), None)


def require_shape(shapes: Collection[str], columns: Collection[str]) -> None:
    """Raise UserError if no accepted shape was seen in a source's rows; `columns` are the names seen in them."""
    if shapes:
        return
    accepted = "; ".join(f"{name}: {shape.wording}" for name, shape in SHAPES.items())
    seen = ", ".join(map(repr, sorted(columns))) or "(none)"
    raise UserError(
        f"no row of data.source has an accepted shape; its columns are {seen}",
        f"rename or convert the columns to one of these shapes: {accepted}",
    )
