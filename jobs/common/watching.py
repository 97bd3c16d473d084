"""What a door does while Ray Train runs: it says how far the workers are, and hands on what it is asked by signals."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.common.saying import Progress, doing, say
from jobs.common.stage import Terminated


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as everywhere else: Ray Train's own handler would end the process with status 0, and stays behind."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def stoppable(file: Path) -> Iterator[threading.Event]:
    """SIGTERM asks the workers, by a file, to write a checkpoint after the step they are at, and to end.

    The event says that it did.
    """
    file.unlink(missing_ok=True)
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        file.touch()
        say("train: asked to end; after this step and a checkpoint")

    handler = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, handler)
    if asked.is_set():
        file.unlink(missing_ok=True)
        raise Terminated


class watched:
    """While Ray Train runs, says what the first worker last wrote of its steps, and notes what else it is at.

    How it runs the model is said once.
    """

    def __init__(self, folder: Path, every: float):
        from actors.training import NOTE, PHASE, PROGRESS, TRACKED

        self.file, self.phase, self.note, self.tracked = (folder / x for x in (PROGRESS, PHASE, NOTE, TRACKED))
        self.every, self.stop, self.lines = every, threading.Event(), 0  # of what there was to say of trackers
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        for file in (self.file, self.phase, self.note, self.tracked):
            file.unlink(missing_ok=True)
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self._tell_tracked()

    def _tell_tracked(self) -> None:
        if self.tracked.exists():
            *lines, _ = self.tracked.read_text(encoding="utf-8").split("\n")  # the last is not whole, or empty
            for line in lines[self.lines :]:
                say(f"train: {line}")
            self.lines = len(lines)

    def _watch(self) -> None:
        progress, began, phase, told, workers = None, None, "", False, 0
        while not self.stop.wait(1.0):
            self._tell_tracked()
            if not told and self.note.exists():
                told = True
                say(f"train: {self.note.read_text(encoding='utf-8')}")
            if self.file.exists():
                record = json.loads(self.file.read_text(encoding="utf-8"))
                steps, resumed = record["steps"], record["resumed"]
                if progress is None or record["began"] != began:
                    if progress and record["workers"] == workers:
                        say("train: a worker died or failed, and all began anew")
                    elif progress:
                        say(f"train: goes on with {record['workers']} workers in place of {workers}")
                    workers = record["workers"]
                    progress, began = Progress("train", steps, "steps", self.every, done=resumed), record["began"]
                    progress.started -= max(0.0, time.time() - began)  # its first steps are done when they are seen
                    if resumed:
                        say(f"train: {resumed} of {steps} steps are in a checkpoint and kept")
                if record["step"] + 1 > progress.done:
                    progress.add(record["step"] + 1 - progress.done, f", loss {record['loss']:.4f}")
            if self.phase.exists() and (at := self.phase.read_text(encoding="utf-8")) != phase:
                phase = at
                doing(phase)
