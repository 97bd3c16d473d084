"""Actors that wait for room on the cluster: what for is said each minute, and the wait ends."""

import time
from collections.abc import Callable, Mapping, Sequence

from actors.cluster import claim, free_places, in_words, is_at_work, nodes_here, places, starts_its_own, want
from jobs.common.saying import doing, say
from pipeline.errors import UserError
from pipeline.settings.resources import Resources, Workers

SAY_SECONDS = 60.0
LOST_SECONDS = 600.0  # where resources.wait_for_cluster says nothing, and what a stage ran on is lost
START_SECONDS = 60.0  # that actors for which the nodes have room may take to start
SETS = "resources.wait_for_cluster sets how many seconds it is waited"
KEPT = "What is finished is kept, and the same command goes on from there"
Nodes = Callable[[], Sequence[Mapping[str, float]]]


class Waiting:
    """A wait of one pool or group, which may begin anew: `over` ends it."""

    def __init__(
        self, what: str, setting: str, asked: dict[str, float], resources: Resources, nodes: Nodes = nodes_here
    ):
        """`what` waits, for actors of which `setting` says the number and `asked` what each asks (`claim`).

        `nodes` gives what the nodes of the cluster have.
        """
        self.what, self.setting, self.asked, self.nodes = what, setting, asked, nodes
        self.seconds = LOST_SECONDS if resources.wait_for_cluster is None else resources.wait_for_cluster
        self.since: float | None = None
        self.said = 0.0

    def over(self) -> None:
        self.since = None

    def still(self, actors: int) -> None:
        """Call it every few seconds while there is no room for `actors`. Raises UserError where that took too long.

        Where the nodes could hold them it takes a minute at least, and nothing is said before: some may be starting,
        and what others had is free only a moment after they ended.
        """
        now, nodes = time.monotonic(), self.nodes()
        could = places(self.asked, nodes) >= actors
        most = max(self.seconds, START_SECONDS) if could else self.seconds
        if self.since is None:
            self.since = now
            self.said = now if could else now - SAY_SECONDS
        why = f"no room for {self.setting}={actors} of {in_words(self.asked, nodes)}"
        if now - self.since >= most:
            raise UserError(
                f"{why}, for {most:g} s",
                f"bring nodes back or add some, or lower {self.setting}; {SETS}. {KEPT}",
            )
        if now - self.said >= SAY_SECONDS:
            self.said = now
            say(f"{self.what}: {why}; waiting for {now - self.since:.0f} s of {most:g}")

    def look(self, pool: str) -> None:
        """The same for a pool that has been silent: it waits where none of its actors lives and none can start."""
        if is_at_work(pool) or free_places(self.asked):
            self.over()
        else:
            self.still(1)


def claimed(
    what: str, setting: str, actors: Workers, gpus: float, resources: Resources, lost: bool = False
) -> dict[str, float]:
    """`claim`, once the cluster has room for the least: it is waited for nodes, resources.wait_for_cluster seconds.

    `lost`: there was room before. Raises UserError where none came, as `claim` does at once where none can come.
    """
    began, said = time.monotonic(), None
    seconds = resources.wait_for_cluster
    if seconds is None:
        seconds = LOST_SECONDS if lost else 0.0
    try:
        while True:
            try:
                return claim(setting, actors.most, gpus, actors.least)
            except UserError as small:
                now = time.monotonic()
                if not seconds or starts_its_own():
                    raise
                if now - began >= seconds:
                    problem = f"{small.problem}, after {seconds:g} s"
                    raise UserError(problem, f"{small.remedy}; {SETS}. {KEPT}") from None
                if said is None or now - said >= SAY_SECONDS:
                    say(f"{what}: {small.problem}; waiting for nodes for {now - began:.0f} s of {seconds:g}")
                    doing("waiting for nodes")
                    want(actors.most, gpus)
                    said = now
                time.sleep(1.0)
    finally:
        if said is not None:
            want(0, gpus)
