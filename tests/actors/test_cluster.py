"""What is told of what Ray raises, by Ray's own exceptions; that it raises them is tried in tests/e2e."""

import pytest
from ray.train import ControllerError, WorkerGroupError

from actors.cluster import user_error
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
        (ControllerError(RuntimeError("The worker group startup timed out after 60.0 seconds")), "had no room for the"),
    ],
)
def test_what_was_lost_is_told_with_where_to_look(error: Exception, says: str) -> None:
    found = user_error(error, "/somewhere/logs")
    assert found and found.problem.startswith(("the process", "the node", "the cluster")) and says in found.problem
    assert "/somewhere/logs" in found.remedy


def test_a_fault_of_the_program_is_none_of_the_users() -> None:
    assert user_error(WorkerGroupError("rank 0: KeyError: 'x'", {0: KeyError("x")}), "logs") is None
