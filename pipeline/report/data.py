"""What the report is made of: plain frozen records, filled by the report stage, read by figures and page.

Every record turns into JSON through `dataclasses.asdict`, but for the Arrow tables, which grow with the training: what
is drawn of them is bounded (training_figures.py). Shares lie between 0 and 1, times are seconds, log-probs are
nats. A part that a run does not have stays at its default, and the page leaves it out and says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pipeline.evaluation.harness import Compared
from pipeline.onpolicy.describing import Described
from pipeline.report.outcomes import Asked, Benchmark, Model, Sample
from pipeline.statistics import Interval

Route = Literal["preference", "sft", "drop"]
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
