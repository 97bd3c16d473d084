"""Whether a text forged a turn: the control tokens among its ids must be those of such messages in plain words."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.preferences.encode import Encoder
from pipeline.preferences.messages import Message
from pipeline.preferences.texts import map_texts, texts_of
from pipeline.preferences.thoughts import tags_in

_SIGNS = re.compile(r"[^\w\s]")


class Turns:
    """Control tokens of conversations. `rendered(messages, tools, answered)` is the text of one, as it is trained."""

    def __init__(self, encode: Encoder, rendered: Callable[[Sequence[Message], Sequence[Any], bool], str]):
        self.encode, self.rendered = encode, rendered
        self._of_plain_words: dict[tuple[Any, ...], list[int]] = {}

    def forget(self) -> None:
        self._of_plain_words.clear()

    def forged(self, ids: list[int], messages: Sequence[Message], tools: Sequence[Any], *, answered: bool) -> bool:
        """Whether there are other control tokens than such messages have where all words in them are plain."""
        found = self.encode.controls(ids)
        made_of = (answered, len(tools), *map(_make_up, messages))
        if made_of not in self._of_plain_words:
            self._of_plain_words[made_of] = self._plain_controls(messages, tools, answered)
        if found == self._of_plain_words[made_of]:
            return False
        return found != self._plain_controls(messages, tools, answered)  # of this row's own words

    def _plain_controls(self, messages: Sequence[Message], tools: Sequence[Any], answered: bool) -> list[int]:
        plain = [{**map_texts(message, _plain), "role": message["role"]} for message in messages]
        return self.encode.controls(*self.encode(self.rendered(plain, map_texts(tools, _plain), answered)))


def _plain(text: str) -> str:
    """`text` without anything that could be a part of a control token; tags of thoughts, which templates read, stay."""
    pieces, position = [], 0
    for tag in tags_in(text):
        pieces += [_SIGNS.sub("x", text[position : tag.start()]), tag.group()]
        position = tag.end()
    return "".join([*pieces, _SIGNS.sub("x", text[position:])])


def _make_up(message: Message) -> tuple[Any, ...]:
    """What control tokens around a message may depend on: its role, and which texts there are."""
    tags = tuple(tag.group() for tag in tags_in(message["content"]))
    if not tags and message.keys() == {"role", "content"}:
        return message["role"], bool(message["content"])
    return message["role"], tags, tuple((kind, bool(text.strip())) for kind, text in texts_of(message))
