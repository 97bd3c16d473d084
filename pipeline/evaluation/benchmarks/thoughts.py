"""What a judge thinks before it speaks. Thoughts weigh verdicts that are none: only the words beside them are read."""

import re
from collections.abc import Mapping, Sequence

from pipeline.preferences.thoughts import TAG, closes

Token = tuple[str, Mapping[str, float]]  # its text, and the log-probs of the likeliest in its place

OPENING = "<think>"

# How models mark their thoughts, where whoever serves them leaves the marks in: tags, and the channels of gpt-oss, of
# which words alone are left where control tokens are left out. A tag between back-ticks is spoken of: it opens nothing.
_MARK = re.compile(
    rf"""(?<!`) (?:
    {TAG}
    | (?P<channel> <\|channel\|> \s* analysis \s* <\|message\|> | (?-i: \A analysis (?=[A-Z]) ) )
    | (?P<final> <\|channel\|> \s* final \s* <\|message\|> | (?-i: assistantfinal ) )
    ) (?!`)""",
    re.VERBOSE | re.IGNORECASE,
)
# Of the first mark, as far as one token goes.
_BEGINNINGS = ("<think", "<thought", "<reasoning>", "<seed:think>", "◁think▷", "<|start_thinking|>", "<|channel|>")


def spoken(judgment: str) -> str | None:
    """The words that stand beside a judge's thoughts; None where they end within thoughts, so that none is its last.

    A mark that closes thoughts which nothing opened ends those that the prompt opened: all before it was thought.
    """
    spans = _spans(judgment)
    return None if spans is None else "".join(judgment[start:end] for start, end in spans)


def without_thoughts(text: str) -> str:
    """What stands beside the thoughts of an answer, nothing where it ended within them; a text without any as it is."""
    words = spoken(text)
    return text if words == text else (words or "").strip()


def last_words_at(judgment: str) -> int | None:
    """Where the words after the last of the thoughts begin; None where there are none after them."""
    spans = _spans(judgment)
    return None if spans is None else spans[-1][0]


def thinks(judgment: str) -> bool:
    """Whether a text holds thoughts, or breaks off within the first mark of some, as a reply of one token does."""
    begun = judgment.strip().lower()
    broken_off = begun[:1] in ("<", "◁") and any(each.startswith(begun) for each in _BEGINNINGS)
    return broken_off or spoken(judgment) != judgment


def opened(judgments: Sequence[str], cut: Sequence[bool] = ()) -> list[str]:
    """One judge's judgments, with the mark put back that its prompt held, where most close what they did not open.

    Of such a judge, one that closes nothing was cut within its thoughts, which nothing else would show. `cut` says,
    where that is known, which were cut at all: whether those closed anything is no evidence.
    """
    first = [_MARK.search(each) for each in judgments]
    closing = sum(mark is not None and _kind(mark)[1] for mark in first)
    whole = sum(bool(each.strip()) and not (cut and cut[place]) for place, each in enumerate(judgments))
    if 2 * closing <= whole:
        return list(judgments)
    return [
        f"{OPENING}{each}" if each.strip() and not mark else each for each, mark in zip(judgments, first, strict=True)
    ]


def first_word(tokens: Sequence[Token], words: str | None = None) -> dict[str, float]:
    """Log-probs of the likeliest first tokens after the thoughts; none where there is no token after them.

    `words` are what was said where its speaker tells them from the thoughts, which then have no marks.
    """
    whole = "".join(text for text, _ in tokens)
    at = last_words_at(whole)
    if words is not None and at == 0:
        ends = words.strip() and whole.rstrip().endswith(words.strip())
        at = len(whole.rstrip()) - len(words.strip()) if ends else None
    if at is None or not tokens:
        return {}
    if at == 0:
        return dict(tokens[0][1])
    place = 0
    for text, likeliest in tokens:
        if place >= at and text.strip():
            return dict(likeliest)
        place += len(text)
    return {}


def _kind(mark: re.Match[str]) -> tuple[str, bool]:
    """(which thoughts a mark is of, whether it closes them)."""
    if mark["tag"]:
        return mark["tag"].lower(), closes(mark)
    if mark["bracket"]:
        return "bracket", closes(mark)
    return "channel", mark["final"] is not None


def _spans(judgment: str) -> list[tuple[int, int]] | None:
    """(start, end) of what is no thought, the last one up to the end; None where the end is one."""
    spans: list[tuple[int, int]] = []
    inside, at = "", 0  # which kind of thoughts begins at `at`, if any
    for mark in _MARK.finditer(judgment):
        kind, closes = _kind(mark)
        if inside:
            if not closes or kind != inside:
                continue  # thoughts that speak of marks
            inside = ""
        elif closes:
            spans = []
        else:
            spans.append((at, mark.start()))
            inside = kind
        at = mark.end()
    return None if inside else [*spans, (at, len(judgment))]
