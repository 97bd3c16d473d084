"""Several completions of one prompt in a row, ranked or rated, and the pairs that are made of them."""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from pipeline.preferences.messages import (
    Dropped,
    Message,
    Notes,
    Unusable,
    is_message,
    parsed,
    plain,
    read_messages,
    said,
    short,
    unpacked,
)
from pipeline.preferences.rows import Row

LISTS = ("completions", "answers", "responses")  # columns that may hold the completions
_TEXTS = ("response", "answer", "completion", "text", "content", "output")  # within a completion
# Of each completion, or a list of them beside the completions. The first is what data.columns names.
_SCORES = ("scores", "score", "ratings", "rating", "overall_score", "fine-grained_score")
_RANKS = ("ranks", "rank", "rankings", "ranking")  # 1 is the best


class Rated(NamedTuple):
    message: Message
    score: float  # larger is better; a rank is taken negative


# Which two of the completions make a pair; they come in order, the best first.
PAIRINGS: dict[str, Callable[[list[Rated]], Iterable[tuple[Rated, Rated]]]] = {
    "best-worst": lambda rated: [(rated[0], rated[-1])],
    "all": lambda rated: itertools.combinations(rated, 2),
    "adjacent": itertools.pairwise,
}


def list_column(row: Row) -> str | None:
    """The column that holds several completions, if the row has one."""
    for name in LISTS:
        value = row.get(name)
        if isinstance(value, list) or (isinstance(value, str) and parsed(value) is not None):
            return name
    return None


class Ranking(NamedTuple):
    """A row's pairs, better first; by what its completions are ranked; and those that are left out, with the reason."""

    scale: str
    pairs: list[tuple[Rated, Rated]]
    left_out: list[Dropped]


def pairs_of(row: Row, pairing: str, named: Mapping[str, str | None], scale: str | None, notes: Notes) -> Ranking:
    """What a row's completions make. Raises Unusable where that is nothing.

    `named` is data.columns: it may name the scores or ranks within a completion, too. They are ranked by `scale`,
    where others of the source are. Ties make no pair and are counted in `notes`. Completions that are alike are one;
    where they are not ranked alike, that one is left out, as it would be better and worse than others at once.
    """
    scale, found = _rated(row, named, scale, notes)
    once, left_out = _each_once(found, scale)
    rated = sorted(once, key=lambda each: -each.score)
    if len(rated) < 2 and left_out:
        raise Unusable(left_out[0].reason, left_out[0].detail)
    if len(rated) < 2:
        raise Unusable("one-completion", f"the row has {len(rated)} completion")
    made = list(PAIRINGS[pairing](rated))
    pairs = [(better, worse) for better, worse in made if better.score > worse.score]
    if not pairs:
        raise Unusable("tied-scores", f"all {len(rated)} completions have the score {rated[0].score}")
    notes.ties += len(made) - len(pairs)
    notes.shapes.add(f"ranked by {scale}")
    return Ranking(scale, pairs, left_out)


def _each_once(rated: list[Rated], scale: str) -> tuple[list[Rated], list[Dropped]]:
    """Completions without their copies, in order; and those that are not among them, as they are ranked in two ways."""
    alike: dict[str, list[Rated]] = {}
    for each in rated:
        alike.setdefault(json.dumps(each.message, sort_keys=True, default=repr), []).append(each)
    once, left_out = [], []
    for copies in alike.values():
        scores = sorted({abs(each.score) if scale in _RANKS else each.score for each in copies})
        if len(scores) == 1:
            once.append(copies[0])
        else:
            told = f"one answer has the {scale} {' and '.join(f'{score:g}' for score in scores)}"
            left_out.append(Dropped("ranked-twice", f"{told}: {short.repr(plain(copies[0].message))}"))
    return once, left_out


def _rated(row: Row, named: Mapping[str, str | None], scale: str | None, notes: Notes) -> tuple[str, list[Rated]]:
    column = list_column(row)
    assert column is not None
    given = row[column] if isinstance(row[column], list) else parsed(row[column])
    listed = [unpacked(each, notes) for each in given] if isinstance(given, list) else []
    notes.columns.add(column)
    if not listed:
        raise Unusable("one-completion", f"{column} is {short.repr(row[column])}")
    if (empty := next((number for number, each in enumerate(listed, 1) if _is_nothing(each)), None)) is not None:
        raise Unusable("empty-completion", f"{column} {empty} of {len(listed)} is {short.repr(given[empty - 1])}")
    objects = [each if isinstance(each, dict) else {} for each in listed]
    aliases = {own: name for own in ("scores", "ranks") if (name := named.get(own))}
    scale = next(iter(aliases), scale)  # what a setting names is ranked by, or nothing
    fields = [each | {own: each.get(name) for own, name in aliases.items()} for each in objects]
    if not any(name in each for each in fields for name in (*_SCORES, *_RANKS) if each.get(name) is not None):
        fields = _lists_beside(row, len(listed), scale, notes)
    scale, scores = _scores(fields, scale)
    read = {next((name for name in _TEXTS if each.get(name) is not None), None) for each in objects}
    known = {*read, aliases.get(scale, scale)}
    given_keys = {key for each in objects if not is_message(each) for key, value in each.items() if value is not None}
    notes.message_keys.update(f"{column}.{key}" for key in given_keys - known)
    return scale, [Rated(_completion(each, column, notes), score) for each, score in zip(listed, scores, strict=True)]


def _lists_beside(row: Row, length: int, scale: str | None, notes: Notes) -> list[Row]:
    """The list `scale` beside the completions, or the first of scores or ranks, as one object a completion."""
    for name in (*filter(None, [scale]), *_SCORES, *_RANKS):
        value = parsed(row.get(name)) if isinstance(row.get(name), str) else row.get(name)
        if value is None:
            continue
        notes.columns.add(name)
        if not isinstance(value, list) or len(value) != length:
            raise Unusable("bad-ranking", f"{name} is {short.repr(row[name])} beside {length} completions")
        return [{name: each} for each in value]
    raise Unusable("bad-ranking", f"{length} completions without scores or ranks")


def _scores(fields: list[Row], scale: str | None) -> tuple[str, list[float]]:
    """Of each completion, by `scale`, or else by the first name that all of them have; and by which."""
    values = {name: [_number(each.get(name)) for each in fields] for name in (*_SCORES, *_RANKS)}
    given = {name: found for name, found in values.items() if found and None not in found}
    name = scale or next(iter(given), "")
    if found := [value for value in given.get(name, []) if value is not None]:
        return name, [-value for value in found] if name in _RANKS else found
    if given:
        raise Unusable("other-scale", f"the completions are ranked by {', '.join(given)}, others by {scale}")
    raise Unusable("bad-ranking", f"not every completion has a score or a rank: {short.repr(fields)}")


def _number(value: Any) -> float | None:
    try:
        number = float(value) if not isinstance(value, bool) and isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _is_nothing(given: Any) -> bool:
    """Whether a completion holds nothing at all: null, no message, or an object whose texts are all null.

    A text of white space alone is one, of which no pair can be made.
    """
    if isinstance(given, dict) and not is_message(given):
        texts = [given[name] for name in _TEXTS if name in given]
        return not given or (bool(texts) and all(text in (None, [], {}) for text in texts))
    return given in (None, [])


def _completion(given: Any, column: str, notes: Notes) -> Message:
    """A completion as a text, as a message or a list of one, or as an object with one of these in a field."""
    if isinstance(given, dict) and not is_message(given):
        fields, given = given, next((given[name] for name in _TEXTS if given.get(name) is not None), None)
        if given is None:
            found = f"no {', '.join(_TEXTS[:-1])} or {_TEXTS[-1]} in it, but {', '.join(map(str, fields))}"
            raise Unusable("bad-ranking", f"{column} has a completion without a text: {found}")
    if isinstance(given, str):
        return said(given)
    if isinstance(given, dict):
        given = [{key: value for key, value in given.items() if key not in (*_SCORES, *_RANKS)}]
    messages = read_messages(given if isinstance(given, list) else [], column, notes)
    if [message["role"] for message in messages] != ["assistant"]:
        raise Unusable("bad-ranking", f"{column} has a completion that is no answer: {short.repr(given)}")
    return messages[0]
