"""What waits for room on a cluster: said each minute, ended after a time; and how many workers have room."""

import pytest

from actors.cluster import places
from jobs.common import waiting
from jobs.common.elastic import _size
from jobs.common.waiting import Waiting
from pipeline.errors import UserError
from pipeline.settings.resources import Resources

ONE = {"num_cpus": 1.0, "num_gpus": 0.0}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def waited(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cpus: float, seconds: float | None
) -> tuple[float, list[str], UserError]:
    """After how long it ended, what was said, and how it was told."""
    clock, resources = Clock(), Resources(wait_for_cluster=seconds)
    monkeypatch.setattr(waiting.time, "monotonic", clock.monotonic)
    wait = Waiting("reference", "resources.scorers", ONE, resources, lambda: [{"CPU": cpus}])
    wait.still(1)
    clock.now += 500
    wait.over()  # there was room, for a while
    began = clock.now
    with pytest.raises(UserError) as told:
        while True:
            wait.still(1)
            clock.now += 5
    return clock.now - began, capsys.readouterr().out.splitlines(), told.value


@pytest.mark.parametrize(
    ("cpus", "seconds", "ends", "times"),
    [(0.0, None, 600, 9), (0.5, 130.0, 130, 2), (0.5, 20.0, 20, 0), (1.0, 20.0, 60, 0)],
)
def test_a_wait_is_said_each_minute_and_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cpus: float,
    seconds: float | None,
    ends: float,
    times: int,
) -> None:
    after, said, told = waited(monkeypatch, capsys, cpus, seconds)
    assert after == ends and len(said) == times
    there = f"the cluster has 1 node with {cpus:g} CPUs, not enough of them free"
    assert told.problem == f"no room for resources.scorers=1 of 1 CPUs each; {there}, for {ends} s"
    assert "lower resources.scorers; resources.wait_for_cluster" in told.remedy
    for minute, line in enumerate(said, 1):
        assert f"reference: no room for resources.scorers=1 of 1 CPUs each; {there}" in line
        assert line.endswith(f"; waiting for {60 * minute} s of {ends}")


def test_an_actor_is_on_one_node() -> None:
    asked = {"num_cpus": 0.45, "num_gpus": 1.0}
    assert places(asked, [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 0.9, "GPU": 8.0}, {"CPU": 9.0}, {}]) == 4
    assert places(ONE, [{"CPU": 1.5}, {"CPU": 1.5}]) == 2


@pytest.mark.parametrize(
    ("given", "sizes"),  # for 0 to 6 places
    [
        ({"train_workers": 2}, [0, 0, 2, 2, 2, 2, 2]),
        ({"train_workers": (2, 5)}, [0, 0, 2, 3, 4, 5, 5]),
        ({"train_workers": (2, 6), "shard_within": 2}, [0, 0, 2, 2, 4, 4, 6]),
    ],
)
def test_as_many_workers_as_there_is_room_for(given: dict[str, object], sizes: list[int]) -> None:
    assert [_size(room, Resources.model_validate(given)) for room in range(7)] == sizes
