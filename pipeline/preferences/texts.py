"""What is in a chat message beside its role: text, thoughts between tags, calls of tools; and changing all of it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.preferences.messages import Message, Unusable

# Tags around a model's thoughts, in the spellings of the families: <think>, [THINK], <|START_THINKING|>, <seed:think>.
THOUGHTS = re.compile(
    r"[<\[]\|?(?P<end>/|END_)?(?:START_)?(?:[\w-]+:)?(?:think(?:ing)?|thoughts?|reasoning)\|?[>\]]", re.IGNORECASE
)


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed, keys of dictionaries included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {map_texts(key, change): map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return value


def tags_of(message: Message) -> list[re.Match[str]]:
    """The tags around thoughts in a message; what others than an assistant say between such tags is no thought."""
    content = message["content"]
    if message["role"] != "assistant" or not ("<" in content or "[" in content):
        return []
    return list(THOUGHTS.finditer(content))


def rewritten(message: Message, change: Callable[[str, str], str]) -> Message:
    """`message` with each text that a template should write put through `change(what it is, text)`.

    What it is: content, thoughts (also those that stand between tags in an assistant's content) or call.
    """
    new, content = dict(message), message["content"]
    pieces, position, inside = [], 0, False
    for tag in tags_of(message):
        closes = bool(tag["end"])
        pieces += [change("thoughts" if inside or closes else "content", content[position : tag.start()]), tag.group()]
        position, inside = tag.end(), not closes
    new["content"] = "".join([*pieces, change("thoughts" if inside else "content", content[position:])])
    if message.get("reasoning_content"):
        new["reasoning_content"] = change("thoughts", message["reasoning_content"])
    if message.get("tool_calls"):
        new["tool_calls"] = [_called(call, change) for call in message["tool_calls"]]
    return new


def _called(call: Any, change: Callable[[str, str], str]) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _called(call["function"], change)}
    arguments = map_texts(call.get("arguments"), lambda text: change("call", text))
    return {**call, "name": change("call", str(call.get("name", ""))), "arguments": arguments}


def calls_as_text(message: Message) -> Message:
    """The message with arguments of its calls as JSON."""

    def called(call: Any) -> Any:
        if not isinstance(call, Mapping):
            return call
        own = {**call, "function": called(call["function"])} if isinstance(call.get("function"), Mapping) else {**call}
        if isinstance(own.get("arguments"), Mapping | list):
            own["arguments"] = json.dumps(own["arguments"], ensure_ascii=False)
        return own

    calls = {"tool_calls": [called(call) for call in message["tool_calls"]]} if "tool_calls" in message else {}
    return message | calls


def texts_of(message: Message) -> list[tuple[str, str]]:
    """(what it is, text) of all that `rewritten` goes through, in its order."""
    found: list[tuple[str, str]] = []

    def note(kind: str, text: str) -> str:
        found.append((kind, text))
        return text

    rewritten(message, note)
    return found


class Text(NamedTuple):
    """A text in a conversation: of which message, what it is, and the text itself."""

    message: int
    kind: str
    text: str


@dataclass(frozen=True)
class Opened:
    """Thoughts that a generation prompt has opened, so that an answer must close them."""

    opening: str
    closing: str

    def before(self, prompt: str) -> str:
        """A prompt up to where it opens the thoughts."""
        return prompt[: prompt.rindex(self.opening)]

    def of(self, message: Message) -> Message:
        """The message with thoughts that stand in its content apart from it, for templates that read them so."""
        thoughts, closes, rest = message["content"].partition(self.closing)
        if not closes or message.get("reasoning_content"):
            return message
        return {**message, "content": rest.lstrip(), "reasoning_content": thoughts.replace(self.opening, "", 1).strip()}

    def closed_by(self, message: Message) -> bool:
        """Whether an answer has thoughts that end."""
        return bool(message.get("reasoning_content")) or self.closing in message["content"]

    def answer(self, message: Message, prompt: str) -> str:
        """The text that goes on from `prompt`, for a template that leaves thoughts out of an answer."""
        content, thoughts = message["content"], message.get("reasoning_content")
        if message.get("tool_calls"):
            raise Unusable("template-leaves-out", "calls of an answer to a generation prompt that opens thoughts")
        if thoughts:
            return f"{thoughts.strip()}\n{self.closing}\n\n{content.lstrip()}"
        opened = prompt[len(self.before(prompt)) :]
        return str(content.removeprefix(opened if content.startswith(opened) else self.opening))


def opened_thoughts(prompt: str) -> Opened | None:
    """The thoughts that a generation prompt ends in, if it does."""
    end = prompt[-64:]
    tags = list(THOUGHTS.finditer(end))
    if not tags or tags[-1]["end"] or end[tags[-1].end() :].strip():
        return None
    opening = tags[-1].group()
    if "START_" in opening:
        return Opened(opening, opening.replace("START_", "END_"))
    return Opened(opening, f"{opening[0]}/{opening[1:]}")
