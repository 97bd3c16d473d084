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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compute.layout import Tokens
from pipeline.errors import UserError
from pipeline.training.join import ABOUT, HELD_OUT, LENGTHS, ONCE, SCHEDULED, TOKENS, VALUES, row_type

_AT_A_TIME = 1 << 14  # rows of held-out pairs
Sides = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # chosen and rejected, a number a token


def sizes(examples: Sequence[Example]) -> list[int]:
    """Packed tokens of each example."""
    return [example.packed for example in examples]
