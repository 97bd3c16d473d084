"""Chat messages as people write them down, read into one form: role and content, and what templates know beside them.

Content may come as parts of text, a conversation in ShareGPT's from/value or as JSON in a text, calls with their
arguments as JSON, thoughts under several names. What no template knows is left out, and `Notes` keeps its name.
"""

import ast
import json
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# role and content (a text), and what templates know beside them: tool_calls, tool_call_id, name, reasoning_content.
Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
RESULTS = ("tool", "function", "ipython")  # what a call gave; an assistant answers these as it answers a user

_SHAREGPT = dict.fromkeys(("human", "user"), "user") | dict.fromkeys(
    ("gpt", "chatgpt", "assistant", "model"), "assistant"
)
_SHAREGPT |= {"system": "system", "function_call": "assistant"} | dict.fromkeys(("observation", "tool"), "tool")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thoughts", "thought")
_READ = {"role", "content", "from", "value", "tool_calls", "tool_call_id", "name", "function_call", *_THOUGHTS}
_MEDIA = re.compile(r"image|audio|video|file")
_BEGINS_MESSAGES = re.compile(r"\[?\s*\{\s*[\"'](role|from)[\"']\s*:")

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


@dataclass
class Notes:
    """What was come across while rows were read."""

    shapes: set[str] = field(default_factory=set)  # of SHAPES, and what else was found by looking
    columns: set[str] = field(default_factory=set)  # read beside those that are always read
    message_keys: set[str] = field(default_factory=set)  # of messages, not used
    ties: int = 0  # two completions of one rating, of which no pair was made


def said(text: str) -> Message:
    """The assistant's message of this text."""
    return {"role": "assistant", "content": text}


def plain(message: Message) -> str | Message:
    """The text of a message that is nothing but text."""
    return str(message["content"]) if message.keys() == {"role", "content"} else message


def is_message(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or ("from" in value and "value" in value))


def unpacked(value: Any, notes: Notes) -> Any:
    """`value`, or the messages that it spells as JSON (or as Python prints them, which is what pandas writes)."""
    if not isinstance(value, str) or value.lstrip(" \t\r\n")[:1] not in ("[", "{"):
        return value
    if '"role' not in value and "'role" not in value and "from" not in value:
        return value
    found = parsed(value)
    listed = [found] if isinstance(found, dict) else found
    if isinstance(listed, list) and listed and all(is_message(each) and _role(each) in ROLES for each in listed):
        notes.shapes.add("json-text")
        return found
    if found is None and _BEGINS_MESSAGES.match(value.lstrip()):
        raise Unusable("broken-json", f"a text begins as messages and does not parse: {short.repr(value)}")
    return value


def parsed(text: Any) -> Any:
    """The list or object that a text spells, in JSON or as Python prints it; None where it spells none."""
    if not isinstance(text, str) or text.lstrip()[:1] not in ("[", "{"):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return found if isinstance(found, dict | list) else None
    return None


def read_messages(messages: Iterable[Any], column: str, notes: Notes) -> list[Message]:
    """Messages with what templates know of them, checked. Raises Unusable."""
    return [_read(message, column, notes) for message in messages]


def _read(message: Any, column: str, notes: Notes) -> Message:
    if not isinstance(message, dict):
        raise Unusable("wrong-type", f"{column} has a message without text content: {short.repr(message)}")
    role, content = message.get("role"), message.get("content")
    if len(message) == 2 and isinstance(role, str) and role in ROLES and isinstance(content, str):
        return {"role": role, "content": content}
    if isinstance(message.get("from"), str) and message["from"] in _SHAREGPT:
        notes.shapes.add("sharegpt")
        content = _spoken(message, column)
    elif message.get("value") is not None:
        notes.message_keys.add("value")
    role = _role(message)
    if role not in ROLES:
        raise Unusable(
            "bad-role", f"{column} has a message of role {short.repr(message.get('role') or message.get('from'))}"
        )
    notes.message_keys.update(str(key) for key, value in message.items() if key not in _READ and value is not None)
    beside = _beside(message, notes)
    if isinstance(content, list) and content:
        notes.shapes.add("content-parts")
        content = "".join(_part(part, column) for part in content)
    elif content in (None, []) and beside.keys() & {"tool_calls", "reasoning_content"}:
        content = ""
    if not isinstance(content, str):
        raise Unusable("wrong-type", f"{column} has a message without text content: {short.repr(message)}")
    return {"role": role, "content": content, **beside}


def _spoken(message: Message, column: str) -> Any:
    """The content of a message in ShareGPT's form. Raises Unusable where its other form says something else."""
    value = None if message["from"] == "function_call" else message.get("value")
    content, role, speaker = message.get("content"), message.get("role"), _SHAREGPT.get(message["from"])
    if value is not None and content is not None and value != content:
        said_twice = f"value is {short.repr(value)}, content {short.repr(content)}"
        raise Unusable("two-contents", f"{column} has a message with two contents: {said_twice}")
    if role is not None and role != speaker:
        raise Unusable("bad-role", f"{column} has a message of role {short.repr(role)}, from {message['from']!r}")
    return content if value is None else value


def _role(message: Message) -> Any:
    role, speaker = message.get("role"), message.get("from")
    if role is not None:
        return role if isinstance(role, str) else None
    return _SHAREGPT.get(speaker) if isinstance(speaker, str) else None


def _beside(message: Message, notes: Notes) -> dict[str, Any]:
    """What a message has beside role and content. Null and empty are absent: Arrow fills the fields of structs."""
    found: dict[str, Any] = {}
    calls = message.get("tool_calls")
    if message.get("from") == "function_call":
        calls = message.get("value")
    elif not calls and message.get("function_call"):  # as OpenAI's first interface had it
        calls = message["function_call"]
    if calls:
        notes.shapes.add("tool-calls")
        found["tool_calls"] = _calls(calls)
    for key in ("tool_call_id", "name"):
        if message.get(key):
            found[key] = message[key]
    thoughts = {message[key] for key in _THOUGHTS if message.get(key) and isinstance(message[key], str)}
    if len(thoughts) > 1:
        raise Unusable("two-thoughts", f"a message has two different thoughts: {short.repr(sorted(thoughts))}")
    if thoughts:
        notes.shapes.add("thoughts")
        found["reasoning_content"] = thoughts.pop()
    notes.message_keys.update(key for key in _THOUGHTS if message.get(key) and not isinstance(message[key], str))
    return found


def _part(part: Any, column: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        if isinstance(part.get("text"), str) and part.get("type") in ("text", "input_text", "output_text", None):
            return str(part["text"])
        kind = str(part.get("type"))
        if _MEDIA.search(kind):
            raise Unusable("media", f"{column} has a part of type {short.repr(kind)}, which is no text")
    raise Unusable("wrong-type", f"{column} has a part of content that is no text: {short.repr(part)}")


def _calls(given: Any) -> list[Any]:
    """Calls with their arguments as an object, which is how transformers documents them, and without nulls."""
    calls = parsed(given) if isinstance(given, str) else given
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list):
        raise Unusable("bad-call", f"tool_calls is {short.repr(given)}")
    return [_call(call) for call in calls]


def _call(given: Any) -> Message:
    call = without_nulls(parsed(given) if isinstance(given, str) else given)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Unusable("bad-call", f"a call without a function's name: {short.repr(given)}")
    arguments = parsed(function.get("arguments"))
    if isinstance(arguments, dict):
        function["arguments"] = arguments
    return {"type": "function", "function": call} if function is call else call


def read_tools(given: Any) -> tuple[Any, ...]:
    """The functions a row offers: a list of them, or a JSON text of one. Raises Unusable."""
    tools = parsed(given) if isinstance(given, str) else given
    tools = [tools] if isinstance(tools, dict) else tools
    listed = [parsed(each) if isinstance(each, str) else each for each in tools] if isinstance(tools, list) else [None]
    if not all(isinstance(each, dict) and each for each in listed):
        raise Unusable("bad-tools", f"tools is {short.repr(given)}, not a list of functions")
    return tuple(without_nulls(each) for each in listed)


def without_nulls(value: Any) -> Any:
    """A copy without the null fields of objects, however deep: Arrow gives every object the fields of all others."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, list) else value
