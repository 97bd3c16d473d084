"""Telling trackers of a training while it runs, each from a thread of its own: whatever they do, the training goes on.

A tracker that raises, or takes so long that steps pile up, is said once and told no more. What it has then is the curve
up to a step, with nothing left out: a training that goes on later sends the rest, and so does python -m jobs.track.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from actors.trackers import TRACKERS, Run, Tracker
from pipeline.training.figures import by_step

Row = Mapping[str, Any]  # of tables.STEPS
WAITING = 1000  # steps, some 5 MB, that may wait for a tracker
CLOSING_SECONDS = 30.0  # that trackers have at the end for what still waits


class Tracking:
    """Within it, `add` hands rows to all trackers and returns at once; left, they have had some time for the rest."""

    def __init__(
        self,
        names: Sequence[str],
        run: Run,
        begins: int,
        earlier: Callable[[], Iterable[Row]],
        say: Callable[[str], None],
        seconds: float = CLOSING_SECONDS,
    ):
        """`begins` is the step of the first row that is added; `earlier` are those before, from step 0.

        `say` is called by any thread.
        """
        self.senders = [_Sender(name, run, begins, earlier, say) for name in names]
        self.seconds = seconds

    def __enter__(self) -> Callable[[Row], None]:
        return self.add

    def __exit__(self, *_: object) -> None:
        until = time.monotonic() + self.seconds
        for sender in self.senders:
            sender.end()
        for sender in self.senders:
            sender.wait(until)

    def add(self, row: Row) -> None:
        for sender in self.senders:
            sender.add(row)


class _Sender:
    def __init__(
        self, name: str, run: Run, begins: int, earlier: Callable[[], Iterable[Row]], say: Callable[[str], None]
    ):
        self.name, self.run, self.begins, self.earlier, self.say = name, run, begins, earlier, say
        self.rows: queue.Queue[Row | None] = queue.Queue(WAITING)
        self.lock, self.given_up = threading.Lock(), False
        self.thread = threading.Thread(target=self._send, name=f"tracking-{name}", daemon=True)
        self.thread.start()

    def add(self, row: Row) -> None:
        if self.given_up:
            return
        try:
            self.rows.put_nowait(row)
        except queue.Full:
            self._give_up(f"{WAITING} steps wait for it")

    def end(self) -> None:
        with contextlib.suppress(queue.Full):
            self.rows.put_nowait(None)

    def wait(self, until: float) -> None:
        self.thread.join(max(0.0, until - time.monotonic()))
        if self.thread.is_alive():
            self._give_up("it still takes what it was sent, or hangs")

    def _send(self) -> None:
        try:
            tracker = TRACKERS[self.name](self.run)
            self.say(f"{self.name}: {tracker.where}")
            send(tracker, itertools.chain(self.earlier(), self._added()), self.begins)
            tracker.close()
        except (Exception, SystemExit) as error:
            self._give_up(in_a_line(error))

    def _added(self) -> Iterator[Row]:
        while (row := self.rows.get()) is not None and not self.given_up:
            yield row

    def _give_up(self, why: str) -> None:
        with self.lock:
            if self.given_up:
                return
            self.given_up = True
        self.say(
            f"{self.name} is told no more ({why}); the training goes on, and python -m jobs.track --to {self.name} "
            "sends what is missing"
        )


def send(tracker: Tracker, rows: Iterable[Row], begins: int = 0) -> int:
    """Tell a tracker of the steps that it has not got, of rows from step 0 on; returns of how many.

    Where it does not say what it has, it is told of those from `begins` on.
    """
    first, told = begins if tracker.first is None else tracker.first, 0
    for step, figures in by_step(rows):
        if step >= first:
            tracker.log(step, figures)
            told += 1
    return told


def in_a_line(error: BaseException) -> str:
    """What a library raised, short: some print pages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:240]
