"""The constraints a verifiable task can set, and the rules that decide whether a text meets them.

A rule reads the text as a person would who checks one instruction: white space around the text is ignored, letter case
matters only in instructions about letter case and in sentences given word for word. An empty text meets no constraint,
whatever its kind: an empty answer fulfils nothing.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Args = dict[str, Any]
QUOTES = str.maketrans("“”", '""')


@dataclass(frozen=True)
class Constraint:
    """One instruction: `kind` is a key of KINDS, `args` its JSON-able arguments, such as {"count": 3}."""

    kind: str
    args: Args

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "args": self.args}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Constraint":
        return Constraint(value["kind"], dict(value["args"]))


@lru_cache(maxsize=1024)  # a text is usually put to several rules in turn
def words_of(text: str) -> tuple[str, ...]:
    """The words of a text, lower case and without the punctuation around them; a lone dash is none."""
    bare = (re.sub(r"^\W+|\W+$", "", word) for word in text.lower().split())
    return tuple(word for word in bare if word)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _unwrapped(text: str) -> str:
    """The text without one pair of quotation marks, brackets or asterisks around it."""
    match = re.fullmatch(r'"(.+)"|\[(.+)\]|\*(.+)\*', text, re.DOTALL)
    return next(group for group in match.groups() if group) if match else text


def _sentences(args: Args, text: str) -> bool:
    text = _unwrapped(text)
    return len(re.findall(r"\w[.!?]+(?=\s|$)", text)) == args["count"] and text[-1] in ".!?"


def _bullets(args: Args, text: str) -> bool:
    return len(_lines(text)) == args["count"] and all(re.match(r"- +\w", line) for line in _lines(text))


def _numbered(args: Args, text: str) -> bool:
    lines = _lines(text)
    return len(lines) == args["count"] and all(re.match(rf"{i}[.)] +\w", line) for i, line in enumerate(lines, start=1))


def _comma_list(args: Args, text: str) -> bool:
    """Items of one to three words on one line; a full stop after the last is allowed."""
    items = _unwrapped(text).removesuffix(".").split(",")
    return len(items) == args["count"] and all(re.fullmatch(r" *[\w'-]+( [\w'-]+){0,2} *", item) for item in items)


def _json(args: Args, text: str) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == set(args["keys"])


def _title(args: Args, text: str) -> bool:
    """Each word a capital, then small letters. "A" alone is upper case: some small letter is needed."""
    letters = ["".join(filter(str.isalpha, word)) for word in text.split()]
    return all(word == word.capitalize() for word in letters) and any(word[1:] for word in letters)


def _wrapped(opening: str, closing: str) -> Callable[[Args, str], bool]:
    """Enclosed in the two marks as a whole: the marks occur at the two ends and nowhere else."""
    mark = re.escape(opening + closing)
    pattern = re.compile(rf"{re.escape(opening)}[^{mark}]*\w[^{mark}]*{re.escape(closing)}")
    return lambda args, text: pattern.fullmatch(text.translate(QUOTES)) is not None


KINDS: dict[str, Callable[[Args, str], bool]] = {
    # the shape of the whole
    "words": lambda args, text: len(words_of(text)) == args["count"],
    "one_word": lambda args, text: len(words_of(text)) == 1,
    "sentences": _sentences,
    "bullets": _bullets,
    "numbered": _numbered,
    "comma_list": _comma_list,
    "json": _json,
    # letter case
    "lower": lambda args, text: text.islower(),
    "upper": lambda args, text: text.isupper(),
    "title": _title,
    # marks around the whole
    "quotes": _wrapped('"', '"'),
    "brackets": _wrapped("[", "]"),
    "asterisks": _wrapped("*", "*"),
    # how it ends and begins
    "question": lambda args, text: text.endswith("?"),
    "exclamation": lambda args, text: text.endswith("!"),
    "closing": lambda args, text: text.endswith(args["sentence"]),
    "begins": lambda args, text: words_of(text)[:1] == (args["word"].lower(),),
    # single words
    "repeats": lambda args, text: words_of(text).count(args["word"].lower()) == args["count"],
    "contains": lambda args, text: args["word"].lower() in words_of(text),
    "excludes": lambda args, text: args["word"].lower() not in words_of(text),
}


def met(constraint: Constraint, text: str) -> bool:
    """Whether the text meets the constraint. A text without a single word or number meets none."""
    text = text.strip()
    return bool(words_of(text)) and KINDS[constraint.kind](constraint.args, text)


def share_met(constraints: Sequence[Constraint], text: str) -> float:
    """The share, 0 to 1, of the constraints that the text meets: a completion's score."""
    return sum(met(constraint, text) for constraint in constraints) / len(constraints)
