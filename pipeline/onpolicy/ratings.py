"""Scores of answers by one rater: a part of tables.SCORES for each part of tables.CANDIDATES."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.evaluation.benchmarks.thoughts import without_thoughts
from pipeline.preferences.constraints import met
from pipeline.preferences.verifiable import Question
from pipeline.results import tables

Row = dict[str, Any]
_READ = ["prompt_id", "candidate_id", "prompt", "meta", "response"]  # of a candidate


class Verdict(NamedTuple):
    """What a rater says of an answer. Without a score, `detail` has `why`, a slug to count by."""

    score: float | None
    detail: dict[str, Any]
    tokens: int = 0  # that it read


Rates = Callable[[Sequence[Row]], Sequence[Verdict]]


@dataclass(frozen=True)
class RatedPart:
    rows: int
    tokens: int


def read(candidates: Path) -> list[Row]:
    """The different answers of a part, with what raters read of them."""
    rows = pq.read_table(candidates, columns=_READ).to_pylist()
    return [*{row["candidate_id"]: row for row in rows}.values()]


def rate_part(candidates: Path, scores: Path, label: str, rate: Rates) -> RatedPart:
    """Rate the file `candidates`, each different answer once, and write the file `scores`, whole or not at all."""
    once = read(candidates)
    verdicts = rate(once)
    written = [
        {
            "prompt_id": row["prompt_id"],
            "candidate_id": row["candidate_id"],
            "rater": label,
            "score": verdict.score,
            "detail": json.dumps(verdict.detail, ensure_ascii=False),
            "rated_tokens": verdict.tokens,
        }
        for row, verdict in zip(once, verdicts, strict=True)
    ]
    tables.write(written, tables.SCORES, scores)
    return RatedPart(len(written), sum(verdict.tokens for verdict in verdicts))


def by_rules(rows: Sequence[Row]) -> list[Verdict]:
    """The share, 0 to 1, of its prompt's constraints that an answer meets, without its thoughts; none where the prompt
    sets none.
    """
    return [_by_rules(row) for row in rows]


def _by_rules(row: Row) -> Verdict:
    meta = json.loads(row["meta"])
    if not meta.get("constraints"):
        return Verdict(None, {"why": "no-rules"})
    asked = Question.restore("", [], meta)
    text = without_thoughts(row["response"])
    flags = [met(constraint, text) for constraint in asked.constraints]
    kinds = zip(asked.constraints, asked.wordings, flags, strict=True)
    said = [{"kind": constraint.kind, "wording": wording, "met": flag} for constraint, wording, flag in kinds]
    return Verdict(sum(flags) / len(flags), {"rules": said})


class Missing(NamedTuple):
    """Answers without a score."""

    of: int  # answers
    reasons: Counter[str]
    examples: dict[str, str]  # of each reason one, with what was at fault

    @property
    def share(self) -> float:
        return self.reasons.total() / max(1, self.of)


def missing(parts: Sequence[Path]) -> Missing:
    """What a rater gave no score to, and why."""
    of, reasons, examples = 0, Counter[str](), dict[str, str]()
    for part in parts:
        table = pq.read_table(part, columns=["candidate_id", "score", "detail"])
        of += table.num_rows
        for row in table.filter(pc.is_null(table["score"])).to_pylist():
            detail = json.loads(row["detail"])
            why = str(detail.get("why", "no-verdict"))
            reasons[why] += 1
            examples.setdefault(why, f"candidate {row['candidate_id']}: {detail.get('detail', why)}")
    return Missing(of, reasons, examples)


def spread(parts: Sequence[Path]) -> dict[str, Any]:
    """The scores of a rater in a few figures: how many different ones, their mean, and quantiles in tenths."""
    columns = [pq.read_table(part, columns=["score"])["score"].drop_null() for part in parts]
    scores = pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.float64())
    tenths = [tenth / 10 for tenth in range(11)]
    quantiles = pc.quantile(scores, tenths).to_pylist() if len(scores) else []
    return {"distinct": len(pc.unique(scores)), "mean": pc.mean(scores).as_py(), "quantiles": quantiles}
