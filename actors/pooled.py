"""What a pool's actors share (jobs/pool.py): they are opened once, and then make parts of a result."""

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from pipeline.errors import UserError


class Pooled(ABC):
    """An actor whose UserError in opening comes out of its first call: of what a constructor raises, Ray keeps the text
    alone."""

    def __init__(self, spec: Any):
        self.refusal: UserError | None = None
        try:
            self.open(spec)
        except UserError as error:
            self.refusal = error

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Make the parts that the rows of `batch` ask for; its column `part` names them."""
        if self.refusal:
            raise self.refusal
        done = [self._timed(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)]
        return {key: [row[key] for row in done] for key in done[0]}

    def _timed(self, work: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        return {"part": work["part"], **self.make(work), "seconds": time.perf_counter() - started}

    @abstractmethod
    def open(self, spec: Any) -> None:
        """Load what every part needs. Raises UserError where it cannot be."""

    @abstractmethod
    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Write the file work["part"], whole or not at all; returns its `rows` and `tokens`."""
