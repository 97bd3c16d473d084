"""The token that ends an assistant's turn, read from what a chat template writes after an answer."""

import re
from dataclasses import dataclass

from pipeline.preferences.encode import Encoder
from pipeline.preferences.exchange import ANSWER, Exchange
from pipeline.preferences.messages import said
from pipeline.preferences.template import Template


@dataclass(frozen=True)
class Ending:
    """What a template writes after an answer, the part of it that is trained, and the token that ends the turn."""

    tail: str
    trained: str
    token: int
    written: bool  # by the template; else it is EOS, put there by us

    @classmethod
    def of(cls, exchange: Exchange, template: Template, encode: Encoder) -> "Ending":
        """The last control token of what the template writes after the last answer and after an earlier one alike.
        Where there is none, EOS, which may be written after the last answer alone."""
        tail, tools = exchange.tail, exchange.tools
        *before, question = exchange.question
        try:
            talk = template([*exchange.question, said(ANSWER), question], tools, answer_next=False)
        except Exception:  # a template that wants something else next
            talk = ANSWER + tail
        both = tail[: alike(tail, talk.rpartition(ANSWER)[2])]
        if exchange.unasked:  # the next turn is begun there, which is no end of this one
            header = template([*before, question | {"content": ANSWER}], tools, answer_next=True).partition(ANSWER)[0]
            begins = encode.written.findall(header)[-1:]
            both = both[: both.rfind(begins[0])] if begins and begins[0] in both else both
        found = list(encode.written.finditer(both))
        first = encode.written.search(tail)
        if not found and first and first.group() == encode.tokenizer.eos_token:
            found = [first]
        if not found:
            return cls(tail, "", encode.tokenizer.eos_token_id, written=False)
        return cls._written(tail, found[-1], encode)

    def of_call(self, rendered: str, encode: Encoder) -> "Ending":
        """What ends an answer that calls a tool; with some families it is another token."""
        if rendered.endswith(self.tail):
            return self
        run = re.search(rf"(?:\s*(?:{encode.written.pattern}))*\s*$", rendered)
        tail = run.group() if run else ""
        found = list(encode.written.finditer(tail))
        return self._written(tail, found[-1], encode) if found else self

    @classmethod
    def _written(cls, tail: str, end: re.Match[str], encode: Encoder) -> "Ending":
        return cls(tail, tail[: end.end()], encode(end.group())[0][0], written=True)


def alike(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
