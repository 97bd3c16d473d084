"""How models mark their thoughts in texts: the one list of tags, and generation prompts that open thoughts."""

import re
from dataclasses import dataclass

from pipeline.preferences.messages import Message, Unusable

# A tag in the spellings of the families, for patterns that are verbose and ignore case: <think>, <seed:think>,
# <|START_THINKING|>, Kimi's ◁think▷, Mistral's [THINK] (in other letters, brackets are a heading of someone's).
TAG = r"""
    [<◁] \|? \s* (?P<closes> /|END_ )? (?:START_)? \s*
        (?P<tag> (?:[\w-]+:)? (?: think(?:ing)? | thoughts? | reasoning ) ) \s* \|? [>▷]
  | \[ (?P<closes_bracket> / )? (?P<bracket> (?-i: THINK ) ) \]
"""
_TAG = re.compile(TAG, re.VERBOSE | re.IGNORECASE)


def tags_in(text: str) -> list[re.Match[str]]:
    """The tags around thoughts in a text."""
    return list(_TAG.finditer(text)) if "<" in text or "[" in text or "◁" in text else []


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def without_tags(text: str) -> str:
    return _TAG.sub("", text)


def closes(tag: re.Match[str]) -> bool:
    return bool(tag["closes"] or tag["closes_bracket"])


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
        thoughts, found, rest = message["content"].partition(self.closing)
        if not found or message.get("reasoning_content"):
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
    tags = tags_in(end)
    if not tags or closes(tags[-1]) or end[tags[-1].end() :].strip():
        return None
    opening = tags[-1].group()
    if "START_" in opening:
        return Opened(opening, opening.replace("START_", "END_"))
    return Opened(opening, f"{opening[0]}/{opening[1:]}")
