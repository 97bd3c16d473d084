"""Joining a Ray cluster, and claiming from it what can be placed."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.errors import UserError


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (a submitted job has it set), or start one on this machine and stop it afterwards.

    Inside an outer `connected()` it does nothing, so that a whole line shares one cluster.
    """
    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray's C++ side warns of what Ray Data itself does
    address = {} if os.environ.get("RAY_ADDRESS") else {"address": "local", "include_dashboard": False}
    ray.init(logging_level=logging.ERROR, log_to_driver=False, **address)
    quiet = ray.data.DataContext.get_current()
    quiet.enable_progress_bars = False
    quiet.print_on_execution_start = False
    try:
        yield
    finally:
        ray.shutdown()


def claim(setting: str, actors: int, gpus: float) -> dict[str, float]:
    """What each of a pool of actors asks of Ray, so that all can be placed and tasks beside them too.

    A pool that claims every CPU leaves none for Ray Data's own tasks, and the stage would wait for ever without an error:
    half a CPU, or a tenth of the cluster, stays free. Raises UserError where the cluster is too small.
    """
    have = ray.cluster_resources()
    cpus = have.get("CPU", 0.0)
    if actors > cpus:
        raise UserError(
            f"{setting}={actors} actors, but the cluster has {cpus:g} CPUs",
            f"set {setting}={max(1, int(cpus))} or less, or add nodes",
        )
    if gpus * actors > have.get("GPU", 0.0):
        raise UserError(
            f"{setting}={actors} actors of {gpus:g} GPUs each, but the cluster has {have.get('GPU', 0.0):g} GPUs",
            f"lower {setting} or resources.gpus_per_actor",
        )
    free = max(0.5, 0.1 * cpus)
    return {"num_cpus": min(1.0, int(100 * (cpus - free) / actors) / 100), "num_gpus": gpus}


def threads(actors: int) -> int:
    """Compute threads for each of `actors` on this cluster: their share of a node's cores."""
    nodes = max(1, len([node for node in ray.nodes() if node["Alive"]]))
    return max(1, int(ray.cluster_resources().get("CPU", 1.0)) // max(nodes, actors))


def user_error(error: BaseException) -> UserError | None:
    """The UserError inside what Ray raised, if there is one: Ray wraps an actor's exception several times."""
    seen: list[Any] = [error]
    for item in seen:
        if isinstance(item, UserError):
            return UserError(item.problem, item.remedy)
        inner = [item.__cause__, item.__context__, getattr(item, "cause", None)]
        inner += list(getattr(item, "worker_failures", {}).values())
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    return None
