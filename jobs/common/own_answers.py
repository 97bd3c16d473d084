"""What the report shows of a model's own answers, gathered from the results of sample, rate and pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.common.stage import Work
from pipeline.line.steps import role_of
from pipeline.results import tables

if TYPE_CHECKING:
    from pipeline.onpolicy.describing import Described


def own_answers(work: Work) -> Described | None:
    """None where the pairs are not made of any."""
    from pipeline.onpolicy.describing import OF_CANDIDATES, OF_PAIRS, describe

    if work.plan.front is None:
        return None
    pair, raters = work.inputs["pair"], work.plan.front.raters
    rated = {each.label: work.inputs[role_of(f"rate:{each.label}")] for each in raters}
    scores = {label: tables.read(each.path, tables.SCORES, ["candidate_id", "score"]) for label, each in rated.items()}
    return describe(
        tables.read(work.inputs["sample"].path, tables.CANDIDATES, OF_CANDIDATES),
        scores,
        tables.read(pair.path, tables.SELECTED, OF_PAIRS),
        pair.manifest["ledger"],
        coarse=[each.label for each in raters if each.settings.model and each.settings.dtype == "bfloat16"],
    )
