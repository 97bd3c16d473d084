"""What several raters say together of the answers to one prompt. Their scales may differ; each finds more better."""

from collections.abc import Callable, Sequence

Scores = Sequence[Sequence[float]]  # [answers][raters]


def combined(scores: Scores, how: str) -> list[float]:
    """One score an answer, higher is better. A single rater's own scores stay as they are, whatever `how` says.

    mean: of the scores, for raters of one scale. mean-rank: of each rater's ranks, from 0 for its worst answer to 1 for
    its best, equals sharing theirs. majority: 1 for the answer that more than half of the raters find the best, -1 for
    the one that more than half find the worst, 0 for others; who finds several equally good shares the vote among them.
    What is equal but for rounding, such as the same ranks by other raters, is equal.
    """
    if len(scores[0]) == 1:
        return [score for (score,) in scores]
    by_rater = [*zip(*scores, strict=True)]
    if how == "majority":
        best, worst = (_means([_votes(each, most) for each in by_rater]) for most in (max, min))
        return [float(one > 0.5) - float(other > 0.5) for one, other in zip(best, worst, strict=True)]
    return _means([_ranks(each) for each in by_rater] if how == "mean-rank" else by_rater)


def settled(score: float) -> float:
    """To twelve digits: two sums of the same numbers in another order are one score, and no narrow margin."""
    return float(f"{score:.12g}")


def _means(by_rater: Scores) -> list[float]:
    return [settled(sum(each) / len(by_rater)) for each in zip(*by_rater, strict=True)]


def _ranks(scores: Sequence[float]) -> list[float]:
    """In [0, 1]; an answer's is the share of the others that it beats, those that are as good counted half."""
    others = max(1, len(scores) - 1)
    return [(sum(other < score for other in scores) + (scores.count(score) - 1) / 2) / others for score in scores]


def _votes(scores: Sequence[float], most: Callable[[Sequence[float]], float]) -> list[float]:
    named = most(scores)
    return [(score == named) / scores.count(named) for score in scores]
