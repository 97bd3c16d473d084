"""Prepare's work as Ray tasks: blocks of rows, and parts of pairs, made by whatever process is free.

Tasks and no pool of actors: any process makes any block, so that a cluster that grows or loses a node changes nothing
but how many are made at a time. Nor Ray Data, which reads a source in its own tasks, while most sources here (gzip,
CSV, a hub's data set) are read from the beginning by one: reading is cheap beside tokenising.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

import ray

from pipeline.prepare.blocks import Made
from pipeline.prepare.preparation import BlockJob
from pipeline.prepare.reader import Reader, Spec


@lru_cache(maxsize=1)
def _opened(spec: Spec) -> Reader:
    """A process opens the tokenizer once."""
    return spec.open()


def _make(spec: Spec, job: BlockJob) -> Made:
    return _opened(spec).make(job)


def make(spec: Spec) -> Callable[[BlockJob], Made]:
    """What makes blocks, in any process."""
    return partial(_make, spec)


def spread(workers: int | None, max_failures: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """What calls a function with each of some jobs, `workers` at a time (None: as the cluster has CPUs at the moment).

    Jobs are read as they are needed, one ahead. Answers come in any order. A task whose process or node is lost is run
    again, `max_failures` times. Use it inside `connected()`.
    """
    # What a task was given lies where the driver is, so that a lost node takes none of it along.
    call = ray.remote(max_retries=max_failures)(_call)

    def tasks(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        running: list[Any] = []
        for job in jobs:
            while len(running) >= (workers or max(1, int(ray.cluster_resources().get("CPU", 1.0)))):
                done, running = ray.wait(running)
                yield from ray.get(done)
            running = [*running, call.remote(function, job)]
        while running:
            done, running = ray.wait(running)
            yield from ray.get(done)

    return tasks


def _call(function: Callable[[Any], Any], job: Any) -> Any:
    return function(job)
