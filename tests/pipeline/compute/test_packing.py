"""The packing plan: every pair once, within the budget, in loads that are alike, whoever asks."""

import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.compute.packing import plan
from pipeline.errors import UserError

SETTING = "resources.score_tokens"


def test_by_hand() -> None:
    """7 | 5 | 4 | 3 | 2 | 1 into bins of 11: 7 alone, then 5, 4 and 3 to the emptier, 2 and 1 as well: 11 and 11."""
    assert plan([1, 7, 3, 5, 2, 4], 11, SETTING) == [[[0, 1, 2], [3, 4, 5]]]
    assert plan([1, 7, 3, 5, 2, 4], 11, SETTING, workers=2) == [[[0, 1, 2]], [[3, 4, 5]]]
    assert plan([3, 3], 100, SETTING, workers=3) == [[[0]], [[1]], [[]]]
    assert plan([], 5, SETTING) == [[[]]]


@given(sizes=st.lists(st.integers(1, 20), max_size=40), budget=st.integers(20, 60), workers=st.integers(1, 4))
def test_every_pair_once_within_the_budget(sizes: list[int], budget: int, workers: int) -> None:
    planned = plan(sizes, budget, SETTING, workers)
    batches = [batch for worker in planned for batch in worker]
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert len(planned) == workers and len({len(worker) for worker in planned}) == 1
    loads = [sum(sizes[index] for index in batch) for batch in batches]
    assert max(loads) <= budget
    # Whoever got the last pair was the emptiest before it: loads differ by one pair at most.
    assert max(loads) - min(loads) <= max(sizes, default=0)
    # No more micro-batches than needed, but for what packing wastes: two of them always exceed the budget together.
    fewest = math.ceil(sum(sizes) / (budget * workers))
    assert len(planned[0]) <= 2 * fewest + 1


def test_a_pair_beyond_the_budget_names_the_setting() -> None:
    with pytest.raises(UserError, match=r"resources.score_tokens=10 .* 11 tokens\n.*resources.score_tokens=11"):
        plan([3, 11], 10, SETTING)


def one_by_one(sizes: list[int], budget: int, workers: int) -> list[list[list[int]]]:
    """The same plan the slow way: a micro-batch a worker more, until none overflows."""
    largest_first = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))
    each = max(1, -(-sum(sizes) // (budget * workers)))
    while True:
        loads, batches = [0] * (each * workers), [list[int]() for _ in range(each * workers)]
        for index in largest_first:
            number = loads.index(min(loads))
            loads[number] += sizes[index]
            batches[number].append(index)
        if max(loads) <= budget:
            return [[sorted(batch) for batch in batches[worker::workers]] for worker in range(workers)]
        each += 1


@given(sizes=st.lists(st.integers(1, 100), max_size=60), budget=st.integers(100, 300), workers=st.integers(1, 3))
def test_a_steps_plan_is_that_of_the_fewest_micro_batches(sizes: list[int], budget: int, workers: int) -> None:
    assert plan(sizes, budget, SETTING, workers) == one_by_one(sizes, budget, workers)


@pytest.mark.parametrize("budget", [1024, 2048, 16384])
def test_a_large_steps_plan_is_that_of_the_fewest_micro_batches(budget: int) -> None:
    draw = random.Random(budget)
    sizes = [draw.randint(100, 1000) for _ in range(160)]
    assert plan(sizes, budget, SETTING, 2) == one_by_one(sizes, budget, 2)


def test_a_hundred_thousand_pairs_take_a_moment() -> None:
    """Begun again for each micro-batch that is added, they took minutes; of loads that are hard to make alike."""
    draw = random.Random(0)
    sizes = [draw.randint(300, 1700) for _ in range(100_000)]
    started = time.process_time()
    (batches,) = plan(sizes, 4096, SETTING)
    assert time.process_time() - started < 20
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    loads = [sum(sizes[index] for index in batch) for batch in batches]
    assert max(loads) <= 4096 and len(batches) < 1.25 * sum(sizes) / 4096
