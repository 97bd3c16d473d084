"""What came of the benchmarks' questions, as data.py's records: scores and verdicts, and answers to be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.evaluation.breakdown import Group, Longer
from pipeline.evaluation.profile import Profile
from pipeline.statistics import Interval, Paired, WinRate

Model = Literal["base", "trained"]
MODELS: tuple[Model, ...] = ("base", "trained")


@dataclass(frozen=True)
class ModelScore:
    """How one model answered the benchmark, with 95% intervals."""

    share_met: Interval  # mean over questions of the share of constraints met
    wholly_met: Interval  # share of questions whose constraints are all met
    tokens: float  # mean length of an answer
    profile: Profile


@dataclass(frozen=True)
class Baseline:
    """An answer that reads no question: what a score is worth if a constant reaches it."""

    name: str
    text: str
    share_met: float
    wholly_met: float


@dataclass(frozen=True)
class KindScore:
    """The share of one kind's constraints that each model met."""

    kind: str
    constraints: int
    base: float
    trained: float


@dataclass(frozen=True)
class OwnFigure:
    """A figure as the benchmark's own tool gives it, such as the length-controlled win rate, in its own unit."""

    label: str
    value: float
    low: float | None
    high: float | None
    unit: Literal["%", ""]


@dataclass(frozen=True)
class Match:
    """One model's answers compared with those of an opponent, question by question."""

    model: Model
    against: str  # base, or a baseline's name
    rate: Interval | None  # the model's share of the points; None without a verdict
    questions: int  # that have all their verdicts
    games: int
    alike: int  # games of two answers that are one and the same: a tie that no judge is asked about
    unparsable: int
    missing: int
    first_shown: float | None  # share of the points of the answer shown first
    figures: Sequence[OwnFigure] = ()
    notes: Sequence[str] = ()
    categories: Sequence[Group] = ()
    prompt_lengths: Sequence[Group] = ()  # quartiles, by characters of the question
    longer: Sequence[Longer] = ()  # a question each
    length_curve: Sequence[Group] = ()  # `longer` in parts of about as many questions each


@dataclass(frozen=True)
class Rated:
    """A judge's ratings of one model's answers, 1 to 10."""

    model: Model
    overall: Interval | None  # None without a rating
    turns: Mapping[str, float]
    ratings: int
    unparsable: int
    missing: int
    categories: Sequence[Group] = ()
    prompt_lengths: Sequence[Group] = ()


@dataclass(frozen=True)
class Judged:
    """What a model said that judged a benchmark's answers: in `matches`, or by rating them one by one."""

    judge: str
    wording: str  # whose words the judge was asked with
    method: Literal["games", "preference", "ratings"]
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None = None  # None where no price is known
    matches: Sequence[Match] = ()
    baselines: Mapping[str, Profile] = field(default_factory=dict)  # what the opponents' answers look like, by name
    rated: Sequence[Rated] = ()
    paired: Paired | None = None  # trained - base where both met the same opponent (shares) or were rated
    figures: Sequence[OwnFigure] = ()  # beside ratings
    notes: Sequence[str] = ()

    @property
    def labels(self) -> list[str]:
        """The names of the matches' own figures, in their order."""
        return list(dict.fromkeys(figure.label for match in self.matches for figure in match.figures))

    @property
    def columns(self) -> int:
        """How many columns the judge adds to a table of scores."""
        return 4 if self.method == "ratings" else len(self.opponents) + len(self.labels)

    @property
    def opponents(self) -> list[str]:
        """Whom the models met, in the matches' order."""
        return list(dict.fromkeys(match.against for match in self.matches))

    def match(self, model: Model, against: str) -> Match | None:
        return next((each for each in self.matches if (each.model, each.against) == (model, against)), None)

    def own(self, model: Model, label: str) -> OwnFigure | None:
        """The benchmark's own figure of that name in a match of the model."""
        of_model = (figure for match in self.matches if match.model == model for figure in match.figures)
        return next((figure for figure in of_model if figure.label == label), None)

    def ratings_of(self, model: Model) -> Rated | None:
        return next((each for each in self.rated if each.model == model), None)

    @property
    def remarks(self) -> list[str]:
        """All that there is to say of the figures, once."""
        return list(dict.fromkeys([*(note for match in self.matches for note in match.notes), *self.notes]))


@dataclass(frozen=True)
class Looks:
    """What one model's answers to a benchmark look like."""

    tokens: float  # mean length of an answer
    no_room: int  # turns that were not asked, as they do not fit into the model or its template
    profile: Profile


@dataclass(frozen=True)
class Asked:
    """A benchmark of others, or a user's own questions, decided by no rule."""

    name: str
    questions: int
    licence: str  # of the questions; empty where it is the user's own affair
    models: Mapping[Model, Looks]
    judged: Judged | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark over `questions` questions; either model may be missing, and then so is the comparison."""

    name: str
    questions: int
    models: Mapping[Model, ModelScore]
    comparison: WinRate | None = None  # of trained over base
    baselines: Sequence[Baseline] = ()
    kinds: Sequence[KindScore] = ()
    judged: Judged | None = None


@dataclass(frozen=True)
class Rule:
    """One constraint of a question and whether the answer met it."""

    wording: str
    met: bool


@dataclass(frozen=True)
class Answer:
    """One model's answer to one question, with what the rules said."""

    text: str
    finish_reason: str  # stop | length
    rules: Sequence[Rule] = ()

    @property
    def share_met(self) -> float:
        """Share of the rules met; 0 where there are none."""
        return sum(rule.met for rule in self.rules) / len(self.rules) if self.rules else 0.0


@dataclass(frozen=True)
class Saying:
    """A judge's words, or why there are none, and of which game."""

    game: str  # such as "shown first"; empty for a rating
    words: str


@dataclass(frozen=True)
class Verdict:
    """What a judge made of one model's answer to a question: all games with one opponent, or its rating."""

    model: Model
    against: str | None  # the opponent; None of a rating
    value: float | None  # share of the points, 0 to 1, or the rating, 1 to 10; None where any of it is not there
    sayings: Sequence[Saying] = ()

    @property
    def outcome(self) -> Literal["won", "tied", "lost", "rated", "undecided"]:
        """A match is won with more than half of the points."""
        if self.value is None:
            return "undecided"
        if self.against is None:
            return "rated"
        return "won" if self.value > 0.5 else "lost" if self.value < 0.5 else "tied"


@dataclass(frozen=True)
class Sample:
    """One question, or a turn of it, with the answers to lay side by side, and what a judge said of them."""

    question: str
    answers: Mapping[Model, Answer]
    benchmark: str = ""
    category: str = ""
    turn: int = 1
    baselines: Mapping[str, str] = field(default_factory=dict)  # other models' answers, by name
    verdicts: Sequence[Verdict] = ()

    @property
    def outcome(self) -> Literal["better", "same", "worse", "undecided"]:
        """The trained answer seen from the base answer: by the rules, or else by the judge."""
        change = self._change()
        if change is None:
            return "undecided"
        return "better" if change > 0 else "worse" if change < 0 else "same"

    def _change(self) -> float | None:
        """Above zero where the trained answer is the better one; None where neither rules nor judge decide it."""
        if any(model not in self.answers for model in MODELS):
            return None
        if any(answer.rules for answer in self.answers.values()):
            return self.answers["trained"].share_met - self.answers["base"].share_met
        found = {(verdict.model, verdict.against): verdict.value for verdict in self.verdicts}
        for (model, against), ours in found.items():
            if model == "trained":
                theirs = 0.5 if against == "base" else found.get(("base", against))
                return None if ours is None or theirs is None else ours - theirs
        return None
