"""A source made into parts of pairs: blocks of rows, then what they are together, then parts.

Who makes blocks and parts is given: `map` for this process, or what spreads calls over a cluster. Neither who, nor in
which order, nor how many at a time has a part in what is written.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from pipeline.preferences.normalise import Look, Normaliser
from pipeline.preferences.rows import Rows
from pipeline.prepare import parts
from pipeline.prepare.account import Account, settle
from pipeline.prepare.blocks import ROWS, Block, Blocks, Made, facts, file_of
from pipeline.prepare.copies import Copies, find_copies, find_shared_prompts
from pipeline.settings.inputs import Data

BLOCKS = "blocks"  # a folder within the stage's, of what is there until the parts are
DROPPED = "dropped.parquet"
BlockJob = tuple[Block, Look, Path]


class Spread(Protocol):
    """Calls a function with each of some jobs, which are read as they are needed; answers in any order."""

    def __call__(self, function: Callable[[Any], Any], jobs: Iterable[Any], /) -> Iterable[Any]: ...


class Preparation:
    """Makes the pairs of `rows` into `folder`. What an earlier, killed run made of its blocks is kept.

    Pairs that are `own` were made by a stage here: an answer of theirs is whole, though it begin with its prompt.
    Raises UserError where the first rows show that the source is not what was meant; see Normaliser.
    """

    def __init__(self, rows: Rows, data: Data, folder: Path, rows_a_block: int = ROWS, own: bool = False):
        self.rows, self.data, self.folder, self.rows_a_block = rows, data, folder, rows_a_block
        self.normaliser = Normaliser(rows, data.columns, data.difficulty_column, data.pairing)
        self.normaliser.repeats &= not own
        self.look = self.normaliser.look
        self.made: dict[int, Made] = {}
        self.blocks = Blocks(rows, rows_a_block)
        self.between = folder / BLOCKS

    def read(self, make: Callable[[BlockJob], Made], spread: Spread = map) -> Iterator[int]:
        """Make what is not there of all blocks. Yields how many rows are read so far.

        What scores are of is decided by the first row that has any. Where that is not among the head of the source,
        blocks may have been made before it was known, and those are made again.
        """
        while True:
            for made in spread(make, self._jobs()):
                self.made[made.number] = made
                yield sum(each.span[0] for each in self.made.values())
            if all(made.given == self._scale(number) for number, made in self.made.items()):
                return
            self.blocks = Blocks(self.rows, self.rows_a_block)

    def _jobs(self) -> Iterator[BlockJob]:
        for block in self.blocks:
            given = self._scale(block.number)
            made = self.made.get(block.number) or self._left_by_an_earlier_run(block)
            if made and made.given == given:
                self.made[block.number] = made
            else:
                yield block, self.look._replace(scale=given), self.between

    def _left_by_an_earlier_run(self, block: Block) -> Made | None:
        try:
            made, _ = facts(file_of(self.between, block.number))
        except (OSError, pa.ArrowInvalid):
            return None
        return made if made.span == block.span else None

    def _scale(self, number: int) -> str | None:
        """What is known of the scale before a block: by the head, or by the blocks before it that are made."""
        if self.look.scale is not None:
            return self.look.scale
        found = (number for number, made in self.made.items() if made.scale is not None)
        first = min(found, default=number)
        return self.made[first].scale if first < number else None

    @property
    def files(self) -> list[Path]:
        return [file_of(self.between, number) for number in sorted(self.made)]

    def settle(self) -> tuple[Copies, Account]:
        """Decide which copies are kept and write the dropped rows, now that all blocks are there."""
        files, total = self.files, sum(made.span[0] for made in self.made.values())
        copies = find_copies(files, total, self.between)
        account = settle(files, copies, self.folder / DROPPED)
        if len(account.splits) > 1:
            account.shared_prompts = find_shared_prompts(files, copies, total, self.between)
        return copies, account

    def write(self, copies: Copies, spread: Spread = map, firsts: Sequence[int] = ()) -> Iterator[parts.Written]:
        """Write the parts. `firsts`: where the rows are several results joined, the row that each begins with."""
        for earlier in (*self.folder.glob("part-*.parquet"), *self.folder.glob(f"{parts.CHANGED}-*.parquet")):
            earlier.unlink()
        pieces = parts.by_row(self.files, copies)
        if self.data.limit is not None:
            pieces = parts.lowest(self.files, copies, self.data.limit, self.between)
        jobs = parts.jobs(pieces, self.data.shard_pairs, self.folder, self.data.changed_tokens, firsts)
        yield from spread(parts.write_parts, jobs)

    def clear(self) -> None:
        """Remove what the parts were made of."""
        shutil.rmtree(self.between, ignore_errors=True)


def prepare_here(make: Callable[[BlockJob], Made], rows: Rows, data: Data, folder: Path) -> Account:
    """The whole of it in this process."""
    preparation = Preparation(rows, data, folder)
    for _ in preparation.read(make):
        pass
    copies, account = preparation.settle()
    for _ in preparation.write(copies):
        pass
    preparation.clear()
    return account
