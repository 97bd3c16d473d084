"""What a pool's actors share (jobs/common/pool.py): they are opened once, and then make parts of a result."""

import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from actors import metrics


class Pooled(ABC):
    """An actor that opens what it needs and makes its parts in one thread of its own.

    Ray Data calls from another thread than the constructor's. Two threads that compute have two of OpenMP's teams, and
    with more threads than cores those no longer spin where they wait for each other, but sleep (docs/performance.md).
    What opening raises comes out of the first call: of what a constructor raises, Ray keeps the text alone.
    """

    def __init__(self, spec: Any, stage: str):
        """`stage` is the one whose parts it makes, for metrics: several have parts made by one kind of actor."""
        self.stage = stage
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.opened = self.thread.submit(self.open, spec)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Make the parts that the rows of `batch` ask for; its column `part` names them."""
        self.opened.result()
        rows = zip(*batch.values(), strict=True)
        done = list(self.thread.map(self._timed, [dict(zip(batch, row, strict=True)) for row in rows]))
        return {key: [row[key] for row in done] for key in done[0]}

    def _timed(self, work: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        done = {"part": work["part"], **self.make(work), "seconds": time.perf_counter() - started}
        metrics.made(self.stage, done["rows"], done["tokens"])
        return done

    @abstractmethod
    def open(self, spec: Any) -> None:
        """Load what every part needs. Raises UserError where it cannot be."""

    @abstractmethod
    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Write the file work["part"], whole or not at all; returns its `rows` and `tokens`."""
