"""Calls of tools in the forms that chat templates want them in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.preferences.messages import RESULTS, Message

_LENGTH = 9  # of the ids that Mistral's models give their calls


def arguments_as_text(message: Message) -> Message:
    """The message with arguments of its calls as JSON."""

    def called(call: Any) -> Any:
        if not isinstance(call, Mapping):
            return call
        own = {**call, "function": called(call["function"])} if isinstance(call.get("function"), Mapping) else {**call}
        if isinstance(own.get("arguments"), Mapping | list):
            own["arguments"] = json.dumps(own["arguments"], ensure_ascii=False)
        return own

    return message | {"tool_calls": [called(call) for call in message["tool_calls"]]} if has_calls(message) else message


def short_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with ids of nine letters and digits for calls and their results; those of nine characters stay.

    Another id becomes what its digest begins with. A call without one gets that of its content and place, and results
    without one answer the calls in their order.
    """
    found: list[Message] = []
    open_ids: list[str] = []
    number = 0
    for message in messages:
        if has_calls(message):
            calls = []
            for call in message["tool_calls"]:
                if isinstance(call, Mapping):
                    number += 1
                    call = {**call, "id": _short(call.get("id") or [number, call])}
                    open_ids.append(call["id"])
                calls.append(call)
            message = message | {"tool_calls": calls}
        elif message["role"] in RESULTS and (message.get("tool_call_id") or open_ids):
            id_ = _short(message["tool_call_id"]) if message.get("tool_call_id") else open_ids[0]
            open_ids = [each for each in open_ids if each != id_]
            message = message | {"tool_call_id": id_}
        found.append(message)
    return found


def has_calls(message: Message) -> bool:
    return bool(message.get("tool_calls"))


def _short(given: Any) -> str:
    if isinstance(given, str) and len(given) == _LENGTH:  # all that templates ask for
        return given
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:_LENGTH]
