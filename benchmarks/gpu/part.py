"""What the parts share: figures that are written as soon as they are known, time and memory of a device.

The top imports no torch: the process that starts the parts has no use for it.
"""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """One part of the check. `small` rehearses it: every branch, tiny sizes."""

    name: str
    figures: Path  # a line of JSON a figure
    device: str
    small: bool
    share: int = 0  # of so many processes of the part, which one this is
    of: int = 1

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def note(self, **row: Any) -> None:
        line = json.dumps({"part": self.name} | {name: _short(value) for name, value in row.items()})
        print(line, flush=True)
        with open(self.figures, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    @contextmanager
    def trying(self, **what: Any) -> Iterator[None]:
        """What fails is a figure, too, and ends no more than what stands inside."""
        try:
            yield
        except Exception as error:
            self.note(**what, failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        finally:
            self.free()

    def synchronise(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], repeats: int = 5, warm: int = 2) -> float:
        """The median time of a call, all that it started on the device included."""
        times = []
        for _ in range(warm + repeats):
            self.synchronise()
            started = time.perf_counter()
            call()
            self.synchronise()
            times.append(time.perf_counter() - started)
        return statistics.median(times[warm:])

    def free(self) -> None:
        """Give back what nothing holds any more, and count the peak from here."""
        import torch

        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gib(self) -> float | None:
        import torch

        return torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return [_short(each) for each in value] if isinstance(value, list) else value
