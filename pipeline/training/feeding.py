"""What a worker computes of a step, prepared by a thread while the step before it is computed.

All workers plan a whole step alike from the lengths of its pairs; tokens are read of a worker's own pairs alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.compute.layout import Pack, Tokens, lay_out
from pipeline.compute.packing import plan
from pipeline.objectives.batch import PairBatch
from pipeline.training.epoch import Example, Sparse
from pipeline.training.mismatched import Mismatched
from pipeline.training.rows import recorded

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """Pairs that are computed together. Lies on the host, its pack pinned where a GPU will fetch it."""

    index: list[int]  # of which pairs; none where the worker has none left, and computes one for the others' sake
    pack: Pack
    recorded: PairBatch
    features: list[tuple[Sparse, Sparse]] | None = None  # as cached, of each pair's sides


@dataclass(frozen=True)
class Prepared:
    examples: Sequence[Example]  # the whole step's
    micro_batches: list[MicroBatch]  # this worker's; as many as any other's
    mismatched: Sequence[Mismatched] = ()  # the whole step's, where the objective asks for them
    mismatched_packs: Sequence[tuple[list[int], Pack]] = ()  # this worker's of them, as micro-batches are


@dataclass(frozen=True)
class Share:
    """How pairs are shared out over workers and micro-batches: at most `budget` packed tokens each."""

    budget: int
    setting: str  # the budget's name
    rank: int
    world: int
    pin: bool
    record: Callable[[Sequence[Example]], PairBatch] = recorded  # what is known of pairs before they are computed

    def plan(self, sizes: Sequence[int]) -> list[list[int]]:
        """Which pairs this worker's micro-batches hold, of pairs of so many packed tokens.

        Raises UserError where one pair exceeds the budget.
        """
        return plan(sizes, self.budget, self.setting, self.world)[self.rank]

    def micro_batches(
        self,
        planned: Iterable[list[int]],
        examples: Callable[[list[int]], Sequence[Example]],
        tokens: Callable[[Example], Tokens],
        features: Callable[[Example], tuple[Sparse, Sparse]] | None = None,
    ) -> Iterator[MicroBatch]:
        """What was planned, each micro-batch read and laid out when it is its turn.

        One without pairs computes the first pair all the same, with no index: the others wait for it to gather weights.
        """
        for index in self._computed(planned):
            computed = examples(index or [0])
            cached = [features(example) for example in computed] if features else None
            yield MicroBatch(index, self._laid_out(map(tokens, computed)), self.record(computed), cached)

    def packs(self, planned: Iterable[list[int]], tokens: Callable[[int], Tokens]) -> Iterator[tuple[list[int], Pack]]:
        """The same of what is no pair: which of them, and their pack."""
        for index in self._computed(planned):
            yield index, self._laid_out(map(tokens, index or [0]))

    def _computed(self, planned: Iterable[list[int]]) -> Iterator[list[int]]:
        return (index for index in planned if index or self.world > 1)

    def _laid_out(self, tokens: Iterable[Tokens]) -> Pack:
        pack = lay_out([*tokens])
        return pack.pinned() if self.pin else pack


class Feed(Generic[T]):
    """The results of `prepare(0)`, `prepare(1)`, ... up to `end`, each made while the one before it is used."""

    def __init__(self, prepare: Callable[[int], T], end: int):
        self.prepare, self.end = prepare, end
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="feed")
        self.ahead: tuple[int, Future[T]] | None = None

    def take(self, k: int) -> T:
        """What was prepared as number k; whatever that raised is raised here."""
        future = self.ahead[1] if self.ahead and self.ahead[0] == k else self.thread.submit(self.prepare, k)
        self.ahead = None
        taken = future.result()
        if k + 1 < self.end:
            self.ahead = k + 1, self.thread.submit(self.prepare, k + 1)
        return taken
