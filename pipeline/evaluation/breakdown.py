"""Where a score comes from: what the questions got by category, by length of the prompt, and by length of the answers.

What a question got is a `Value`: in a match the model's share of the points, 0 to 1; where answers are rated, 1 to 10,
a value a turn. Intervals resample questions, as everywhere; those of a group of few questions mean little, so each
group says how many it has.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.statistics import Interval, clustered_mean

PROMPT_PARTS = 4  # quartiles of the prompts' lengths
_PART = 10  # values that a part of a length curve has at least, where there are as many
_MOST_PARTS = 8
Scale = tuple[float, float]
SHARES: Scale = (0.0, 1.0)


@dataclass(frozen=True)
class Value:
    """What one question, or one turn of it, got."""

    question_id: str
    value: float


@dataclass(frozen=True)
class Group:
    """The mean of the values of some questions, with its 95% interval."""

    name: str
    questions: int
    mean: Interval
    at: float | None = None  # mean of the number that the questions were grouped by; None of a category


@dataclass(frozen=True)
class Longer:
    """How much longer the model's answer is than the other one, in characters, and what it got."""

    characters: int
    value: float


def by_category(
    values: Sequence[Value], categories: Mapping[str, str], resamples: int = 1000, seed: int = 0, scale: Scale = SHARES
) -> list[Group]:
    """A group a category (`categories` is by question), by name. Questions without a category are left out.

    Values are of one `scale`.
    """
    found: dict[str, list[Value]] = {}
    for value in values:
        if value.question_id in categories:
            found.setdefault(categories[value.question_id], []).append(value)
    return [_group(name, found[name], resamples, seed, scale) for name in sorted(found)]


def by_number(
    values: Sequence[Value],
    numbers: Mapping[str, int],
    parts: int,
    resamples: int = 1000,
    seed: int = 0,
    scale: Scale = SHARES,
) -> list[Group]:
    """Up to `parts` groups of about as many values each, from small numbers to large; equal numbers stay together.

    `numbers` is by question, such as the length of its prompt in characters; a group is named by its least and largest.
    """
    known = [value for value in values if value.question_id in numbers]
    if not known:
        return []
    own = [numbers[value.question_id] for value in known]
    edges = np.quantile(own, [part / parts for part in range(1, parts)], method="higher").tolist()
    found: dict[int, list[Value]] = {}
    for value, number in zip(known, own, strict=True):
        found.setdefault(bisect_right(edges, number), []).append(value)
    groups = []
    for _, members in sorted(found.items()):
        inside = [numbers[value.question_id] for value in members]
        low, high = (f"{end:,}".replace("-", "\N{MINUS SIGN}") for end in (min(inside), max(inside)))
        name = low if low == high else f"{low} to {high}"
        groups.append(_group(name, members, resamples, seed, scale, at=sum(inside) / len(inside)))
    return groups


def length_parts(values: int) -> int:
    """Into how many parts so many values are cut for a curve over the answers' lengths: eight, or fewer of ten each."""
    return max(1, min(_MOST_PARTS, values // _PART))


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, int]:
    """How many characters longer each of our answers is than theirs, over the questions that both answered."""
    return {question: len(ours[question]) - len(theirs[question]) for question in ours if question in theirs}


def _group(
    name: str, values: Sequence[Value], resamples: int, seed: int, scale: Scale, at: float | None = None
) -> Group:
    questions = [value.question_id for value in values]
    mean = clustered_mean([value.value for value in values], questions, resamples, seed, within=scale)
    return Group(name, len(set(questions)), mean, at)
