"""The page over rounds: what each sampled, what became of it, and what its model came to.

    html = render_rounds(RoundsData(title="rounds", ...))

What is missing or not finite is a gap in a line and a dash in the table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.looks import looks_of, middles, trace, whiskers
from pipeline.report.page import assemble, number, percent
from pipeline.report.plotting import EVEN, Figure, Spec, axis, spec
from pipeline.statistics import Interval, WinRate

ALL, CHOSEN, REJECTED, TRAINED = "all answers", "chosen", "rejected", "trained model"
LONGER = 0.65  # of the pairs: beyond it a rater's taste for length is likely what is learnt
CUT = 0.2  # of the answers
LOST = 0.3  # of the prompts


@dataclass(frozen=True)
class Reward:
    """Means of one rater's scores."""

    all: float | None
    chosen: float | None  # of the answers that are so in a pair, each once
    rejected: float | None


@dataclass(frozen=True)
class Round:
    """One round. Lengths are tokens of an answer, on average."""

    number: int
    sampled_from: str  # in words
    prompts: int
    answers: int
    tokens: float
    cut: float  # share of the answers
    pairs: int  # its own, as they were selected
    earlier: int  # pairs of earlier rounds that it trains on, too
    paired: float  # share of the prompts that have a pair
    chosen_tokens: float | None
    rejected_tokens: float | None
    longer: float | None  # share of its pairs whose chosen answer is the longer one; equal lengths count half
    rewards: Mapping[str, Reward]  # by rater
    accuracy: Interval | None  # of held-out pairs, after training, over them
    win_rate: WinRate | None = None  # on the embedded tasks, by their rules
    share_met: Interval | None = None
    judged: Mapping[str, Interval] = field(default_factory=dict)  # win rates by a judge, by benchmark
    answer_tokens: float | None = None  # of the trained model, asked the embedded tasks
    seconds: float = 0.0
    report: str = ""


@dataclass(frozen=True)
class RoundsData:
    """Everything the page over rounds shows."""

    title: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str]
    rules: Mapping[str, Any]  # the section `rounds`
    rounds: Sequence[Round]


Lines = Mapping[str, Mapping[int, float | Interval | None]]  # by name, a value a round
_SHARE = {"tickformat": ".0%", "hoverformat": ".1%"}
_SECTIONS = {
    "rounds": "Rounds",
    "win-rate": "Win rate",
    "reward": "Reward",
    "length": "Length",
    "every": "All figures",
    "configuration": "Configuration",
}


def render_rounds(data: RoundsData) -> str:
    """The whole page as HTML; the same data gives the same text. What the data lacks is left out and named."""
    raters = list(dict.fromkeys(rater for each in data.rounds for rater in each.rewards))
    figures = {
        "win-rate": _win_rates(data.rounds),
        "reward": [_reward(data.rounds, rater, place) for place, rater in enumerate(raters)],
        "length": [_length(data.rounds), _shares(data.rounds)],
    }
    absent = [name for name, each in figures.items() if not each]
    return assemble(
        "rounds.html.j2",
        data,
        _SECTIONS,
        absent,
        figures=figures,
        raters=raters,
        judges=list(dict.fromkeys(name for each in data.rounds for name in each.judged)),
        warnings=_warnings(data.rounds),
    )


def _warnings(rounds: Sequence[Round]) -> list[str]:
    """What should be looked at twice."""
    found = []
    for each in rounds:
        if each.longer is not None and each.longer > LONGER:
            found.append(f"Round {each.number}: in {percent(each.longer)} of the pairs the longer answer wins.")
        if each.cut > CUT:
            found.append(f"Round {each.number}: {percent(each.cut)} of the answers were cut.")
        if each.paired < 1 - LOST:
            found.append(f"Round {each.number}: {percent(1 - each.paired)} of the prompts have no pair.")
    if len(rounds) > 1 and rounds[-1].tokens > 1.5 * rounds[0].tokens:
        grown = f"{number(rounds[0].tokens)} to {number(rounds[-1].tokens)} tokens"
        found.append(f"Answers grew from {grown} on average over the rounds: see what they gained by it.")
    return found


def _win_rates(rounds: Sequence[Round]) -> list[Figure]:
    by_rules = {each.number: each.win_rate.rate for each in rounds if each.win_rate}
    judges = dict.fromkeys(name for each in rounds for name in each.judged)
    lines: dict[str, dict[int, Interval]] = {"by the tasks' rules": by_rules} if by_rules else {}
    lines |= {
        f"{name}, by a judge": {each.number: each.judged[name] for each in rounds if name in each.judged}
        for name in judges
    }
    if not lines:
        return []
    caption = "Whiskers: 95% interval over questions. Dotted: as often won as lost against the base model."
    drawing = _lines(rounds, lines, axis("win rate", **_SHARE), 340)
    drawing["layout"]["shapes"] = [EVEN]
    return [Figure("fig-win-rate", "Win rate of each round's model over the base model", caption, drawing)]


def _reward(rounds: Sequence[Round], rater: str, place: int) -> Figure:
    known = {each.number: each.rewards[rater] for each in rounds if rater in each.rewards}
    lines: Lines = {
        ALL: {name: reward.all for name, reward in known.items()},
        CHOSEN: {name: reward.chosen for name, reward in known.items()},
        REJECTED: {name: reward.rejected for name, reward in known.items()},
    }
    caption = "Mean score of the answers that a round sampled, before its training; of its own pairs alone."
    drawing = _lines(rounds, lines, axis("score", hoverformat=".3~g"), 320)
    return Figure(f"fig-reward-{place}", f"Reward by {rater}", caption, drawing)


def _length(rounds: Sequence[Round]) -> Figure:
    lines: Lines = {
        ALL: {each.number: each.tokens for each in rounds},
        CHOSEN: {each.number: each.chosen_tokens for each in rounds},
        REJECTED: {each.number: each.rejected_tokens for each in rounds},
        TRAINED: {each.number: each.answer_tokens for each in rounds},
    }
    caption = "Mean tokens of an answer: sampled, before the training; and of the trained model on the embedded tasks."
    known = {name: line for name, line in lines.items() if any(value is not None for value in line.values())}
    drawing = _lines(rounds, known, axis("tokens", rangemode="tozero"), 320)
    return Figure("fig-length", "Length of answers", caption, drawing)


def _shares(rounds: Sequence[Round]) -> Figure:
    lines: Lines = {
        "longer wins": {each.number: each.longer for each in rounds},
        "answers cut": {each.number: each.cut for each in rounds},
        "prompts with a pair": {each.number: each.paired for each in rounds},
    }
    caption = "Of pairs (alike in length: half), answers and prompts. Where the longer mostly wins, length is learnt."
    drawing = _lines(rounds, lines, axis("share", range=[0, 1.03], **_SHARE), 320)
    return Figure("fig-shares", "Shares", caption, drawing)


def _lines(rounds: Sequence[Round], lines: Lines, y: Spec, height: int) -> Spec:
    """A line each over the rounds, with whiskers where its values are intervals."""
    numbers = [each.number for each in rounds]
    found = {name: [line.get(at) for at in numbers] for name, line in lines.items()}
    traces = [
        {
            **trace(name, look, "lines+markers", 8),
            "x": numbers,
            "y": middles(found[name]),
            "line": {"color": look.colour, "width": 2},
            **whiskers(found[name], look),
        }
        for name, look in looks_of(lines).items()
    ]
    x = axis("round", tickvals=numbers, range=[numbers[0] - 0.3, numbers[-1] + 0.3], zeroline=False)
    return spec(traces, height, x, y, showlegend=len(traces) > 1, hovermode="x unified")
