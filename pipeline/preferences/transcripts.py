"""Transcripts as the HH data set has them: one text, in which "Human:" and "Assistant:" begin the turns.

A "System:" may come before them all. Later it may be a turn or a word of the text, which nobody can tell.
"""

import re

from pipeline.preferences.messages import Message, Unusable, short

_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}
_BEGINS = re.compile(r"\s*(Human:|System:.*?\nHuman:)", re.DOTALL)


def is_transcript(text: object) -> bool:
    """Whether a text begins with a human's turn, or one before it of the system, and has one of the assistant's."""
    return isinstance(text, str) and _BEGINS.match(text) is not None and "\nAssistant:" in text


def turns(text: str) -> list[Message]:
    """A transcript as messages; a last "Assistant:" with nothing after it is an empty one. Raises Unusable."""
    line = "\n\n" if "\n\nAssistant:" in text else "\n"
    _, *pieces = re.split(rf"(?:\A|{line})(Human|Assistant|System):", text.strip())
    if "System" in pieces[2::2]:
        place = pieces.index("System", 2)
        raise Unusable("bad-role", f"a transcript has a System: after its beginning: {short.repr(pieces[place + 1])}")
    return [
        {"role": _ROLES[role], "content": content.strip()}
        for role, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def asked(text: str) -> list[Message]:
    """A transcript as a prompt, which may end with "Assistant:"."""
    messages = turns(text)
    return messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages
