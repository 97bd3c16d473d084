"""What is prepared ahead: in order, while the one before is used, from wherever a run goes on, with its errors."""

import threading

import pytest

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.training.epoch import Example, sizes
from pipeline.training.feeding import Feed, MicroBatch, Share


def example(number: int, prompt: int, chosen: int, rejected: int) -> Example:
    """With so many tokens."""
    logps, unknown = (-1.0, -2.0), (None, None)
    counts = (chosen, rejected)
    return Example(number, str(number), "preference", False, prompt, counts, logps, logps, unknown, None, None)


def tokens(example: Example) -> Tokens:
    lengths = (example.prompt, *example.counts)
    prompt, chosen, rejected = ([example.position] * length for length in lengths)
    return Tokens(prompt, chosen, rejected)


def shared(examples: list[Example], share: Share) -> tuple[list[MicroBatch], list[int]]:
    """The micro-batches of a share, and the positions of the examples whose tokens were read."""
    read: list[int] = []

    def reading(example: Example) -> Tokens:
        read.append(example.position)
        return tokens(example)

    planned = share.plan(sizes(examples))
    return list(share.micro_batches(planned, lambda index: [examples[i] for i in index], reading)), read


def test_the_next_is_prepared_while_one_is_used() -> None:
    begun = [threading.Event() for _ in range(4)]

    def prepare(k: int) -> tuple[int, str]:
        begun[k].set()
        return k, threading.current_thread().name

    feed = Feed(prepare, end=4)
    assert not begun[0].is_set()
    first, thread = feed.take(0)
    assert first == 0 and thread != threading.current_thread().name
    assert begun[1].wait(10) and not begun[2].is_set()
    assert feed.take(3)[0] == 3  # as after a checkpoint is loaded; what was prepared is not taken for it
    assert [feed.take(k)[0] for k in (1, 2, 3)] == [1, 2, 3]


def test_an_error_is_that_of_the_step_it_belongs_to() -> None:
    def prepare(k: int) -> int:
        if k == 1:
            raise UserError("one", "none")
        return k

    feed = Feed(prepare, end=2)
    assert feed.take(0) == 0
    with pytest.raises(UserError, match="one"):
        feed.take(1)


def test_every_worker_has_as_many_micro_batches_and_every_pair_is_one_workers() -> None:
    """Five pairs for three workers: one is left without, and computes the first pair for the others' sake."""
    examples = [example(i, 2, 3, 4 + i % 2) for i in range(5)]
    worked = [shared(examples, Share(10, "budget", rank, 3, pin=False)) for rank in range(3)]
    shares = [share for share, _ in worked]
    assert len({len(share) for share in shares}) == 1
    index = [micro.index for share in shares for micro in share]
    assert sorted(i for each in index for i in each) == list(range(5)) and index.count([]) == 1
    for micro in (micro for share in shares for micro in share):
        assert len(micro.recorded.chosen_tokens) == micro.pack.pairs == max(1, len(micro.index))
    for share, read in worked:  # tokens of its own pairs alone, but for that one
        assert read == [i for micro in share for i in micro.index or [0]]
    alone, _ = shared(examples, Share(100, "budget", 0, 1, pin=False))
    assert [micro.index for micro in alone] == [[0, 1, 2, 3, 4]]
    with pytest.raises(UserError, match="budget=5 is less than one pair of 10 tokens"):
        Share(5, "budget", 0, 1, pin=False).plan(sizes(examples))
