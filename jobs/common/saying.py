"""What doors say, and when: lines for a terminal and a log file alike, and never a long silence."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def say(text: str) -> None:
    """One line to the terminal or the log file."""
    _now.said = time.monotonic()
    tell(f"[{time.strftime('%H:%M:%S')}] {text}")


# Control characters, and those that turn the direction of writing: in a terminal they act.
_ACTING = {
    code: ascii(chr(code))[1:-1]
    for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print text that may quote what a user's data or a model says: nothing in it acts on a terminal or fails.

    Where nobody reads it any more (`| head`), the process ends as other programs do.
    """
    stream = stream or sys.stdout
    shown = text.translate(_ACTING).encode(stream.encoding, "backslashreplace").decode(stream.encoding)
    try:
        stream.write(f"{shown}\n")  # in one call: another thread may be saying something, too
        stream.flush()
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)


class _Now:
    """What this process is at, since when, and when it last said something (seconds of time.monotonic)."""

    what = ""
    since = said = 0.0


_now = _Now()


def doing(what: str) -> None:
    """Name what begins now, for the lines of `heard`. It is said only where it takes long."""
    if what != _now.what:
        _now.what, _now.since = what, time.monotonic()


@contextmanager
def heard(name: str, every: float) -> Iterator[None]:
    """Within it no silence is longer than `every` seconds: then a line says what is being done, and for how long.

    Nothing is said of it afterwards.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(max(0.05, _now.said + every - time.monotonic())):
            if time.monotonic() - _now.said >= every:
                say(f"{name}: {_now.what}, {time.monotonic() - _now.since:.0f} s so far")

    before = _now.what, _now.since
    _now.said = time.monotonic()
    doing("at work")
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _now.what, _now.since = before


class Progress:
    """Lines of progress with rate and time left: the same in a terminal and in a log file.

    Where `lanes` are at work side by side, those beside the one that is just done count as half done: they began
    earlier than now, and mostly end together.
    """

    def __init__(self, what: str, total: int, unit: str, every: float, done: int = 0, lanes: int = 1):
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.begun = self.done = done
        self.beside = (lanes - 1) / 2
        self.started = self.said = time.monotonic()
        doing(f"{done} of {total} {unit} done")

    def add(self, count: int, note: str = "") -> None:
        self.done += count
        now = time.monotonic()
        doing(f"{self.done} of {self.total} {self.unit} done")
        if now - self.said >= 0.8 * self.every or self.done == self.total:  # before `heard` finds it silent
            rate = (self.done - self.begun) / max(now - self.started, 1e-9)
            left = self.left(now - self.started)
            say(f"{self.what}: {self.done}/{self.total} {self.unit}, {rate:.2g} {self.unit}/s, {left:.0f} s left{note}")
            self.said = now

    def left(self, seconds: float) -> float:
        """Seconds to the end, after so many."""
        made, remain = self.done - self.begun, self.total - self.done
        if not remain:
            return 0.0
        return max(0.0, remain - self.beside) * seconds / (made + self.beside) if made else float("inf")
