"""What the report is made of: plain frozen records, filled by the report stage, read by figures and page.

Every record turns into JSON through `dataclasses.asdict`, but for two Arrow tables, which grow with the training: what
is drawn of them is bounded (training_figures.py). Shares lie between 0 and 1, times are seconds, log-probs are
nats. A part that a run does not have stays at its default, and the page leaves it out and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from pipeline.evaluation.breakdown import Group, Longer
from pipeline.evaluation.harness import Compared
from pipeline.evaluation.profile import Profile
from pipeline.onpolicy.describing import Described
from pipeline.statistics import Interval, Paired, WinRate

Route = Literal["preference", "sft", "drop"]
Model = Literal["base", "trained"]
MODELS: tuple[Model, ...] = ("base", "trained")
DRAWN = ("step", "position", "pair_id", "flipped", "gap", "margin", "weight")  # of tables.TRAINED_PAIRS


@dataclass(frozen=True)
class StageRun:
    """One result of the line, with the time, rows and tokens of the run that made it, however long ago."""

    stage: str
    label: str
    fingerprint: str
    address: str
    seconds: float
    rows: int
    tokens: int | None = None  # null where the stage touches no tokens
    notes: Sequence[str] = ()  # what the stage said, such as how it ran its model


@dataclass(frozen=True)
class Ledger:
    """What became of the rows that prepare read: `read` = `kept` + the sum of `dropped`."""

    read: int
    kept: int
    dropped: Mapping[str, int]  # by reason


@dataclass(frozen=True)
class Histogram:
    """Counts by route: bin b, of `width`, begins at b * width."""

    width: float
    counts: Mapping[Route, Mapping[int, int]]


@dataclass(frozen=True)
class Scheduled:
    """The schedule's rows in figures; a pair counts once an epoch."""

    pairs: int
    flipped: int
    unscored: int  # pairs of which the data have no scores
    margins: Histogram | None = None  # chosen score - rejected score; None where no pair has scores


@dataclass(frozen=True)
class HeldOutState:
    """Means over the held-out pairs at one moment. Log-probs are sums over a completion's tokens."""

    accuracy: float  # share of pairs with gap > 0; a gap of 0 counts half
    gap: float
    chosen_logps: float
    rejected_logps: float


@dataclass(frozen=True)
class HeldOut:
    """The dev pairs, never trained on, before the first step and after the last."""

    pairs: int
    before: HeldOutState | None  # unknown to members that look at single tokens: only sums are cached
    after: HeldOutState


@dataclass(frozen=True)
class RankedGroup:
    """The share of some pairs that is ranked as labelled, in the order of the measures."""

    name: str
    pairs: int
    accuracy: Sequence[Interval]


@dataclass(frozen=True)
class Ranked:
    """A set of pairs that jobs.rank had both models rank."""

    data: str
    measures: Sequence[str]
    own: str | None  # the measure that the objective trains
    groups: Sequence[RankedGroup]
    remarks: Sequence[str]


@dataclass(frozen=True)
class Elsewhere:
    """What lm-evaluation-harness made of both models, and whose its results say they are."""

    rows: Sequence[Compared]
    models: Mapping[Model, str]


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


@dataclass(frozen=True)
class Objective:
    """The preset that was trained, with its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. `steps` is a table of tables.STEPS, `trained_pairs` has the columns DRAWN,
    `reliability` is a table of tables.RELIABILITY, `streams` one of tables.STREAMS, `dictionary` one of
    tables.DICTIONARY.
    """

    title: str
    config_name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str]
    objective: Objective
    stages: Sequence[StageRun] = ()
    sampled: Described | None = None  # where pairs are made of a model's own answers
    ledger: Ledger | None = None
    scheduled: Scheduled | None = None
    steps: pa.Table | None = None
    trained_pairs: pa.Table | None = None
    reliability: pa.Table | None = None  # where the objective estimates any
    streams: pa.Table | None = None  # where pairs are of several
    dictionary: pa.Table | None = None  # where an autoencoder was trained
    held_out: HeldOut | None = None
    ranked: Sequence[Ranked] = ()
    elsewhere: Elsewhere | None = None
    benchmark: Benchmark | None = None  # the embedded tasks
    asked: Sequence[Asked] = ()  # the other benchmarks
    samples: Sequence[Sample] = ()
    not_shown: int = 0  # answers beyond those in `samples`
    notes: Sequence[str] = ()  # warnings, shown at the top
