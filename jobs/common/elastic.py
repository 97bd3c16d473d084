"""A train group of as many workers as the cluster has room for: fewer where a node is lost, more where one comes.

Ray Train's own elasticity counts what nodes have, not what of it is free, ends a group that works without a checkpoint,
and waits without an end or a word where there is too little. So the number is chosen here, and Ray Train is given it.
"""

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from actors.cluster import free_places
from actors.training import EXPORTED, PHASE, PROGRESS, REFUSAL, STOP
from jobs.common.saying import doing, say
from jobs.common.waiting import Waiting
from pipeline.settings.resources import Resources

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

LOOK_SECONDS = 3.0  # between two looks whether there is room for more
STARTS = 10  # groups of workers that may fail to start
STARTING = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
# For which a group's places are waited, each of the times that it is tried: few, so that another number of workers is
# tried soon where a node was lost. After each group of as many that waited in vain twice as many, as a machine with too
# much to do places nobody sooner; Ray Train's own are the most.
START_SECONDS, MOST_SECONDS = 6.0, 60.0


def fit(
    trainer: Callable[[int], "TorchTrainer"],
    folder: Path,
    resources: Resources,
    asked: dict[str, float],
    stopped: threading.Event,
) -> None:
    """Train in `folder` until the model is written or `stopped` is set, by `trainer(workers)` of workers that ask so.

    Ray Train begins anew, with as many, where a worker is lost. Where it finds no room for them any more, or there is
    room for more, others go on from the newest checkpoint. Raises UserError where there is too little for too long.
    """
    waiting, starts, step = Waiting("train", "resources.train_workers", asked, resources), 0, None
    vain = Counter[int]()  # groups by their size, since the last step, that waited for their places in vain
    while (size := _room(resources, asked, waiting, stopped)) and not stopped.is_set():
        workers = f"{size} worker{'s' * (size > 1)}"
        say(f"train: starting {workers}")
        doing(f"starting {workers}")
        try:
            with _patient(vain[size]), _growing(folder, resources, asked, size):
                trainer(size).fit()
            if (folder / REFUSAL).exists() or (folder / PHASE).read_text(encoding="utf-8") == EXPORTED:
                return
        except ControllerError as error:
            starts = starts + 1 if _step(folder) == step else 1
            no_room = isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)
            if starts > STARTS or not (no_room or is_elastic(resources)):
                raise
            vain[size] += no_room
            waiting.still(size)
        if _step(folder) != step:
            step = _step(folder)
            vain.clear()
            waiting.over()


def is_elastic(resources: Resources) -> bool:
    return resources.workers.least < resources.workers.most


def _room(resources: Resources, asked: dict[str, float], waiting: Waiting, stopped: threading.Event) -> int:
    """How many workers to start now; waits for room for the least of them. 0 where the door is asked to end.

    What others had is free a moment after they ended: fewer than the most are believed when they are seen twice.
    """
    seen = 0
    while True:
        size = _size(free_places(asked), resources)
        if size and size in (seen, resources.workers.most):
            return size
        if not size:
            waiting.still(resources.workers.least)
        seen = size
        if stopped.wait(2.0):
            return 0


def _size(places: int, resources: Resources) -> int:
    """The most workers for so many places, in whole groups of resources.shard_within; 0: too few for the least."""
    least, most = resources.workers
    size = min(places, most) // (resources.shard_within or 1) * (resources.shard_within or 1)
    return size if size >= least else 0


@contextmanager
def _patient(vain: int) -> Iterator[None]:
    """Within it Ray Train waits for a group's places as long as is due after so many in vain, unless the user says."""
    if STARTING in os.environ:
        yield
        return
    os.environ[STARTING] = str(min(START_SECONDS * 2**vain, MOST_SECONDS))
    try:
        yield
    finally:
        del os.environ[STARTING]


@contextmanager
def _growing(folder: Path, resources: Resources, asked: dict[str, float], size: int) -> Iterator[None]:
    """Within it, workers that are at their steps are asked to write a checkpoint and to end where more have room."""
    ended, began = threading.Event(), time.time()

    def watch() -> None:
        seen = size
        while not ended.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):  # Ray is asked again
                more = _size(size + free_places(asked), resources)
                if more > size and more == seen and _steps_since(folder, began):
                    say(f"train: there is room for {more} workers; they go on after a checkpoint")
                    (folder / STOP).touch()
                    return
                seen = more

    if size == resources.workers.most:
        yield
        return
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        (folder / STOP).unlink(missing_ok=True)


def _steps_since(folder: Path, began: float) -> bool:
    """Whether the first worker is at steps of a group that was started then."""
    return bool(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["began"] > began)


def _step(folder: Path) -> int | None:
    """The last step that the first worker wrote down."""
    try:
        return int(json.loads((folder / PROGRESS).read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        return None
