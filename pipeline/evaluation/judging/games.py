"""Two models' answers compared by a judge: Arena-Hard's two games a question, or AlpacaEval's one preference.

A game is one verdict on one question, in one order of the answers. Arena-Hard (Li et al. 2024, arXiv 2406.11939) plays
both orders, and its labels are worth 1, 1/2 or 0, a strong one three times. AlpacaEval (Dubois et al. 2024, arXiv
2404.04475) plays one, which a seed of the instruction decides, and takes the judge's own probability as the points.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from pipeline.evaluation.benchmarks.thoughts import spoken
from pipeline.evaluation.benchmarks.verdicts import (
    arena_game,
    arena_label,
    arena_label_v01,
    arena_labels_v01,
    is_switched,
    preference,
)
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.evaluation.judging.words import Method, Words
from pipeline.preferences.messages import Message
from pipeline.statistics import Interval, bootstrap_mean

Outcome = Literal["read", "alike", "unparsable", "missing"]
Fixture = tuple[str, bool]  # question_id, and whether the model's answer is shown first


@dataclass(frozen=True)
class Asked:
    """A question as a judge is shown it."""

    text: str
    category: str | None = None


@dataclass(frozen=True)
class Answer:
    by: str  # who answered
    text: str
    tokens: int | None = None


@dataclass(frozen=True)
class Match:
    """One model's answers to a benchmark against another's, over the questions that both answered."""

    benchmark: str
    model: str
    questions: Mapping[str, Asked]  # by question_id, as are the answers
    ours: Mapping[str, Answer]
    theirs: Mapping[str, Answer]

    @property
    def against(self) -> str:
        """Whose answers the model's are compared with; of several, all."""
        return ", ".join(sorted({self.theirs[name].by for name in self.questions}))

    def alike(self, question_id: str) -> bool:
        """Whether both answers are one and the same: a tie that no judge is asked about, as in AlpacaEval."""
        return self.ours[question_id].text == self.theirs[question_id].text


@dataclass(frozen=True)
class Game:
    """A row of tables.GAMES."""

    benchmark: str
    question_id: str
    model: str
    against: str
    model_first: bool
    outcome: Outcome
    points: float | None  # of the model, 0 to 1; None where there is no verdict
    times: int  # how often it counts: a strong verdict three times, none never
    judgment: str  # the judge's words, or why there are none


def fixtures(match: Match, method: Method) -> list[Fixture]:
    """The games of a match, in order."""
    if method == "preference":
        return [(name, is_switched(question.text)) for name, question in match.questions.items()]
    return [(name, first) for name in match.questions for first in (False, True)]


def request(match: Match, fixture: Fixture, method: Method, words: Words, max_tokens: int) -> Request:
    """What the judge is asked."""
    name, model_first = fixture
    question, ours, theirs = match.questions[name], match.ours[name].text, match.theirs[name].text
    shown = (ours, theirs) if model_first else (theirs, ours)
    texts = {"QUESTION": question.text, "ANSWER_A": shown[0], "ANSWER_B": shown[1]}
    case = question.category if question.category and question.category in words.cases else "default"
    only_a_name = method == "preference"
    return Request(words.messages(case, texts), 1 if only_a_name else max_tokens, first_token=only_a_name)


THOUGHT_TOKENS = 4096  # of a judge that thinks before it names the answer that it prefers
GO_ON = "You have given no verdict yet. Go on with your judgment, and end it with one of the five labels."


def further(
    benchmark: str, method: Method, asked: Request, reply: Reply, thought_tokens: int = THOUGHT_TOKENS
) -> Request | None:
    """What a judge is asked a second time; None where all is said.

    One whose first token begins its thoughts is asked anew, with tokens to think before it names an answer. Arena-Hard
    v0.1 asks a judge, once, to go on whose judgment holds no label.
    """
    if reply.text is None:
        return None
    if method == "preference":
        return replace(asked, max_tokens=thought_tokens, anew=True) if reply.thinks else None
    words = spoken(reply.text) or ""
    if benchmark != "arena_hard_v0.1" or method != "games" or arena_labels_v01(words) or reply.wordless:
        return None
    said: tuple[Message, ...] = ({"role": "assistant", "content": words}, {"role": "user", "content": GO_ON})
    return Request((*asked.messages, *said), asked.max_tokens)


def read(match: Match, fixture: Fixture, method: Method, reply: Reply | None) -> Game:
    """The verdict that a reply holds; None is for answers that are alike."""
    name, model_first = fixture

    def game(outcome: Outcome, points: float | None, times: int, judgment: str) -> Game:
        against = match.theirs[name].by
        return Game(match.benchmark, name, match.model, against, model_first, outcome, points, times, judgment)

    if reply is None:
        return game("alike", 0.5, 1, "")
    if reply.text is None:
        return game("missing", None, 0, reply.why)
    words = reply.text or reply.why
    if method == "preference":
        chance = None if reply.thinks and reply.wordless else preference(reply.first, switched=model_first)
        if chance is None:
            return game("unparsable", None, 0, words)
        return game("read", chance - 1, 1, words)
    label = (arena_label_v01 if match.benchmark == "arena_hard_v0.1" else arena_label)(reply.text)
    found = arena_game(label, model_is_a=model_first)
    return game("unparsable", None, 0, words) if found is None else game("read", *found, words)


@dataclass(frozen=True)
class Score:
    """The model against the other, in percent. A question counts where each of its games has a verdict."""

    rate: Interval | None  # 95 % bootstrap over questions; None without any verdict
    questions: int
    games: int
    read: int
    alike: int
    unparsable: int
    missing: int
    first_shown: float | None  # points of the answer shown first: 50 without a bias for the place


def shares(games: Iterable[Game]) -> dict[str, float | None]:
    """The mean points of each question, strong verdicts counted three times; None where a game has no verdict."""
    found: dict[str, list[float | None]] = {}
    for game in games:
        found.setdefault(game.question_id, []).extend([game.points] * max(1, game.times))
    return {name: None if None in each else fmean(p for p in each if p is not None) for name, each in found.items()}


def summarise(games: Sequence[Game], resamples: int, seed: int) -> Score:
    """The mean over questions of their games' points. What has no verdict is no tie: its question is left out."""
    counted = {name: share for name, share in shares(games).items() if share is not None}
    means = [100 * share for share in counted.values()]
    read = [
        (game.points, game.model_first)
        for game in games
        if game.outcome == "read" and game.points is not None
        if game.question_id in counted or game.benchmark != "arena_hard_v2.0"  # whose tool leaves out both games
    ]
    first = [points if model_first else 1 - points for points, model_first in read]
    outcomes: list[Any] = [game.outcome for game in games]
    return Score(
        rate=bootstrap_mean(means, resamples, seed, within=(0, 100)) if means else None,
        questions=len(means),
        games=len(games),
        read=outcomes.count("read"),
        alike=outcomes.count("alike"),
        unparsable=outcomes.count("unparsable"),
        missing=outcomes.count("missing"),
        first_shown=100 * fmean(first) if first else None,
    )
