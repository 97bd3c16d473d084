"""Give every candidate a score: python -m jobs.rate --config FILE [section.key=value ...]"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.common.saying import Progress, doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.line.onpolicy import Rating
    from pipeline.onpolicy.ratings import Missing

OPENED = {"sample": ("part-*",)}


def run(work: Work) -> Outcome:
    """A part of scores, by one rater, for every part of candidates."""
    import pyarrow.compute as pc

    from pipeline.onpolicy.ratings import missing, spread
    from pipeline.results import tables

    assert work.plan.front is not None
    rating = work.plan.front.rating(work.step.name)
    parts = sorted(path.name for path in work.inputs["candidates"].path.glob("part-*.parquet"))
    by = by_rules if rating.settings.rules else by_model if rating.settings.model else by_judge
    outcome = by(work, rating, parts)
    files = [work.folder / name for name in parts]
    found = missing(files)
    reasons = dict(found.reasons.most_common())
    require_scores(rating.label, found, work.config.rate.max_missing)
    if reasons:
        say(f"{work.step.name}: {found.reasons.total()} of {found.of} answers have no score: {reasons}")
    outcome.tokens = pc.sum(tables.read(work.folder, tables.SCORES, ["rated_tokens"])["rated_tokens"]).as_py()
    outcome.metrics |= {"rater": rating.label, "scores": spread(files)}
    scored = found.of - found.reasons.total()
    outcome.ledger = {"answers": found.of, "scored": scored, "unrated": reasons}
    return outcome


def by_rules(work: Work, rating: Rating, parts: list[str]) -> Outcome:
    """Here: rules take less time than a cluster takes to start."""
    from pipeline.onpolicy import ratings

    progress = Progress(work.step.name, len(parts), "parts", work.config.resources.log_seconds)
    rows = {}
    for name in parts:
        candidates, scores = work.inputs["candidates"].path / name, work.folder / name
        rows[name] = ratings.rate_part(candidates, scores, rating.label, ratings.by_rules).rows
        progress.add(1)
    return Outcome(rows)


def by_model(work: Work, rating: Rating, parts: list[str]) -> Outcome:
    """By a pool of actors that hold a reward model."""
    from actors.cluster import connected, threads
    from actors.environment import environment
    from actors.rater import ModelRater, RaterSpec
    from jobs.common.models import opened
    from jobs.common.pool import run_parts
    from pipeline.compute.limits import require_reward_model

    resources, model = work.config.resources, rating.settings.as_model
    assert model is not None and rating.model is not None
    folder: Path = opened(work.plan, rating.model, model, "rate.raters", require_reward_model)
    doing("starting or joining Ray")
    with connected():
        spec = RaterSpec(
            label=rating.label,
            rater=rating.settings,
            model=str(folder),
            candidates=str(work.inputs["candidates"].path),
            folder=str(work.folder),
            resources=resources,
            threads=threads(resources.scorers),
        )
        return run_parts(
            [{"part": name} for name in parts],
            ModelRater,
            spec,
            what=work.step.name,
            setting="resources.scorers",
            actors=resources.scorers,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.gpus_per_actor),
        )


def by_judge(work: Work, rating: Rating, parts: list[str]) -> Outcome:
    """By a judge, at an endpoint or here: what it has replied is kept as for the judge stage."""
    from jobs.common.ask_judge import AtEndpoint, Here, ModelJudge
    from jobs.common.contests import opened
    from pipeline.onpolicy import judged, ratings

    rater, folder = rating.settings, work.inputs["candidates"].path
    judge: ModelJudge
    if rater.judge:
        judge = AtEndpoint(work, rater.judge)
    else:
        assert rater.local is not None and rating.model is not None
        judge = Here(work, rating.model, rater.local, "rate.raters")
    rows = {row["candidate_id"]: row for name in parts for row in ratings.read(folder / name)}
    asked = judged.requests([*rows.values()], work.config.judge.max_tokens)
    (replies,) = opened([judge.ask(asked)])
    verdicts = dict(zip(rows, map(judged.verdict, rows.values(), replies), strict=True))

    def known(some: Sequence[ratings.Row]) -> list[ratings.Verdict]:
        return [verdicts[row["candidate_id"]] for row in some]

    return Outcome(
        {name: ratings.rate_part(folder / name, work.folder / name, rating.label, known).rows for name in parts}
    )


def require_scores(label: str, found: Missing, allowed: float) -> None:
    """Raise UserError, with an example a reason, where more answers have no score than the user allows."""
    if found.share > allowed or found.share == 1:
        told = "; ".join(f"{reason}: {example}" for reason, example in found.examples.items())
        reasons = dict(found.reasons.most_common())
        raise UserError(
            f"the rater {label} gives {found.reasons.total()} of {found.of} answers no score: {reasons}",
            f"give another rater, or mend what is at fault ({told}); rate.max_missing={allowed:g} is the share allowed",
        )


if __name__ == "__main__":
    main("rate")
