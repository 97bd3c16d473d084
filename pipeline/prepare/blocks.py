"""A source in blocks of rows, each of which is read by itself, and the file that is made of one.

A block is the unit of work, and of re-work, of reading: what is made of it depends on its rows and on what the head of
the source decided, and on nothing else, so that blocks are made in any order, by any process. Where a block ends
depends on the rows alone.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline.preferences.rows import Held, Row, Rows, Unreadable
from pipeline.results.files import aside
from pipeline.results.tables import PAIRS

ROWS, BYTES = 2048, 8 << 20  # a block is full from so many rows on, or where they take so much

LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")

# What a block's rows became, in order: a pair, a pair that cannot be used (with a reason), or no pair (without an id).
OUTCOMES = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(field.with_nullable(True) for field in PAIRS),
        pa.field("mirrored_id", pa.string()),  # of the same pair with the label the other way round
        pa.field("prompt_id", pa.string()),
        pa.field("own_split", pa.string()),  # where the row names one
        pa.field("spelled", pa.bool_()),  # it looks rendered already
        pa.field("remarks", pa.string()),  # what is to be said of the chat template, as JSON; null for nothing
        pa.field("reason", pa.string()),  # why it is dropped; null where it is a pair
        pa.field("detail", pa.string()),
        pa.field("content", pa.string()),  # the row itself, which may yet be dropped as a copy of another
    ]
)


@dataclass(frozen=True)
class Block:
    number: int
    held: Sequence[Held]

    def __iter__(self) -> Iterator[tuple[int, Row | Unreadable]]:
        for held in self.held:
            yield from held

    @property
    def span(self) -> tuple[int, int, int]:
        """How many rows, and the numbers of the first and the last."""
        return sum(len(each.numbers) for each in self.held), self.held[0].numbers[0], self.held[-1].numbers[-1]


class Blocks:
    """The blocks of a source, in order, read as they are asked for."""

    def __init__(self, rows: Rows, most: int = ROWS):
        self._rest = cut(rows, most)
        self._ahead: deque[Block] = deque()

    def within(self, count: int) -> bool:
        """Whether the source ends within so many blocks: it is read that far, and held."""
        while len(self._ahead) <= count and (block := next(self._rest, None)):
            self._ahead.append(block)
        return len(self._ahead) <= count

    def __iter__(self) -> Iterator[Block]:
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._rest


def cut(rows: Rows, most: int = ROWS) -> Iterator[Block]:
    number, held, count, size = 0, list[Held](), 0, 0
    for each in rows.held():
        held.append(each)
        count += len(each.numbers)
        size += each.size
        if count >= most or size >= BYTES:
            yield Block(number, held)
            number, held, count, size = number + 1, [], 0, 0
    if held:
        yield Block(number, held)


@dataclass
class Findings:
    """What was come across while a block was read, beside its pairs."""

    shapes: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)  # read beside those that are always read
    message_keys: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)  # columns that held anything
    remarks: list[str] = field(default_factory=list)  # on the chat template, said once however often it was so
    ties: int = 0
    repeated: int = 0  # pairs of which an answer begins with the prompt


class Made(NamedTuple):
    """A block that is made: its number and span; the scale it was made with, and the one that holds after it."""

    number: int
    span: tuple[int, int, int]
    given: str | None
    scale: str | None


def file_of(folder: Path, number: int) -> Path:
    return folder / f"block-{number:07d}.arrow"


def write(table: pa.Table, path: Path, made: Made, findings: Findings) -> None:
    """Write a block's outcomes, whole or not at all."""
    facts = json.dumps({"made": made, "findings": asdict(findings)})
    path.parent.mkdir(exist_ok=True)
    schema = table.schema.with_metadata({"facts": facts})
    with aside(path) as beside, pa.ipc.new_file(str(beside), schema, options=LZ4) as file:
        file.write_table(table)


def facts(path: Path) -> tuple[Made, Findings]:
    """What a block's file says of itself."""
    with pa.OSFile(str(path)) as content:
        known = json.loads(pa.ipc.open_file(content).schema.metadata[b"facts"])
    number, span, given, scale = known["made"]
    return Made(number, tuple(span), given, scale), Findings(**known["findings"])


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a block's outcomes, or of another file that has them."""
    with pa.OSFile(str(path)) as content:
        there = pa.ipc.open_file(content).schema
        wanted = pa.ipc.IpcReadOptions(included_fields=[there.get_field_index(name) for name in columns])
        return pa.ipc.open_file(content, options=wanted).read_all().select(columns)
