"""Where an answer is cut so that others go on from there: at ends of sentences, drawn by a hash of the answer.

A prefix that two answers share counts in neither's favour: in a difference of summed log-probs it cancels to nothing,
in one of means it does not.
"""

import re
from collections.abc import Sequence

from pipeline.onpolicy.candidates import seed_of

FRACTIONS = (0.25, 0.5, 0.75)  # of an answer's tokens, that a cut is drawn near to

# Tokens as a tokenizer's vocabulary spells them, where a space is a mark of SentencePiece's or of byte-level BPE's.
_SPACE = "[\\s\u2581\u0120\u010a\u010b\u0109]"
_ENDS = re.compile(f"[.!?\u2026\u3002\uff01\uff1f][\"')\\]\u201d\u2019*_]*{_SPACE}*$|\\n$|\u010a$|<0x0A>$")
_CLOSED = re.compile(f"(?:{_SPACE}|\u3002|\uff01|\uff1f|<0x0A>)$")
_BEGINS = re.compile(f"{_SPACE}|<0x0A>")


def sentence_ends(tokens: Sequence[str]) -> list[int]:
    """How many tokens stand before each end of a sentence within an answer: none at its beginning or its end.

    A full stop within a number or a name ends none: white space must follow, or stand in the token.
    """
    return [
        place
        for place in range(1, len(tokens))
        if _ENDS.search(tokens[place - 1]) and (_CLOSED.search(tokens[place - 1]) or _BEGINS.match(tokens[place]))
    ]


def cuts(tokens: Sequence[str], count: int, *key: object) -> list[int]:
    """Up to `count` different places in an answer, in order; each is drawn near a fraction of FRACTIONS by the key.

    More cuts begin with the fewer: the draw of each depends on its number alone, and a place that is taken is not
    taken again. None where no sentence ends within the answer.
    """
    ends = sentence_ends(tokens)
    chosen: list[int] = []
    for number in range(count):
        left = [end for end in ends if end not in chosen]
        if left:
            wanted = FRACTIONS[seed_of("cut", number, *key) % len(FRACTIONS)] * len(tokens)
            chosen.append(min(left, key=lambda end: (abs(end - wanted), end)))
    return sorted(chosen)
