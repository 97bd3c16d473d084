"""What waits for room on a cluster: said each minute, ended after a time; and how many workers have room."""

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from actors.cluster import places
from actors.training import EXPORTED, PHASE
from jobs.common import elastic, waiting
from jobs.common.elastic import STARTING, _size, fit
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
    capsys.readouterr()
    with pytest.raises(UserError) as told:
        while True:
            wait.still(1)
            clock.now += 5
    return clock.now - began, capsys.readouterr().out.splitlines(), told.value


@pytest.mark.parametrize(
    ("cpus", "seconds", "ends", "said_at"),
    [
        (0.0, None, 600, range(0, 600, 60)),
        (0.5, 130.0, 130, [0, 60, 120]),
        (0.5, 20.0, 20, [0]),
        (1.0, 130.0, 130, [60, 120]),  # the nodes could hold it: it may be starting
        (1.0, 20.0, 60, []),
    ],
)
def test_a_wait_is_said_each_minute_and_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cpus: float,
    seconds: float | None,
    ends: float,
    said_at: Sequence[int],
) -> None:
    after, said, told = waited(monkeypatch, capsys, cpus, seconds)
    assert after == ends and len(said) == len(said_at)
    there = f"the cluster has 1 node with {cpus:g} CPUs, not enough of them free"
    assert told.problem == f"no room for resources.scorers=1 of 1 CPUs each; {there}, for {ends} s"
    assert "lower resources.scorers; resources.wait_for_cluster" in told.remedy
    for seconds_in, line in zip(said_at, said, strict=True):
        assert f"reference: no room for resources.scorers=1 of 1 CPUs each; {there}" in line
        assert line.endswith(f"; waiting for {seconds_in} s of {ends}")


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


class Busy:
    """A trainer on a machine that takes `needs` seconds to place its workers; gives up as Ray Train does."""

    def __init__(self, folder: Path, needs: float, workers: int):
        self.folder, self.needs, self.workers = folder, needs, workers

    def fit(self) -> None:
        if float(os.environ[STARTING]) < self.needs:
            raise ControllerError(WorkerGroupStartupTimeoutError(self.workers))
        (self.folder / PHASE).write_text(EXPORTED)


@pytest.mark.parametrize("workers", [2, (1, 2)])
@pytest.mark.parametrize(
    ("needs", "given", "waited"),
    [(1, None, [6]), (20, None, [6, 12, 24]), (60, None, [6, 12, 24, 48, 60]), (90, "90", [90])],
)
def test_a_group_that_is_slow_to_start_is_given_more_time(
    needs: float, given: str | None, waited: list[float], workers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none of it stays behind for another training of this process."""
    seen = list[float]()

    def trainer(size: int) -> Any:
        seen.append(float(os.environ[STARTING]))
        return Busy(tmp_path, needs, size)

    monkeypatch.delenv(STARTING, raising=False)
    if given:
        monkeypatch.setenv(STARTING, given)
    monkeypatch.setattr(elastic, "free_places", lambda asked: 2)
    monkeypatch.setattr(elastic, "Waiting", partial(Waiting, nodes=lambda: [{"CPU": 2.0}]))
    fit(trainer, tmp_path, Resources(train_workers=workers), ONE, threading.Event())
    assert seen == waited
    assert os.environ.get(STARTING) == given
