"""The shapes of row that are accepted, and how each is read into a prompt of chat messages and pairs of completions.

`SHAPES` is the whole list. A shape is seen by looking at the columns, never by a setting; a row that fits one and still
cannot be read raises `Unusable`, which normalise.py turns into an entry of the ledger. How messages are read is in
messages.py, which completions of a list make pairs in ranked.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.preferences.messages import (
    Dropped,
    Message,
    Notes,
    Unusable,
    is_message,
    parsed,
    read_messages,
    said,
    short,
    unpacked,
)
from pipeline.preferences.ranked import LISTS, list_column, pairs_of
from pipeline.preferences.rows import Row, Unreadable
from pipeline.preferences.transcripts import asked, is_transcript, turns

CONVERSATIONS = ("conversations", "conversation", "messages")  # a prompt's columns, where there is no prompt


class Sides(NamedTuple):
    """What a row says: the prompt, and pairs of completions with the scores of a ranking, if it is one, and by what;
    and why completions of it are in no pair."""

    prompt: list[Message]
    pairs: Sequence[tuple[Message, Message, float | None, float | None]]
    scale: str | None = None
    left_out: Sequence[Dropped] = ()


class Columns(NamedTuple):
    """A row's prompt, chosen and rejected, with JSON in texts parsed; None where absent."""

    prompt: Any
    chosen: Any
    rejected: Any


_Read = tuple[list[Message], Message, Message]  # prompt, chosen, rejected


class Shape(NamedTuple):
    fits: Callable[[Columns], bool]
    read: Callable[[Columns, Notes], _Read]
    wording: str


def _messages(columns: Columns, notes: Notes) -> _Read:
    prompt, chosen, rejected = columns
    start = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else read_messages(prompt, "prompt", notes)
    return start, _completion(chosen, "chosen", notes), _completion(rejected, "rejected", notes)


def _conversation(columns: Columns, notes: Notes) -> _Read:
    prompt, *sides = columns
    chosen, rejected = (
        read_messages(side, name, notes) for side, name in zip(sides, ("chosen", "rejected"), strict=True)
    )
    start = chosen[:-1]
    given = read_messages(prompt, "prompt", notes) if isinstance(prompt, list) else prompt
    if given is not None and chosen[0]["role"] == rejected[0]["role"] == "assistant":
        detail = f"the completions go on for {len(chosen)} and {len(rejected)} messages after the prompt"
        raise Unusable("several-turns", detail)
    if start != rejected[:-1]:
        raise Unusable("prompts-differ", "the conversations differ before their last message")
    if isinstance(given, str):
        agrees = given.strip() in [message["content"].strip() for message in start if message["role"] == "user"]
    else:
        agrees = given is None or start == given
    if not agrees:
        raise Unusable("prompts-differ", f"the prompt column is not in the conversations: {short.repr(prompt)}")
    return start, _answer(chosen[-1:], "chosen"), _answer(rejected[-1:], "rejected")


def _transcripts(columns: Columns, notes: Notes) -> _Read:
    prompt, chosen, rejected = columns
    if not (is_transcript(chosen) and is_transcript(rejected)):
        raise Unusable("prompts-differ", "one of chosen and rejected is a transcript, the other is not")
    return _conversation(Columns(prompt, turns(chosen), turns(rejected)), notes)


def _completion(side: str | list[Any], column: str, notes: Notes) -> Message:
    """The message of a side given as a text or as a list of one assistant message."""
    return said(side) if isinstance(side, str) else _answer(read_messages(side, column, notes), column)


def _answer(messages: list[Message], column: str) -> Message:
    if [message["role"] for message in messages] != ["assistant"]:
        roles = short.repr([message["role"] for message in messages])
        raise Unusable("bad-role", f"{column} must end in one assistant message, and has {roles}")
    return messages[0]


def _is_side(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and len(value) == 1)


SHAPES: dict[str, Shape] = {
    "transcripts": Shape(
        lambda columns: (
            isinstance(columns.prompt, str | list | None)
            and isinstance(columns.chosen, str)
            and isinstance(columns.rejected, str)
            and (is_transcript(columns.chosen) or is_transcript(columns.rejected))
        ),
        _transcripts,
        'chosen and rejected are texts of "\\n\\nHuman: ...\\n\\nAssistant: ..." (prompt may be left out)',
    ),
    "plain": Shape(
        lambda columns: all(isinstance(column, str) for column in columns),
        _messages,
        "prompt, chosen and rejected are texts",
    ),
    "messages": Shape(
        lambda columns: isinstance(columns.prompt, str | list) and _is_side(columns[1]) and _is_side(columns[2]),
        _messages,
        "prompt is a list of {role, content}, chosen and rejected are texts or lists of one assistant message",
    ),
    "conversation": Shape(
        lambda columns: (
            isinstance(columns.prompt, str | list | None)
            and all(isinstance(side, list) and side for side in columns[1:])
            and any(len(side) > 1 for side in columns[1:])
        ),
        _conversation,
        "chosen and rejected are whole conversations that differ in their last message (prompt may be left out)",
    ),
}
RANKED = f"a prompt with several completions, ranked or rated, in a list named {', '.join(LISTS)}"


def shape_of(row: Row | Unreadable) -> str | None:
    """The name of the shape that a row has: one of SHAPES, or `ranked`. None where it has none."""
    if isinstance(row, Unreadable):
        return None
    notes = Notes()
    try:
        return "ranked" if _is_ranked(row) else _fitting(_columns(row, notes))
    except Unusable:
        return None


def read_sides(row: Row, pairing: str, named: Mapping[str, str | None], scale: str | None, notes: Notes) -> Sides:
    """A row's prompt and pairs, and into `notes` what was found. Raises Unusable, also for a row without a shape.

    Completions are ranked by `scale` where one is given; see `pairs_of`.
    """
    if _is_ranked(row):
        notes.shapes.add("ranked")
        start = _start(_columns(row, notes).prompt, row, notes)
        ranking = pairs_of(row, pairing, named, scale, notes)
        found = [(b.message, w.message, b.score, w.score) for b, w in ranking.pairs]
        return Sides(_with_context(start, row, notes), found, ranking.scale, ranking.left_out)
    columns = _columns(row, notes)
    name = _fitting(columns)
    if name is None:
        raise _why_no_shape(row, columns)
    notes.shapes.add(name)
    start, chosen, rejected = SHAPES[name].read(columns, notes)
    return Sides(_with_context(start, row, notes), [(chosen, rejected, None, None)])


def read_prompt(row: Row, notes: Notes) -> tuple[list[Message], Message | None]:
    """A prompt alone, whatever is made of completions; of a conversation all before its last answer, and that answer.

    Raises Unusable where there is none.
    """
    said_so_far = _start(_columns(row, notes).prompt, row, notes)
    answered = bool(said_so_far) and said_so_far[-1]["role"] == "assistant"
    before = said_so_far[:-1] if answered else said_so_far
    return _with_context(before, row, notes), said_so_far[-1] if answered else None


def _start(prompt: Any, row: Row, notes: Notes) -> list[Message]:
    """The messages that a prompt's column holds, or its text as the user's."""
    if prompt is None:
        raise Unusable("missing-prompt", f"the row has the columns {short.repr(sorted(map(str, row)))}")
    if not isinstance(prompt, str | list):
        raise Unusable("wrong-type", f"no accepted shape has this type: prompt: {type(prompt).__name__}")
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return read_messages(prompt, "prompt", notes)


def _is_ranked(row: Row) -> bool:
    return row.get("chosen") is None and row.get("rejected") is None and list_column(row) is not None


def _fitting(columns: Columns) -> str | None:
    return next((name for name, shape in SHAPES.items() if shape.fits(columns)), None)


def _columns(row: Row, notes: Notes) -> Columns:
    chosen, rejected = _listed(unpacked(row.get("chosen"), notes)), _listed(unpacked(row.get("rejected"), notes))
    prompt = row.get("prompt")
    if prompt is None and not (isinstance(chosen, list) and len(chosen) > 1):
        name = next((name for name in CONVERSATIONS if row.get(name) is not None), None)
        prompt = _instruction(row, notes) if name is None else row[name]
        notes.columns.update([name] if name else [])
    prompt = _listed(unpacked(prompt, notes))
    if is_transcript(prompt) and prompt.rstrip().endswith("\nAssistant:"):
        notes.shapes.add("transcripts")
        prompt = asked(prompt)
    return Columns(prompt, chosen, rejected)


def _instruction(row: Row, notes: Notes) -> Any:
    """As Alpaca's rows have it: an instruction, and what it is about in a column of its own."""
    instruction, about = row.get("instruction"), row.get("input")
    if instruction is None:
        return None
    notes.columns.update(("instruction", "input"))
    if about is None or about == "":
        return instruction
    if not isinstance(instruction, str) or not isinstance(about, str):
        raise Unusable("wrong-type", f"instruction is {short.repr(instruction)}, and input {short.repr(about)}")
    notes.shapes.add("instruction-input")
    return f"{instruction}\n\n{about}"


def _listed(value: Any) -> Any:
    return [value] if is_message(value) else value


def _with_context(prompt: list[Message], row: Row, notes: Notes) -> list[Message]:
    """The prompt after what stands in columns of its own: a system message, and earlier turns."""
    system, history = row.get("system"), row.get("history")
    if not system and not history:
        return prompt
    own = prompt[:1] if prompt and prompt[0]["role"] in ("system", "developer") else []
    if system and not (isinstance(system, str) and not system.strip()):
        if not isinstance(system, str):
            raise Unusable("wrong-type", f"system is {short.repr(system)}, not a text")
        if own and own[0]["content"] != system:
            raise Unusable("two-systems", f"the prompt has a system message beside the column: {short.repr(system)}")
        notes.shapes.add("system-column")
        own = own or [{"role": "system", "content": system}]
    rest = prompt[1:] if prompt[:1] == own else prompt
    return [*own, *(_history(history, notes) if history else []), *rest]


def _history(given: Any, notes: Notes) -> list[Message]:
    """Earlier turns: messages, or questions with their answers."""
    history = parsed(given) if isinstance(given, str) else given
    if not isinstance(history, list):
        raise Unusable("bad-history", f"history is {short.repr(given)}, not a list of turns")
    notes.shapes.add("history-column")
    if all(is_message(turn) for turn in history):
        return read_messages(history, "history", notes)
    messages = []
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise Unusable("bad-history", f"history has {short.repr(turn)}, not [question, answer]")
        messages += [{"role": "user", "content": turn[0]}, said(turn[1])]
    return messages


def _why_no_shape(row: Row, columns: Columns) -> Unusable:
    for name, value in zip(("chosen", "rejected", "prompt"), (columns[1], columns[2], columns[0]), strict=True):
        if value is None:
            return Unusable(f"missing-{name}", f"the row has the columns {short.repr(sorted(map(str, row)))}")
        if name != "prompt" and value == []:
            return Unusable("empty-completion", f"{name} is an empty list")
    types = ", ".join(f"{name}: {type(value).__name__}" for name, value in columns._asdict().items())
    return Unusable("wrong-type", f"no accepted shape has these types: {types}")
