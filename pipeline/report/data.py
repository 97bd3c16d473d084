"""What the report is made of: plain frozen records, filled by the report stage, read by figures and page.

Every record turns into JSON through `dataclasses.asdict`. Shares lie between 0 and 1, times are seconds, log-probs are
nats. A part that a run does not have stays at its default, and the page leaves it out and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.evaluation.profile import Profile
from pipeline.statistics import Interval, WinRate

Route = Literal["preference", "sft", "drop"]
Model = Literal["base", "trained"]
MODELS: tuple[Model, ...] = ("base", "trained")


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


@dataclass(frozen=True)
class Ledger:
    """What became of the rows that prepare read: `read` = `kept` + the sum of `dropped`."""

    read: int
    kept: int
    dropped: Mapping[str, int]  # by reason


@dataclass(frozen=True)
class ScheduledPair:
    """A pair of the schedule; its score margin is chosen score - rejected score, null where the data has no scores."""

    score_margin: float | None
    route: Route
    flipped: bool = False


@dataclass(frozen=True)
class HeldOutState:
    """Means over the held-out pairs at one moment. Log-probs are sums over a completion's tokens."""

    accuracy: float  # share of pairs with gap > 0
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
class JudgeScore:
    """What a model said that compared both models' answers, each question in both orders."""

    judge: str
    wording: str
    rate: Interval | None  # the trained model's share of the points; None without a verdict
    questions: int
    games: int
    unparsable: int
    missing: int
    first_shown: float | None  # share of the points of the answer shown first
    tokens: int  # asked and answered


@dataclass(frozen=True)
class ModelRating:
    """A judge's ratings of one model's answers, 1 to 10."""

    overall: Interval | None  # None without a rating
    turns: Mapping[str, float]
    categories: Mapping[str, float]
    unparsable: int
    missing: int


@dataclass(frozen=True)
class Ratings:
    """What a judge said of single answers."""

    judge: str
    wording: str
    models: Mapping[Model, ModelRating]
    difference: Interval | None  # of trained - base
    tokens: int


@dataclass(frozen=True)
class Looks:
    """What one model's answers to a benchmark look like."""

    tokens: float  # mean length of an answer
    no_room: int  # turns that were not asked, as they do not fit into the model
    profile: Profile


@dataclass(frozen=True)
class Asked:
    """A benchmark of others, or a user's own questions, decided by no rule."""

    name: str
    questions: int
    licence: str  # of the questions; empty where it is the user's own affair
    models: Mapping[Model, Looks]
    judge: JudgeScore | None = None
    ratings: Ratings | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark over `questions` questions; either model may be missing, and then so is the comparison."""

    name: str
    questions: int
    models: Mapping[Model, ModelScore]
    comparison: WinRate | None = None  # of trained over base
    baselines: Sequence[Baseline] = ()
    kinds: Sequence[KindScore] = ()
    judge: JudgeScore | None = None


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
class Sample:
    """One question with the answers to lay side by side, and what a judge said of them."""

    question: str
    answers: Mapping[Model, Answer]
    benchmark: str = ""
    points: float | None = None  # the trained model's share of the judge's points; None without both verdicts
    judgments: Sequence[str] = ()

    @property
    def outcome(self) -> Literal["better", "same", "worse"]:
        """The trained answer seen from the base answer: by the rules, or else by the judge."""
        if any(model not in self.answers for model in MODELS):
            return "same"
        if any(answer.rules for answer in self.answers.values()):
            change = self.answers["trained"].share_met - self.answers["base"].share_met
        else:
            change = 0.0 if self.points is None else self.points - 0.5
        return "better" if change > 0 else "worse" if change < 0 else "same"


@dataclass(frozen=True)
class Objective:
    """The preset that was trained, with its parameters."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class ReportData:
    """Everything the page shows. `steps` and `trained_pairs` are rows of `pipeline.tables` STEPS and TRAINED_PAIRS."""

    title: str
    config_name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, str]
    objective: Objective
    stages: Sequence[StageRun] = ()
    ledger: Ledger | None = None
    scheduled: Sequence[ScheduledPair] = ()
    steps: Sequence[Mapping[str, Any]] = ()
    trained_pairs: Sequence[Mapping[str, Any]] = ()
    held_out: HeldOut | None = None
    benchmark: Benchmark | None = None  # the embedded tasks
    asked: Sequence[Asked] = ()  # the other benchmarks
    samples: Sequence[Sample] = ()
    notes: Sequence[str] = ()  # warnings, shown at the top
