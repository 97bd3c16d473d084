"""Which pairs are computed together: micro-batches within a token budget, alike in load, the same for all workers."""

import heapq
from collections.abc import Sequence

from pipeline.errors import UserError

_FINER = 128  # a plan that is tried has such a part more micro-batches than the one before, or one more a worker


def plan(sizes: Sequence[int], budget: int, setting: str, workers: int = 1) -> list[list[list[int]]]:
    """For each worker its micro-batches, each a list of indices into `sizes` (packed tokens), in rising order.

    Every worker has as many micro-batches as any other, each of at most `budget` tokens; with fewer pairs than
    micro-batches some are empty. The largest pair goes first, always to the emptiest micro-batch, so that loads are
    alike (Graham 1969: the fullest holds at most 4/3 of the best possible). They are as few as that allows, or less
    than 1 % more where there are hundreds. It depends on nothing but the arguments: all workers find the same plan.
    Raises UserError where one pair alone exceeds the budget, whose name is `setting`.
    """
    if sizes and max(sizes) > budget:
        raise UserError(
            f"{setting}={budget} is less than one pair of {max(sizes)} tokens", f"set {setting}={max(sizes)} or more"
        )
    largest_first = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    each = max(1, -(-_least(sizes, budget) // workers))
    while (batches := _filled(largest_first, sizes, budget, each * workers)) is None:
        each += max(1, each // _FINER)
    return [batches[worker::workers] for worker in range(workers)]


def _least(sizes: Sequence[int], budget: int) -> int:
    """Fewer micro-batches than this hold the pairs in no way at all.

    By their sum; and, of pairs beyond 1/2, 1/3, ... of the budget, by how many go together: where `fit` do, a pair of
    more than j / (fit + 1) of the budget takes the place of j of them.
    """
    bounds = [-(-sum(sizes) // budget)]
    for fit in range(1, 9):
        places = sum(((fit + 1) * size - 1) // budget for size in sizes)
        bounds.append(-(-places // fit))
    return max(bounds)


def _filled(order: Sequence[int], sizes: Sequence[int], budget: int, count: int) -> list[list[int]] | None:
    """`count` micro-batches, each pair in the one that was emptiest, the first of them; None where one overflows."""
    batches: list[list[int]] = [[] for _ in range(count)]
    loads = list(range(count))  # a heap of load * count + number
    for index in order:
        load, number = divmod(loads[0], count)
        if load + sizes[index] > budget:
            return None
        heapq.heapreplace(loads, loads[0] + sizes[index] * count)
        batches[number].append(index)
    return [sorted(batch) for batch in batches]
