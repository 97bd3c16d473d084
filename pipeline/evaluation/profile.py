"""What a model's answers look like, whatever was asked: length, markdown, and the ways in which a judge is misled.

A score says little without these: judges like long and formatted answers, a constant answer can win most comparisons
(the null model of Zheng et al. 2024, arXiv 2410.07137: 86.5 % length-controlled on AlpacaEval 2), and an answer that
was cut off is judged as if it were whole.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

CONSTANT = 0.1  # share of one and the same answer from which it is worth a warning

# An answer that speaks to whoever judges it: a verdict's label, or the words around one.
_TO_THE_JUDGE = re.compile(
    r"""\[\[ \s* (?: [ABC] (?: [<>=]{1,3} [ABC] )? | rating | \d+ (?: \.\d+ )? ) \s* \]\]
    | \b (?: model | assistant | output | answer | response ) \s+ ["']? [abm] ["']? \s+
      (?: is | was | wins | should \s+ be ) \b .{0,30}
      \b (?: better | best | superior | chosen | preferred | winner )
    | \b best \s+ model \s+ identifier
    | \b (?: ignore | disregard | forget ) \b .{0,20}
      \b (?: previous | above | prior | preceding ) \b .{0,20} instruction
    | \b (?: dear | note \s+ to \s+ the | as \s+ the ) \s+ (?: judge | evaluator | grader )""",
    re.VERBOSE | re.IGNORECASE,
)

# Markdown as Arena-Hard counts it: outside of code blocks.
_CODE = re.compile(r"```([^`]*)```")
MARKDOWN = {
    "headers": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "list_items": re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}


@dataclass(frozen=True)
class Profile:
    """One model's answers to one benchmark. Lengths and markdown are means per answer."""

    answers: int
    empty: int
    distinct: float  # share of answers that differ from one another
    commonest: str
    commonest_share: float
    to_the_judge: int  # answers that speak to whoever judges them
    addressed: str  # such words, from the first of them
    truncated: int  # answers cut off by the token limit
    characters: float
    headers: float
    list_items: float
    bold: float

    @property
    def times(self) -> int:
        """How many answers are the commonest one."""
        return round(self.commonest_share * self.answers)


def profile(answers: Sequence[str], truncated: int = 0) -> Profile:
    """Raises ValueError where there are no answers."""
    if not answers:
        raise ValueError("there are no answers to look at")
    counts = Counter(answer.strip() for answer in answers)
    commonest, times = max(counts.items(), key=lambda item: (item[1], item[0]))
    addressed = [found.group() for answer in answers if (found := _TO_THE_JUDGE.search(answer))]
    prose = [without_code(answer) for answer in answers]
    return Profile(
        answers=len(answers),
        empty=counts[""],
        distinct=len(counts) / len(answers),
        commonest=commonest,
        commonest_share=times / len(answers),
        to_the_judge=len(addressed),
        addressed=addressed[0] if addressed else "",
        truncated=truncated,
        characters=fmean(map(len, answers)),
        **{name: fmean(len(pattern.findall(text)) for text in prose) for name, pattern in MARKDOWN.items()},
    )


def without_code(answer: str) -> str:
    return _CODE.sub("", answer)


def warnings(model: str, one: Profile) -> list[str]:
    """What a reader of the model's score must know, a sentence each."""
    of = f"of the {model} model's {one.answers} answers"
    found = []
    if one.empty:
        found.append(f"{one.empty} {of} {'is' if one.empty == 1 else 'are'} empty.")
    if one.commonest and one.times > 1 and one.commonest_share >= CONSTANT:
        share = f"{one.commonest_share:.0%} {of}"
        found.append(f"{share} are one and the same: “{shortened(one.commonest)}”.")
    if one.distinct < 0.5:
        found.append(f"Only {one.distinct:.0%} {of} differ from one another.")
    if one.to_the_judge:
        found.append(f"{one.to_the_judge} {of} speak to the judge, such as “{shortened(one.addressed)}”.")
    if one.truncated > 0.25 * one.answers:
        found.append(f"{one.truncated} {of} were cut off at the token limit.")
    return found


def of_itself(model: str, against: str, same: int, of: int) -> list[str]:
    """What must be said of a model that meets itself, by name, or by answers: `same` of `of` are the other's, too."""
    found = [f"{model} is compared with itself: both sides have its name."] if model == against else []
    if 2 * same > of:
        found.append(
            f"{same} of {of} verdicts on {model} against {against} are on two answers that are one and the same."
        )
    return found


def shortened(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"
