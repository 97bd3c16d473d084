"""KTO's mismatched answers: each prompt of a step with an answer to another one, by which the KL is estimated.

Which answer is decided by the schedule's step alone, and not by what a worker or a micro-batch holds of it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.compute.layout import Tokens
from pipeline.results import tables
from pipeline.training.epoch import Epoch, Example


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


def write_asked(epoch: Epoch, folder: Path, size: int, positions: int | None) -> Counter[str]:
    """Write what is to be scored once as parts of tables.ASKED, `size` rows each, named by position in the schedule.

    Returns how many there are (`asked`), and how many are left out and why: another answer to the same prompt is not
    mismatched, and a model of so many `positions` may not take the prompt with the other's answer.
    """
    counts: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for each in (each for k in range(epoch.steps) for each in rotated(epoch.step(k))):
            tokens = each.tokens(epoch.tokens)
            if positions is not None and each.packed > positions:
                counts["longer-than-model"] += 1
            elif np.array_equal(tokens.prompt, epoch.tokens(each.answer).prompt):
                counts["same-prompt"] += 1
            else:
                counts["asked"] += 1
                ids = dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), map(list, tokens), strict=True))
                yield {"pair_id": str(each.prompt.position), **ids}

    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(tables.parts(rows(), size)):
        tables.write(part, tables.ASKED, folder / f"part-{number:05d}.parquet")
    return counts
