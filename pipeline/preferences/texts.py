"""The texts of a conversation that a template should write: changing them all, and finding them in a rendering."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.preferences.messages import Message
from pipeline.preferences.thoughts import closes, tags_in


class Text(NamedTuple):
    """A text in a conversation: of which message (-1: of the tools), what it is, and the text itself."""

    message: int
    kind: str  # content, thoughts, call, tool (a name of one, or of its parameters), description (of either)
    text: str


Change = Callable[[str, str], str]  # from what it is and a text to another text


def map_texts(value: Any, change: Callable[[str], str], number: Callable[[Any], Any] = lambda same: same) -> Any:
    """`value` with every text in it changed, keys of dictionaries included; and its numbers, where `number` says so."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(key, change, number): map_texts(item, change, number) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change, number) for item in value]
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def rewritten(message: Message, change: Change) -> Message:
    """`message` with each text that a template should write put through `change`.

    Thoughts are also those that stand between tags in an assistant's content; what others say between such tags is no
    thought. Of a call, its function's name and all arguments.
    """
    new, content = dict(message), message["content"]
    pieces, position, inside = [], 0, False
    for tag in tags_in(content) if message["role"] == "assistant" else []:
        ends = closes(tag)
        pieces += [change("thoughts" if inside or ends else "content", content[position : tag.start()]), tag.group()]
        position, inside = tag.end(), not ends
    new["content"] = "".join([*pieces, change("thoughts" if inside else "content", content[position:])])
    if message.get("reasoning_content"):
        new["reasoning_content"] = change("thoughts", message["reasoning_content"])
    if message.get("tool_calls"):
        new["tool_calls"] = [_called(call, change) for call in message["tool_calls"]]
    return new


def _called(call: Any, change: Change) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _called(call["function"], change)}

    def number(value: Any) -> Any:
        changed = change("call", str(value))
        return value if changed == str(value) else int(changed)

    arguments = map_texts(call.get("arguments"), lambda text: change("call", text), number)
    return {**call, "name": change("call", str(call.get("name", ""))), "arguments": arguments}


def rewritten_tool(tool: Any, change: Change) -> Any:
    """The same of a tool that an assistant may call: its name, its parameters' names, and descriptions of both.

    The rest of a JSON schema is written in many ways ("type": "object" as `{}`), which tell nothing.
    """
    if not isinstance(tool, Mapping):
        return tool
    if isinstance(tool.get("function"), Mapping):
        return {**tool, "function": rewritten_tool(tool["function"], change)}
    new = _described(tool, change)
    if "name" in tool:
        new["name"] = change("tool", str(tool["name"]))
    parameters = tool.get("parameters")
    if isinstance(parameters, Mapping) and isinstance(own := parameters.get("properties"), Mapping):
        properties = {change("tool", str(name)): _described(each, change) for name, each in own.items()}
        new["parameters"] = {**parameters, "properties": properties}
    return new


def _described(value: Any, change: Change) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("description"), str):
        return dict(value) if isinstance(value, Mapping) else value
    return {**value, "description": change("description", value["description"])}


def texts_of(message: Message) -> list[tuple[str, str]]:
    """(what it is, text) of all that `rewritten` goes through, in its order."""
    if message.keys() == {"role", "content"} and not (message["role"] == "assistant" and tags_in(message["content"])):
        return [("content", message["content"])]
    return _listed(rewritten, message)


def texts_of_tool(tool: Any) -> list[tuple[str, str]]:
    """The same of all that `rewritten_tool` goes through."""
    return _listed(rewritten_tool, tool)


def _listed(rewrite: Callable[[Any, Change], Any], value: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def note(kind: str, text: str) -> str:
        found.append((kind, text))
        return text

    rewrite(value, note)
    return found


def times(text: str, rendered: str) -> int:
    """How often a text stands whole in a rendering: but for white space at its ends letter for letter, or as JSON, JSON
    within JSON, or Python spells it."""
    return sum(rendered.count(each) for each in spellings(text))


def spellings(text: str) -> set[str]:
    wanted = text.strip()
    as_json = json.dumps(wanted, ensure_ascii=False)[1:-1]
    within = json.dumps(as_json, ensure_ascii=False)[1:-1]
    return {wanted, as_json, within, json.dumps(wanted)[1:-1], repr(wanted)[1:-1]}
