"""The training set as the schedule orders it, read a step at a time from the table on disk that join.py writes.

Nothing of it is kept in memory, however many pairs there are: a step's rows are one read, and of its token ids a worker
reads those of its own pairs. Reads, not a mapping: every page that a mapping has touched counts as the worker's memory.
"""

import hashlib
import json
import math
import os
import weakref
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.training.epoch_files import (
    ABOUT,
    FEATURES,
    FEATURES_AT,
    HELD_OUT,
    LENGTHS,
    ONCE,
    SCHEDULED,
    TOKENS,
    VALUES,
    row_type,
)

_AT_A_TIME = 1 << 14  # rows of held-out pairs
Sides = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # chosen and rejected, a number a token


class Sparse(NamedTuple):
    """Features that are not 0: which, in rising order, and their values."""

    latents: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def at(self, latents: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The values of these latents; 0 of one that is not here."""
        if not len(self.latents):
            return np.zeros(len(latents))
        places = np.searchsorted(self.latents, latents).clip(max=len(self.latents) - 1)
        return np.where(self.latents[places] == latents, self.values[places], 0.0).astype(np.float64)


@dataclass(frozen=True)
class Example:
    """One scheduled pair as it is trained: after a flip, `chosen` is what the noisy label says."""

    position: int
    pair_id: str
    route: str
    flipped: bool
    prompt: int  # tokens
    counts: tuple[int, int]  # completion tokens, chosen and rejected
    reference: tuple[float, float]  # cached log-prob sums, chosen and rejected
    untrained: tuple[float, float]  # the same of the model that training starts from, mostly the reference itself
    # What follows is as the data says it, never exchanged by a flip: no method can see one.
    scores: tuple[float | None, float | None]  # of the completions labelled chosen and rejected
    label_confidence: float | None  # P(the completion labelled chosen is preferred)
    difficulty: float | None  # as schedule.difficulty measures it, larger is harder; None where held out
    start: int = 0  # where its token ids lie in the table
    tokens_digest: bytes = b""  # and what they are
    source: int = 0  # of the data's sources, by its place in Epoch.sources
    values: int = 0  # where the values of its tokens lie in the table
    mismatched: float | None = None  # cached log-prob of another pair's answer to its prompt; see mismatched.py
    stream: int = 0  # by its place in Epoch.streams
    number: int = 0  # of all pairs of the table, held-out ones too

    @property
    def packed(self) -> int:
        """Its tokens in a pack: where it is routed to SFT, it has no rejected side there."""
        return self.prompt + self.counts[0] + (self.counts[1] if self.route == "preference" else 0)


class Epoch:
    """Every optimiser step's examples: step k holds positions k * batch_size to (k + 1) * batch_size - 1.

    `folder` is what join.py wrote. Any number of threads may read at once.
    """

    def __init__(self, folder: Path, batch_size: int):
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        row = row_type(about["id_bytes"])
        self.folder, self.batch_size = folder, batch_size
        self._scheduled, self._held_out = (_Stored(folder / name, row) for name in (SCHEDULED, HELD_OUT))
        self._once, self._tokens = _Stored(folder / ONCE, "<i8"), _Stored(folder / TOKENS, "<i4")
        self._values, self.columns = _Stored(folder / VALUES, "<f4"), tuple(about["values"])
        at = folder / FEATURES_AT
        self._features = (_Stored(folder / FEATURES, "u1"), _Stored(at, "<i8")) if at.exists() else None
        self._lacking: dict[str, str | None] = about["lacking"]
        self.sources: list[str] | None = about["sources"]  # None: more than epoch_files.MOST_SOURCES
        self.streams: dict[str, int] = dict(
            zip(about["streams"], about["positions"], strict=True)
        )  # by name, positions
        self._once_each: list[int] = about["once"]

    @property
    def steps(self) -> int:
        return -(-len(self._scheduled) // self.batch_size)

    def step(self, k: int) -> list[Example]:
        """The examples of optimiser step k, in schedule order."""
        first = k * self.batch_size
        return _examples(first, self._scheduled.read(first, self.batch_size))

    def tokens(self, example: Example) -> Tokens:
        """The token ids of an example of this epoch, read now. Raises UserError where they are not as written."""
        chosen, rejected = example.counts[::-1] if example.flipped else example.counts
        ids: Any = self._tokens.read(example.start, 3 + example.prompt + chosen + rejected)
        if hashlib.sha256(ids).digest() != example.tokens_digest:
            raise self._spoilt(example, "token ids", TOKENS)
        parts: list[Any] = np.split(ids, (1 + example.prompt, 2 + example.prompt + chosen))
        prompt, one, other = (part[1:] for part in parts)  # each begins with its length
        if example.flipped:
            one, other = other, one
        return Tokens(prompt, one, other if example.route == "preference" else other[:0])

    @property
    def has_features(self) -> bool:
        return self._features is not None

    def features(self, example: Example) -> tuple[Sparse, Sparse]:
        """The cached features of an example's sides. Raises UserError where they are not as written."""
        assert self._features
        stored, at = self._features
        begin, end = at.read(example.number, 2).tolist()
        found = stored.read(begin, end - begin)
        chosen, rejected, checksum = found[:12].view("<u4").tolist()
        if zlib.crc32(found[12:].tobytes()) != checksum:
            raise self._spoilt(example, "features", FEATURES)
        numbers = [chosen, rejected, chosen, rejected]
        parts = np.split(found[12:], np.cumsum([4 * each for each in numbers])[:-1])
        sides = [Sparse(parts[side].view("<i4"), parts[side + 2].view("<f4")) for side in (0, 1)]
        return (sides[1], sides[0]) if example.flipped else (sides[0], sides[1])

    def token_values(self, example: Example) -> dict[str, Sides]:
        """Of each of `columns` a number for every token of both sides as they are trained; read now.

        Raises UserError where they are not as written.
        """
        sides = example.counts[::-1] if example.flipped else example.counts
        lengths = [*sides] * len(self.columns)
        found: Any = self._values.read(example.values, 1 + sum(lengths))
        if zlib.crc32(found[1:].tobytes()) != int(found[:1].view("<u4")[0]):
            raise self._spoilt(example, "token values", VALUES)
        parts = np.split(found[1:], np.cumsum(lengths)[:-1])
        one, other = parts[::2], parts[1::2]
        if example.flipped:
            one, other = other, one
        if example.route != "preference":
            other = [each[:0] for each in other]
        return dict(zip(self.columns, zip(one, other, strict=True), strict=True))

    def _spoilt(self, example: Example, what: str, file: str) -> UserError:
        problem = f"pair {example.pair_id}: its {what} in {self.folder / file} are not as they were written"
        return UserError(problem, f"remove {self.folder}; the same command writes it again")

    def preference_examples(self, count: int, stream: int = 0) -> list[Example]:
        """Up to `count` of a stream's pairs routed to preference, each once, spread evenly over the schedule, in its
        order.
        """
        before, known = sum(self._once_each[:stream]), self._once_each[stream]
        count = min(count, known)
        positions = (int(self._once.read(before + i * known // count, 1)[0]) for i in range(count))
        return self._each(self._scheduled, positions)

    def first_without(self, column: str) -> str | None:
        """The first pair routed to preference whose `column` (epoch_files.LABELS) is null, if there is one."""
        return self._lacking[column]

    @property
    def held_out_pairs(self) -> int:
        return len(self._held_out)

    def held_out_sizes(self) -> list[int]:
        """Packed tokens of each held-out pair, in the order of their ids."""
        firsts = range(0, len(self._held_out), _AT_A_TIME)
        rows = (self._held_out.read(first, _AT_A_TIME) for first in firsts)
        return [sum(lengths) for each in rows for lengths in each[list(LENGTHS)].tolist()]

    def held_out(self, index: Iterable[int]) -> list[Example]:
        """Held-out pairs by their place in the order of ids; never flipped, never routed."""
        return self._each(self._held_out, index)

    def _each(self, stored: "_Stored", index: Iterable[int]) -> list[Example]:
        return [_examples(i, stored.read(i, 1))[0] for i in index]


def _examples(first: int, rows: npt.NDArray[Any]) -> list[Example]:
    """Rows of the table, the first one at position `first`."""
    names = rows.dtype.names or ()
    return [_example(position, dict(zip(names, row, strict=True))) for position, row in enumerate(rows.tolist(), first)]


def _example(position: int, row: Mapping[str, Any]) -> Example:
    """`row` is of epoch_files.row_type."""

    def known(name: str) -> float | None:
        value: float = row[name]
        return None if math.isnan(value) else value

    one, other = ("rejected", "chosen") if row["flipped"] else ("chosen", "rejected")
    return Example(
        position,
        row["pair_id"].decode(),
        "preference" if row["preference"] else "sft",
        row["flipped"],
        row["prompt"],
        counts=(row[one], row[other]),
        reference=(row[f"{one}_logps"], row[f"{other}_logps"]),
        untrained=(row[f"start_{one}_logps"], row[f"start_{other}_logps"]),
        scores=(known("chosen_score"), known("rejected_score")),
        label_confidence=known("label_confidence"),
        difficulty=known("difficulty"),
        start=row["start"],
        tokens_digest=row["tokens_digest"],
        source=row["source"],
        values=row["values"],
        mismatched=known("mismatched"),
        stream=row["stream"],
        number=row["number"],
    )


class _Stored:
    """Items of one type in a file, read where they are asked for."""

    def __init__(self, file: Path, kind: npt.DTypeLike):
        self.file, self.kind = file, np.dtype(kind)
        self.descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)
        self.items = os.fstat(self.descriptor).st_size // self.kind.itemsize

    def __len__(self) -> int:
        return self.items

    def read(self, first: int, count: int) -> npt.NDArray[Any]:
        """Up to `count` items; fewer at the end, where there are no more."""
        count, size = max(0, min(count, self.items - first)), self.kind.itemsize
        found = os.pread(self.descriptor, count * size, first * size)
        if len(found) != count * size:
            raise OSError(f"{self.file} ends before item {first + count}")
        return np.frombuffer(found, self.kind)


def sizes(examples: Sequence[Example]) -> list[int]:
    """Packed tokens of each example."""
    return [example.packed for example in examples]
