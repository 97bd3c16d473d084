"""What is told of what Ray and gloo raise, by their own exceptions; that Ray raises them is tried in tests/e2e."""

import inspect
import threading
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray._private.node import Node
from ray.train import ControllerError, WorkerGroupError

from actors.cluster import idle_gpus
from actors.failures import no_start, user_error
from pipeline.errors import UserError

DEAD = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"


def test_what_a_worker_refused_comes_before_the_deaths_that_followed() -> None:
    refusal = UserError("the value", "the remedy")
    found = user_error(WorkerGroupError(DEAD, {0: RuntimeError(DEAD), 1: refusal}), "logs")
    assert found and (found.problem, found.remedy) == ("the value", "the remedy")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (WorkerGroupError(DEAD, {}), "the process of an actor died, again after every restart"),
        (RuntimeError("The actor is dead because its node has died. Node Id: 1"), "the node of an actor was lost"),
        (ControllerError(RuntimeError("One of the worker actors failed to initialize due to")), "the process of an"),
    ],
)
def test_what_was_lost_is_told_with_where_to_look(error: Exception, says: str) -> None:
    found = user_error(error, "/somewhere/logs")
    assert found and found.problem.startswith(("the process", "the node")) and says in found.problem
    assert "/somewhere/logs" in found.remedy


def test_train_workers_without_room_are_told_with_nodes_and_their_number() -> None:
    found = user_error(ControllerError(RuntimeError("The worker group startup timed out after 60.0 seconds")), "logs")
    assert found and found.problem == "the cluster had no room for the train workers"
    assert "nodes" in found.remedy and "resources.train_workers" in found.remedy and "memory" not in found.remedy


def test_ray_that_is_not_up_in_time_is_told_and_other_faults_of_its_start_are_not() -> None:
    """By Ray's words, which are its own source's: a machine too slow for it cannot be made here."""
    words = inspect.getsource(Node.__init__)
    late = "The current node timed out during startup. This "
    assert late in words
    found = no_start(Exception(late))
    assert found and "within 30 seconds" in found.problem and "raylet_start_wait_time_s = 30\n" in words
    assert no_start(ConnectionError("no such address")) is None


def test_a_fault_of_the_program_is_none_of_the_users() -> None:
    assert user_error(WorkerGroupError("rank 0: KeyError: 'x'", {0: KeyError("x")}), "logs") is None


def test_a_worker_that_others_wait_for_in_vain_is_told_with_the_setting() -> None:
    """What gloo raises in the one that waits, where the other never comes."""
    store = dist.HashStore()
    groups: dict[int, Any] = {}

    def join(rank: int) -> None:
        groups[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=0.5))

    workers = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    errors: dict[int, Exception] = {}
    for rank in (0, 1):  # the second finds out that the first has left
        with pytest.raises(RuntimeError) as waited:
            groups[rank].allreduce([torch.zeros(1)]).wait()
        errors[rank] = waited.value
    for seen in ({0: errors[0]}, errors):
        found = user_error(WorkerGroupError("training failed", seen), "logs")
        assert found and "longer than resources.collective_timeout_seconds" in found.problem
        assert "raise it" in found.remedy


def test_gpus_that_nobody_asks_for_are_said() -> None:
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
    assert "has GPUs (8): resources.gpus_per_actor=0" in idle_gpus(0, nodes)
    assert idle_gpus(1, nodes) == idle_gpus(0, [{"CPU": 8.0}]) == ""
