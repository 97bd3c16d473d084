"""TIS-DPO's token weights, of what two contrastive models say of a completion (arXiv 2410.04350).

One model was trained on the labels (pi+), one on the labels the other way round (pi-). How much a token speaks for what
its completion is taken for is log pi+ - log pi- in a chosen completion, and its negative in a rejected one. Each
function: (these, [n]; the range of weights; bounds of log pi+ - log pi-; whether chosen) -> weights [n].
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
Bounds = tuple[float, float]


def rank(speaks_n: Values, span: Bounds, clip: Bounds, chosen: bool) -> Values:
    """Linear in a token's rank within its completion, so that they average to the middle of `span`.

    Tokens alike share their mean rank; public code ranks them by their place.
    """
    _, which_n, counts = np.unique(speaks_n, return_inverse=True, return_counts=True)
    below = counts.cumsum() - counts
    rank_n = (below + (counts - 1) / 2)[which_n]
    return _linear(rank_n, (0.0, float(len(speaks_n) - 1)), span)


def clipped(speaks_n: Values, span: Bounds, clip: Bounds, chosen: bool) -> Values:
    """Linear between the bounds, which are those of what speaks for either side, as in the authors' code."""
    return _linear(speaks_n.clip(*clip), clip, span)


def published(speaks_n: Values, span: Bounds, clip: Bounds, chosen: bool) -> Values:
    """exp(m clip(log pi+ - log pi-)), m 1 in a chosen completion and -1 in a rejected one, as in the paper."""
    sign = 1.0 if chosen else -1.0
    return np.exp(sign * (sign * speaks_n).clip(*clip))


TRANSFORMS: dict[str, Callable[[Values, Bounds, Bounds, bool], Values]] = {
    "rank": rank,
    "clipped": clipped,
    "published": published,
}


def token_weights(
    transform: str, positive_n: npt.ArrayLike, negative_n: npt.ArrayLike, span: Bounds, clip: Bounds, chosen: bool
) -> Values:
    """Weights of a completion's tokens, [n], by both models' log-probs of them."""
    ratio_n = np.asarray(positive_n, dtype=np.float64) - np.asarray(negative_n, dtype=np.float64)
    return TRANSFORMS[transform](ratio_n if chosen else -ratio_n, span, clip, chosen)


def _linear(values_n: Values, of: Bounds, to: Bounds) -> Values:
    """From one range to the other; to the middle where the first is a point."""
    middle, half = (of[0] + of[1]) / 2, (of[1] - of[0]) / 2
    share_n = (values_n - middle) / half if half else np.zeros_like(values_n)
    return (to[0] + to[1]) / 2 + (to[1] - to[0]) / 2 * share_n
