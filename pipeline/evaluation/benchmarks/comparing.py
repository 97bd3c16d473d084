"""Two files of verdicts on the same questions: two models beside each other, or two judges of the same models."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.annotations import UNNAMED, Judged
from pipeline.evaluation.benchmarks.scoring import Annotations
from pipeline.evaluation.benchmarks.verdicts import SCALE
from pipeline.results.files import file_digest
from pipeline.statistics import kappa, paired


def comparisons(ours: Annotations, theirs: Annotations, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Every model of one file against every model of the other, question by question.

    Raises UserError where two have no question in common.
    """
    found = []
    for model, points in ours.points().items():
        for other, others in theirs.points().items():
            if not points.keys() & others.keys():
                named = f"{model} of {ours.path} and {other} of {theirs.path}"
                raise UserError(f"{named} have no question in common", "compare verdicts on the same questions")
            # Two runs of one name are told apart.
            names = (model, other) if model != other else (f"{model} ({ours.path})", f"{model} ({theirs.path})")
            result = paired(points, others, resamples, seed, SCALE if ours.benchmark == "mt_bench" else (0, 1))
            found.append({"model": names[0], "against": names[1], **dataclasses.asdict(result)})
    return found


def unlike(ours: Annotations, theirs: Annotations) -> list[str]:
    """What the verdicts of two files that are compared do not share, where they say so."""
    both = [each.judged() for each in (ours, theirs)]
    found = []
    for kind in ("baseline", "judge"):
        first, second = (
            {str(name) for each in own if (name := getattr(each, kind)) not in (None, UNNAMED)} for own in both
        )
        if first and second and not first & second:
            told = " and ".join(", ".join(sorted(names)) for names in (first, second))
            found.append(f"the models compared have not the same {kind} ({told})")
    return found


def agreement(first: Annotations, second: Annotations) -> list[dict[str, Any]]:
    """How far two judges agree on each model: won, tied or lost, or on MT-Bench the rating itself.

    Raises UserError where they judged no model, or one on no question, in common, or are one file of verdicts, or
    judged against different baselines.
    """
    ours, theirs = first.points(), second.points()
    if not ours.keys() & theirs.keys():
        raise UserError(f"{first.path} and {second.path} judge no model in common", "give the same models")
    _require_two_of_one(first, second)

    def category(points: float) -> Hashable:
        return points if first.benchmark == "mt_bench" else (points > 0.5) - (points < 0.5)

    found = []
    for model in sorted(ours.keys() & theirs.keys()):
        shared = sorted(ours[model].keys() & theirs[model].keys(), key=str)
        if not shared:
            raise UserError(f"the two judges of {model} have no question in common", "judge the same questions")
        one, other = ([category(judge[model][key]) for key in shared] for judge in (ours, theirs))
        agreed = sum(a == b for a, b in zip(one, other, strict=True)) / len(shared)
        found.append({"model": model, "verdicts": len(shared), "agreed": 100 * agreed, "kappa": kappa(one, other)})
    return found


def _require_two_of_one(first: Annotations, second: Annotations) -> None:
    """Raise UserError where a second judge's verdicts are the first one's, or on answers to another baseline's."""
    own, others = first.judged(), second.judged()
    if own == others and file_digest(first.path) == file_digest(second.path):
        raise UserError(
            f"--second-judge {second.path} holds the verdicts of {first.path}: every judge agrees with itself",
            "give another judge's verdicts, or name the first of several judges in one file by --judge",
        )
    ours, theirs = _met_by(own), _met_by(others)
    for key in ours.keys() & theirs.keys():
        if UNNAMED not in (pair := (ours[key], theirs[key])) and pair[0] != pair[1]:
            raise UserError(
                f"--second-judge {second.path}: {key[0]} is compared with {pair[1]} there, and with {pair[0]} in "
                f"{first.path}",
                "give another judge's verdicts against the same baseline, or name one that both have by --baseline",
            )


def _met_by(judged: Sequence[Judged]) -> dict[tuple[str, str | None], str | None]:
    """The baseline of each model, and on Arena-Hard, whose categories may each have their own, of each question."""
    return {(each.model, getattr(each, "question", None)): each.baseline for each in judged}


def of_one_judge(first: Annotations, second: Annotations) -> list[str]:
    """A note where both files name one judge: two readings of it are compared."""
    ours, theirs = ({each.judge for each in own.judged() if each.judge} for own in (first, second))
    named = ", ".join(sorted(ours & theirs))
    return [f"both files are judged by {named}: an agreement with itself"] if named else []
