"""What a source of data is: numbered rows, held as the source has them until somebody reads them.

What a source gives is cheap to get, one lot after the other; what is dear, such as parsing JSON, is left to whoever
needs the rows, in this process or another: a `Held` can be pickled.
"""

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

Row = dict[str, Any]

LOT_ROWS, LOT_BYTES = 64, 1 << 20  # as many rows are held together, or fewer where they are long


@dataclass(frozen=True)
class Unreadable:
    """A row that is there but cannot be parsed; `content` is how it begins."""

    detail: str
    content: str = ""


@dataclass(frozen=True)
class Held:
    """Some rows as their source has them, of about `size` bytes, and what reads them: one for each number."""

    numbers: Sequence[int]
    content: Any
    parse: Callable[[Any], Sequence[Row | Unreadable]]
    size: int

    def __iter__(self) -> Iterator[tuple[int, Row | Unreadable]]:
        return zip(self.numbers, self.parse(self.content), strict=True)


@dataclass(frozen=True)
class Rows:
    """Numbered rows, counted from 1 (in JSON Lines: the line's number). Every iteration reads the source anew."""

    held: Callable[[], Iterator[Held]]

    def __iter__(self) -> Iterator[tuple[int, Row | Unreadable]]:
        return itertools.chain.from_iterable(self.held())

    @classmethod
    def of(cls, read: Callable[[], Iterable[tuple[int, Row | Unreadable]]]) -> "Rows":
        """Rows that are parsed as soon as they are got."""
        return cls(lambda: lots(((number, _packed(row)) for number, row in read()), pickle.loads))


@dataclass(frozen=True)
class Source:
    """An opened source. `identity` says what the content is: a sha256, or a hub name with its commit and split."""

    rows: Rows
    loader: str  # jsonl | json | csv | parquet | arrow, several joined by +, or hub
    identity: dict[str, str | None]


def lots(numbered: Iterable[tuple[int, bytes]], parse: Callable[[bytes], Row | Unreadable]) -> Iterator[Held]:
    """Rows that are bytes, a lot at a time; `parse` reads one."""
    numbers, content, size = list[int](), list[bytes](), 0
    for number, each in numbered:
        numbers.append(number)
        content.append(each)
        size += len(each)
        if len(numbers) == LOT_ROWS or size >= LOT_BYTES:
            yield Held(numbers, content, partial(_each, parse), size)
            numbers, content, size = [], [], 0
    if numbers:
        yield Held(numbers, content, partial(_each, parse), size)


def _each(parse: Callable[[bytes], Row | Unreadable], content: list[bytes]) -> list[Row | Unreadable]:
    return [parse(each) for each in content]


def _packed(row: Row | Unreadable) -> bytes:
    try:
        return pickle.dumps(row)
    except RecursionError as error:  # nested beyond reason
        return pickle.dumps(Unreadable(f"{type(error).__name__}: {error}"))
