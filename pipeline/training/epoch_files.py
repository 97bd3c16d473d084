"""The epoch's table: its files, a row of it, and what it is joined from. join.py writes it, epoch.py reads it.

tokens      of each pair that is needed its three lists of ids, each after its length: int32
values      of each pair a checksum, and every column of values of both sides' tokens, where there are any: float32
scheduled   a row a position of the schedule, in its order, without those of route drop
held_out    a row a held-out pair, in the order of their ids
features    where the objective looks at any: of each pair its sides' latents and values, as of `packed_features`
features_at where each pair's begin in it, by the pair's number, and where the last one ends: int64
once        the positions where a pair routed to preference stands for the first time: int64
epoch.json  what it was made of, and what the other files must be
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

TOKENS, VALUES, SCHEDULED, HELD_OUT, ONCE = "tokens", "values", "scheduled", "held_out", "once"
FEATURES, FEATURES_AT, ABOUT = "features", "features_at", "epoch.json"
LENGTHS = ("prompt", "chosen", "rejected")  # in tokens
SUMS = ("chosen_logps", "rejected_logps")  # as they are cached of the reference
STARTS = ("start_chosen_logps", "start_rejected_logps")  # and of the model that training starts from
LABELS = ("chosen_score", "rejected_score", "label_confidence")
FORMAT = 4  # raised when a table that was left by a killed run could not be read any more
MOST_SOURCES = 10_000  # whose names are kept; a column of more names no sources of labels, such as one of addresses
Numbers = npt.NDArray[np.integer[Any]]


class Line(NamedTuple):
    """The tables of a stream: of a line of its own up to its schedule.

    `start` holds log-probs as `reference` does, of the model that training starts from where that is another one.
    """

    pairs: Path
    reference: Path
    schedule: Path
    start: Path | None = None
    features: Path | None = None  # tables.FEATURES

    @property
    def scores(self) -> tuple[Path, Path]:
        return self.reference, self.start or self.reference


def row_type(id_bytes: int) -> np.dtype[np.void]:
    """A row of `scheduled` or `held_out`, pair ids of at most so many bytes. NaN: unknown.

    Everything is as the data says it; whoever reads a row exchanges the sides where it is flipped.
    """
    return np.dtype(
        [
            ("pair_id", f"S{max(1, id_bytes)}"),
            ("tokens_digest", "V32"),  # of its bytes in `tokens`, and of what the reference scored
            ("start", "<i8"),  # where these begin, in numbers
            ("values", "<i8"),  # where its values begin in `values`, in numbers
            *((name, "<i4") for name in LENGTHS),
            *((name, "<f8") for name in (*SUMS, *STARTS)),
            *((name, "<f8") for name in LABELS),
            ("mismatched", "<f8"),  # the cached log-prob of another pair's answer to its prompt; see mismatched.py
            ("source", "<i4"),  # its place in `sources` of ABOUT
            ("stream", "<i4"),
            ("number", "<i4"),  # of the pair, among all that are needed
            ("difficulty", "<f8"),
            ("preference", "?"),  # not sft
            ("flipped", "?"),
        ]
    )


@dataclass(frozen=True)
class More:
    """What some objectives read beside the three tables.

    `values`: columns of numbers a token by name, each the folder and the pattern of its files, of tables.TOKEN_VALUES;
    with a column `reference`, sums of log-probs are those of its tokens. `mismatched`: a folder of tables.REFERENCE,
    a row a position of the schedule.
    """

    values: Mapping[str, tuple[Path, str]] = field(default_factory=dict)
    mismatched: Path | None = None


@dataclass(frozen=True)
class Wanted:
    """Which pairs are needed, N of the P in the pairs table, numbered in its order; and where."""

    needed_P: npt.NDArray[np.bool_]
    scheduled: Numbers  # of each position, the number of its pair
    held_out: Numbers  # the same, in the order of their ids
    id_bytes: int
