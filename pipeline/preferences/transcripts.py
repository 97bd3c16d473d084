"""Transcripts as the HH data set has them: one text, in which "Human:" and "Assistant:" begin the turns."""

import re

from pipeline.preferences.messages import Message

_ROLES = {"Human": "user", "Assistant": "assistant"}
_BEGINS = re.compile(r"\s*Human:")


def is_transcript(text: object) -> bool:
    """Whether a text begins with a human's turn and has one of the assistant's."""
    return isinstance(text, str) and _BEGINS.match(text) is not None and "\nAssistant:" in text


def turns(text: str) -> list[Message]:
    """A transcript as messages. A last "Assistant:" with nothing after it, as prompts end, is none."""
    line = "\n\n" if "\n\nAssistant:" in text else "\n"
    _, *pieces = re.split(rf"(?:\A|{line})(Human|Assistant):", text.strip())
    messages = [
        {"role": _ROLES[role], "content": content.strip()}
        for role, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
