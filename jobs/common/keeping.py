"""Finished files of an unfinished result, on their way into the store beside the work; nothing where there is none.

What was kept is a help for another machine, and all of it is here, too: where the store does not take it, that is said,
and the work goes on. What is committed must get there (pipeline/results/store.py).
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from jobs.common.saying import say
from pipeline.errors import UserError
from pipeline.results.address import Address

HELD = "held"  # where a checkpoint is held by hard links while it is copied: Ray Train removes it after the next


class Keeping:
    """One thread that copies files up in the order in which they are finished; left, it has copied all of them."""

    def __init__(self, address: Address, what: str):
        self.address, self.what, self.failed = address, what, False
        self.thread = ThreadPoolExecutor(max_workers=1) if address.store else None

    def __enter__(self) -> "Keeping":
        return self

    def __exit__(self, *_: object) -> None:
        if self.thread:
            self.thread.shutdown()

    def parts(self, *names: str) -> None:
        """Keep files of the unfinished folder."""
        self.then(lambda: self.address.keep({name: self.address.partial / name for name in names}))

    def missing(self, names: Iterable[str]) -> None:
        """The same of those that the store has not got, as where a run was killed before they were there."""
        finished = {name: self.address.partial / name for name in names}

        def copy() -> None:
            kept = self.address.kept()
            self.address.keep({name: file for name, file in finished.items() if name not in kept})

        self.then(copy)

    def then(self, copy: Callable[[], None]) -> None:
        if self.thread:
            self.thread.submit(self._try, copy)

    def _try(self, copy: Callable[[], None]) -> None:
        try:
            copy()
        except (UserError, OSError) as error:
            if not self.failed:
                say(f"{self.what}: unfinished parts are not kept in the store ({str(error).splitlines()[0]})")
            self.failed = True


class CheckpointsKept:
    """Within it, the newest checkpoint that Ray Train knows is kept, with the rows of the steps before it.

    The checkpoint before is no longer.
    """

    def __init__(self, keeping: Keeping, ray: Path, journal: Path, snapshot: str, known: Callable[[], set[str]]):
        """`ray`: Ray Train's folder; `snapshot`: its list of the checkpoints that it knows, of which `known` reads.

        `journal`: the folder of the rows' parts, all of which are there before the checkpoint that covers them.
        """
        self.keeping, self.ray, self.journal, self.snapshot, self.known = keeping, ray, journal, snapshot, known
        self.kept: str | None = None
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        shutil.rmtree(self.ray / HELD, ignore_errors=True)
        if self.keeping.thread:
            self.watcher.start()

    def __exit__(self, error: object, *_: object) -> None:
        self.ended.set()
        if self.keeping.thread:
            self.watcher.join()
            if error:  # where all went well, the model is there
                self._look()

    def _watch(self) -> None:
        while not self.ended.wait(1.0):
            if not any((self.ray / HELD).glob("*")):  # the one before is copied
                self._look()

    def _look(self) -> None:
        newest = max(self.known(), key=_step, default=None)
        if newest is None or newest == self.kept:
            return
        held = self.ray / HELD / newest
        try:
            shutil.copytree(self.ray / newest, held / newest, copy_function=os.link)
            (held / self.journal.name).mkdir()
            for part in self.journal.glob("*.parquet"):
                os.link(part, held / self.journal.name / part.name)
            shutil.copyfile(self.ray / self.snapshot, held / self.snapshot)
            listed = f'"{newest}"' in (held / self.snapshot).read_text(encoding="utf-8")
        except (OSError, shutil.Error):
            listed = False
        if not listed:  # Ray Train has just removed it: there is a newer one
            shutil.rmtree(held, ignore_errors=True)
            return
        before, self.kept = self.kept, newest
        self.keeping.then(partial(self._copy, held, before))

    def _copy(self, held: Path, before: str | None) -> None:
        """The list comes after what it lists, and only then that is removed which it lists no more."""
        address, rows = self.keeping.address, held / self.journal.name
        try:
            self._copy_rows({f"{rows.name}/{part.name}": part for part in rows.iterdir()})
            for file in (*(held / held.name).rglob("*"), held / self.snapshot):
                if file.is_file():
                    address.keep({f"{self.ray.name}/{file.relative_to(held)}": file})
            if before:
                address.forget(f"{self.ray.name}/{before}")
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _copy_rows(self, parts: Mapping[str, Path]) -> None:
        """Parts that are kept and no longer here are of steps that a worker's end made undone: others cover them."""
        address = self.keeping.address
        kept = {name for name in address.kept() if name.startswith(f"{self.journal.name}/")}
        for name in kept - parts.keys():
            address.forget(name)
        address.keep({name: part for name, part in parts.items() if name not in kept})


def _step(name: str) -> int:
    return int(name.rpartition("-")[2])
