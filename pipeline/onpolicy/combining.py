"""What several raters say together of the answers to one prompt. Their scales may differ; each finds more better."""

from collections.abc import Callable, Sequence

Scores = Sequence[Sequence[float]]  # [answers][raters]


def combined(scores: Scores, how: str) -> list[float]:
    """One score an answer, higher is better. A single rater's own scores stay as they are, whatever `how` says.

    mean: of the scores, for raters of one scale. mean-rank: of each rater's ranks, from 0 for its worst answer to 1 for
    its best, equals sharing theirs. majority: the share of raters that find an answer the best less the share that find
    it the worst, from -1 to 1; the vote of one that finds several equal is shared among them.
    """
    if len(scores[0]) == 1:
        return [score for (score,) in scores]
    by_rater = [_WAYS[how](each) for each in zip(*scores, strict=True)]
    return [sum(each) / len(by_rater) for each in zip(*by_rater, strict=True)]


def _ranks(scores: Sequence[float]) -> list[float]:
    """In [0, 1]; an answer's is the share of the others that it beats, those that are as good counted half."""
    others = max(1, len(scores) - 1)
    return [(sum(other < score for other in scores) + (scores.count(score) - 1) / 2) / others for score in scores]


def _votes(scores: Sequence[float]) -> list[float]:
    best, worst = max(scores), min(scores)
    return [(score == best) / scores.count(best) - (score == worst) / scores.count(worst) for score in scores]


_WAYS: dict[str, Callable[[Sequence[float]], Sequence[float]]] = {
    "mean": lambda scores: scores,
    "mean-rank": _ranks,
    "majority": _votes,
}
