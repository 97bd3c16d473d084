"""The rules by which answers to one prompt become pairs: each a function that makes pairs, those it likes best first.

What is drawn is drawn from a hash of seed, prompt and answers. What a rule means stands in docs/onpolicy.md.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.randomness import uniform
from pipeline.settings.onpolicy import Pair, Rate

BINS = ("low", "middle", "high")
ROUNDING = 1e-9  # of a margin, relative: 0.6 - 0.2 is not below 0.4


class Answer(NamedTuple):
    """One answer to a prompt."""

    candidate_id: str
    scores: tuple[float | None, ...] = ()  # by rater, higher is better; None: no verdict
    tokens: int = 0
    cut: bool = False  # it ended at its token limit
    answered_by: str = ""  # model | against, or chosen | rejected of the data
    family: str | None = None  # the beginning that it shares with its siblings; None: it is no branch
    score: float | None = None  # what the raters say together, less the penalty on length

    @property
    def value(self) -> float:
        """The score, of an answer that has one."""
        assert self.score is not None
        return self.score


class Choice(NamedTuple):
    """A pair."""

    chosen: Answer
    rejected: Answer

    @property
    def margin(self) -> float | None:
        """In units of the scores; None without them."""
        scored = self.chosen.score is not None and self.rejected.score is not None
        return self.chosen.value - self.rejected.value if scored else None


class NoPairError(Exception):
    """Carries the reason why there is no pair to `choose`."""

    def __init__(self, reason: str):
        self.reason = reason


class By(NamedTuple):
    """What answers are paired by: the settings, and the key of what is drawn."""

    key: tuple[object, ...]
    rate: Rate
    pair: Pair

    def draw(self, *more: object) -> float:
        """In [0, 1)."""
        return uniform(*self.key, *more)

    def draw_of(self, choice: Choice) -> float:
        return self.draw(choice.chosen.candidate_id, choice.rejected.candidate_id)


class Ranked(NamedTuple):
    """Answers with scores, the best first; `able` are those that may be chosen, the one to choose first."""

    every: Sequence[Answer]
    able: Sequence[Answer]

    @property
    def spread(self) -> float:
        """The widest margin of a pair."""
        return self.able[0].value - self.every[-1].value

    def ordered(self) -> list[Choice]:
        """Every better answer that may be chosen with every worse one."""
        return [Choice(one, other) for one in self.able for other in self.every if one.value > other.value]


def rank(scored: Sequence[Answer], by: By) -> Ranked:
    """The best first. Of equals the one that is drawn; or of the best that may be chosen the shortest, and last, of the
    worst, the one nearest to it in length."""
    runs = itertools.groupby(sorted(scored, key=lambda each: -each.value), key=lambda each: each.value)
    every = [each for _, run in runs for each in _drawn([*run], by)]
    able = [each for each in every if by.pair.cut == "keep" or not each.cut]
    if by.pair.ties == "shortest" and able and able[0].value > (worst := every[-1].value):
        best = able[0].value
        able.sort(key=lambda each: (-each.value, each.tokens if each.value == best else 0))
        near = able[0].tokens
        every.sort(key=lambda each: (-each.value, -abs(each.tokens - near) if each.value == worst else 0))
    return Ranked(every, able)


def _drawn(equals: list[Answer], by: By) -> list[Answer]:
    return sorted(equals, key=lambda each: by.draw(each.candidate_id)) if len(equals) > 1 else equals


def broken(choice: Choice, settings: Pair) -> str | None:
    """The bound that a pair is beyond, if it is."""
    margin, widest = choice.margin, settings.max_margin
    if margin is not None and settings.rule != "delta":
        room = ROUNDING * max(abs(choice.chosen.value), abs(choice.rejected.value))
        if margin < settings.min_margin - room:
            return "below-margin"
        if widest is not None and margin > widest + room:
            return "above-margin"
    gap = abs(choice.chosen.tokens - choice.rejected.tokens)
    return "length-gap" if settings.max_length_gap is not None and gap > settings.max_length_gap else None


def best_worst(ranked: Ranked, by: By) -> Iterator[Choice]:
    """The best with the worst; where a prompt may have more pairs the second best with the second worst, and so on.

    No pair takes the place of one that is out of bounds.
    """
    pairs = zip(ranked.able, reversed(ranked.every), strict=False)
    for chosen, rejected in itertools.islice(pairs, by.pair.per_prompt):
        if chosen.value <= rejected.value:
            return
        yield Choice(chosen, rejected)


def best_random(ranked: Ranked, by: By) -> Iterator[Choice]:
    """The best with one that is worse, as they are drawn."""
    best = ranked.able[0]
    worse = [each for each in ranked.every if each.value < best.value]
    for rejected in sorted(worse, key=lambda each: by.draw("random", each.candidate_id)):
        yield Choice(best, rejected)


def best_second(ranked: Ranked, _: By) -> Iterator[Choice]:
    """The best with the next one. Raises NoPairError where that is as good."""
    best = ranked.able[0]
    second = next(each for each in ranked.every if each is not best and each.value <= best.value)
    if second.value == best.value:
        raise NoPairError("tie")
    yield Choice(best, second)


def every_pair(ranked: Ranked, by: By) -> Iterable[Choice]:
    """Every better answer with every worse one, as they are drawn."""
    return sorted(ranked.ordered(), key=by.draw_of)


def contrast(ranked: Ranked, by: By) -> Iterator[Choice]:
    """Each time a pair of a bin, which is drawn by its share from those that the prompt still offers within the bounds.

    Of the bin `high` the one of the widest margin, of `low` the narrowest, of `middle` the one nearest to half the
    spread. Raises NoPairError where it offers none of the wanted bins: the widest pair is always high.
    """
    spread, shares = ranked.spread, by.pair.contrast.model_dump()
    aims = {"high": spread, "middle": spread / 2, "low": 0.0}
    left: dict[str, list[Choice]] = {name: [] for name in BINS}
    every = ranked.ordered()
    for choice in [each for each in every if not broken(each, by.pair)] or every:
        left[bin_of(choice.margin, spread) or ""].append(choice)
    for name, there in left.items():
        there.sort(key=lambda each: (-abs((each.margin or 0.0) - aims[name]), by.draw_of(each)))
    for number in itertools.count():
        offered = [name for name in BINS if left[name] and shares[name] > 0]
        if not offered and not number:
            raise NoPairError("above-margin")
        if not offered:
            return
        bounds = list(itertools.accumulate(shares[name] for name in offered))
        at = by.draw("bin", number) * bounds[-1]
        yield left[next(name for name, bound in zip(offered, bounds, strict=True) if at < bound)].pop()


def bin_of(margin: float | None, spread: float) -> str | None:
    """Which third of the widest margin of its prompt a pair's is in; None without scores."""
    if margin is None or not spread > 0:
        return None
    thirds = 3 * margin / spread
    return "high" if thirds >= 2 - ROUNDING else "low" if thirds <= 1 + ROUNDING else "middle"


RULES: dict[str, Callable[[Ranked, By], Iterable[Choice]]] = {
    "best-worst": best_worst,
    "best-random": best_random,
    "best-second": best_second,
    "all": every_pair,
    "contrast": contrast,
}


def two_models(answers: Sequence[Answer], chosen: str, rejected: str, by: By) -> list[Choice]:
    """An answer by `chosen` with another one by `rejected`, each once, as they are drawn.

    No score has a part in it. Raises NoPairError where all are alike.
    """
    drawn = sorted(answers, key=lambda each: by.draw(each.candidate_id))
    ours, theirs = ([each for each in drawn if each.answered_by == who] for who in (chosen, rejected))
    found = []
    for one in ours:
        if other := next((each for each in theirs if each.candidate_id != one.candidate_id), None):
            theirs.remove(other)
            found.append(Choice(one, other))
    if not found:
        raise NoPairError("all-equal")
    return found
