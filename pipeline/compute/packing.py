"""Which pairs are computed together: micro-batches within a token budget, alike in load, the same for all workers."""

import heapq
from collections.abc import Sequence

from pipeline.errors import UserError


def plan(sizes: Sequence[int], budget: int, setting: str, workers: int = 1) -> list[list[list[int]]]:
    """For each worker its micro-batches, each a list of indices into `sizes` (packed tokens), in rising order.

    Every worker has as many micro-batches as any other, each of at most `budget` tokens; with fewer pairs than
    micro-batches some are empty. The largest pair goes first, always to the emptiest micro-batch, so that loads are
    alike (Graham 1969: the fullest holds at most 4/3 of the best possible). It depends on nothing but the arguments:
    all workers find the same plan. Raises UserError where one pair alone exceeds the budget, whose name is `setting`.
    """
    if sizes and max(sizes) > budget:
        raise UserError(
            f"{setting}={budget} is less than one pair of {max(sizes)} tokens", f"set {setting}={max(sizes)} or more"
        )
    largest_first = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    each = max(1, -(-sum(sizes) // (budget * workers)))
    while True:
        filled: list[tuple[int, int, list[int]]] = [(0, number, []) for number in range(each * workers)]
        for index in largest_first:
            load, number, members = filled[0]
            heapq.heapreplace(filled, (load + sizes[index], number, [*members, index]))
        if max(load for load, _, _ in filled) <= budget:
            break
        each += 1
    batches = [sorted(members) for _, _, members in sorted(filled, key=lambda batch: batch[1])]
    return [batches[worker::workers] for worker in range(workers)]
