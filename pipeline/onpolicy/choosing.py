"""From the answers to one prompt and their scores to its pairs, or to the reason why it has none. Reads no file."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from pipeline.onpolicy.choosing_rules import RULES, Answer, By, Choice, NoPairError, bin_of, broken, rank, two_models
from pipeline.onpolicy.combining import combined, settled
from pipeline.settings.onpolicy import Pair, Rate

# Why a prompt has no pair, in the order in which it is looked for.
REASONS = (
    "too-few",  # answers
    "cut",  # answers, of those that are left
    "unrated",  # the same
    "all-equal",  # the answers, or their scores
    "tie",  # the two that the rule wants have one score, or the raters no majority
    "below-margin",
    "above-margin",
    "length-gap",
)
OWN, AGAINST = "model", "against"  # sources of answers: sample.model and sample.against


class Paired(NamedTuple):
    """A pair with what its prompt says of it."""

    choice: Choice
    bin: str | None  # of its margin, in thirds of the prompt's widest; None without scores


class Chosen(NamedTuple):
    """What becomes of a prompt: its pairs, or why it has none; and how many more there were than it may have."""

    pairs: Sequence[Paired]
    reason: str | None = None
    beyond_cap: int = 0


def choose(prompt_id: str, answers: Sequence[Answer], rate: Rate, pair: Pair) -> Chosen:
    """The pairs of a prompt. `answers` may hold the same one several times; their order does not matter."""
    by = By(("pair", pair.seed, prompt_id), rate, pair)
    try:
        found = _allowed(_in_turn(_families(answers, by), by), pair)
    except NoPairError as none:
        return Chosen((), none.reason)
    return Chosen(found[: pair.per_prompt], None, max(0, len(found) - pair.per_prompt))


def confidence(margin: float | None, temperature: float | None) -> float | None:
    """P(chosen is preferred) = sigmoid(margin / temperature); None without either."""
    if margin is None or temperature is None:
        return None
    return (1 + math.tanh(margin / temperature / 2)) / 2


def _families(answers: Sequence[Answer], by: By) -> dict[str, list[Answer]]:
    """The answers that may meet: all of them, those that are no branches, or siblings. Raises NoPairError."""
    among = by.pair.among
    families: dict[str, list[Answer]] = {}
    for each in answers:
        if among == "siblings" and each.family is not None:
            families.setdefault(each.family, []).append(each)
        elif among == "all" or (among == "trunks" and each.family is None):
            families.setdefault("", []).append(each)
    several = {name: family for name, family in families.items() if len(family) > 1}
    if not several:
        raise NoPairError("too-few")
    return several


def _in_turn(families: Mapping[str, Sequence[Answer]], by: By) -> Iterator[Paired]:
    """The pairs of every family: one of each before a second of any. Raises NoPairError where none has one."""
    made, reasons = list[list[Paired]](), list[str]()
    for name in sorted(families, key=lambda name: (by.draw(name), name)):
        try:
            made.append(list(_pairs(families[name], by._replace(key=(*by.key, name)))))
        except NoPairError as none:
            reasons.append(none.reason)
    if not made:
        raise NoPairError(reasons[0])
    for each in itertools.zip_longest(*made):
        yield from (pair for pair in each if pair is not None)


def _pairs(answers: Sequence[Answer], by: By) -> Iterable[Paired]:
    """The pairs that the rule makes of answers that may meet, those it likes best first. Raises NoPairError."""
    pair, by_model = by.pair, by.pair.rule == "delta"
    ordered = sorted(answers, key=lambda each: (each.candidate_id, each.answered_by, each.family or ""))
    once = {(each.candidate_id, each.answered_by if by_model else ""): each for each in reversed(ordered)}
    answers = _differ([*once.values()], "all-equal")
    if by_model:
        return _delta(answers, by)
    if pair.cut == "drop":
        answers = _differ([each for each in answers if not each.cut], "cut")
    answers = _differ([each for each in answers if each.scores and None not in each.scores], "unrated")
    ranked = rank(_scored(answers, by), by)
    if ranked.every[0].value == ranked.every[-1].value:
        raise NoPairError("all-equal")
    if not ranked.able or not ranked.spread > 0:
        raise NoPairError("cut")  # what is better than another
    return [Paired(each, bin_of(each.margin, ranked.spread)) for each in RULES[pair.rule](ranked, by)]


def _differ(answers: list[Answer], reason: str) -> list[Answer]:
    """Raises NoPairError where they are not two different ones."""
    if len({each.candidate_id for each in answers}) < 2:
        raise NoPairError(reason)
    return answers


def _scored(rated: Sequence[Answer], by: By) -> list[Answer]:
    """With the score that the rule goes by: what all raters say, less the penalty on length.

    Raises NoPairError where raters vote, and name no one answer the best, or no one the worst.
    """
    together = combined([[score or 0.0 for score in each.scores] for each in rated], by.rate.combine)
    if by.rate.combine == "majority" and len(rated[0].scores) > 1 and not {1.0, -1.0} <= {*together}:
        raise NoPairError("tie")
    if penalty := by.pair.length_penalty:
        together = [settled(one - penalty * each.tokens) for each, one in zip(rated, together, strict=True)]
    return [each._replace(score=one) for each, one in zip(rated, together, strict=True)]


def _delta(answers: Sequence[Answer], by: By) -> list[Paired]:
    """Of two models, the stronger one's answer with the other's. Scores are kept where all have them."""
    if not {OWN, AGAINST} <= {each.answered_by for each in answers}:
        raise NoPairError("too-few")
    out = {"drop": (OWN, AGAINST), "rejected-only": (OWN,), "keep": ()}[by.pair.cut]
    answers = [each for each in answers if not (each.cut and each.answered_by in out)]
    if not {OWN, AGAINST} <= {each.answered_by for each in answers}:
        raise NoPairError("cut")
    if all(each.scores and None not in each.scores for each in answers):
        with suppress(NoPairError):  # a vote without a majority is none against a pair that no score makes
            answers = _scored(answers, by)
    return [Paired(each, None) for each in two_models(answers, OWN, AGAINST, by)]


def _allowed(pairs: Iterable[Paired], settings: Pair) -> list[Paired]:
    """Those within the bounds. Raises NoPairError, with the bound that the first one breaks, where none is."""
    kept, reasons = list[Paired](), list[str]()
    for each in pairs:
        if bound := broken(each.choice, settings):
            reasons.append(bound)
        else:
            kept.append(each)
    if not kept:
        raise NoPairError(reasons[0])
    return kept
