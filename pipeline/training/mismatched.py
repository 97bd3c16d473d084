"""KTO's mismatched answers: each prompt of a step with an answer to another one, by which the KL is estimated.

Which answer is decided by the schedule's step alone, and not by what a worker or a micro-batch holds of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.compute.layout import Tokens
from pipeline.training.epoch import Example


@dataclass(frozen=True)
class Mismatched:
    """The prompt of one example, and a side of another's: 0 for what it has as chosen, 1 for rejected."""

    prompt: Example
    answer: Example
    side: int

    @property
    def length(self) -> int:
        """Tokens of the answer."""
        return self.answer.counts[self.side]

    @property
    def packed(self) -> int:
        return self.prompt.prompt + self.length

    def tokens(self, of: Callable[[Example], Tokens]) -> Tokens:
        """As a pair without a rejected side; `of` reads an example's."""
        return Tokens(of(self.prompt).prompt, of(self.answer)[1 + self.side], ())


def rotated(examples: Sequence[Example]) -> list[Mismatched]:
    """Of a step's preference pairs, in its order: each prompt gets an answer of the next pair, the last of the first.

    Chosen and rejected ones in turn, so that half are of either. A step of one pair has none.
    """
    pairs = [example for example in examples if example.route == "preference"]
    if len(pairs) < 2:
        return []
    nexts = [*pairs[1:], pairs[0]]
    return [Mismatched(pair, other, place % 2) for place, (pair, other) in enumerate(zip(pairs, nexts, strict=True))]
