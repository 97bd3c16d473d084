"""Actors that wait for room on the cluster: what for is said each minute, and the wait ends."""

import time

from actors.cluster import claim, free_places, in_words, is_at_work, places, starts_its_own, want
from jobs.common.saying import doing, say
from pipeline.errors import UserError
from pipeline.settings.resources import Resources, Workers

SAY_SECONDS = 60.0
LOST_SECONDS = 600.0  # where resources.wait_for_cluster says nothing, and what a stage ran on is lost
START_SECONDS = 60.0  # that a process may take to start, while what it asked for is no longer free


class Waiting:
    """A wait of one pool or group, which may begin anew: `over` ends it."""

    def __init__(self, what: str, setting: str, asked: dict[str, float], resources: Resources):
        """`what` waits, for actors of which `setting` says the number and `asked` what each asks (`claim`)."""
        self.what, self.setting, self.asked = what, setting, asked
        self.seconds = LOST_SECONDS if resources.wait_for_cluster is None else resources.wait_for_cluster
        self.since: float | None = None
        self.said = 0.0

    def over(self) -> None:
        self.since = None

    def still(self, actors: int, least: float = 0.0) -> None:
        """Call it every few seconds while there is no room for `actors`.

        Raises UserError where that took too long, and no less than `least` seconds.
        """
        now, most = time.monotonic(), max(self.seconds, least)
        if self.since is None:
            self.since = self.said = now
        why = f"no room for {self.setting}={actors} of {in_words(self.asked)}"
        if now - self.since >= most:
            raise UserError(
                f"{why}, for {most:g} s",
                f"bring nodes back or add some, or lower {self.setting}; resources.wait_for_cluster sets how many "
                "seconds it is waited. What is finished is kept, and the same command goes on from there",
            )
        if now - self.said >= SAY_SECONDS:
            self.said = now
            say(f"{self.what}: {why}; waiting for {now - self.since:.0f} s of {most:g}")

    def look(self, pool: str) -> None:
        """The same for a pool that has been silent: it waits where none of its actors lives and none can start."""
        if is_at_work(pool) or free_places(self.asked):
            self.over()
        else:
            self.still(1, START_SECONDS if places(self.asked) else 0.0)


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
                if now - began >= seconds or starts_its_own():
                    raise
                if said is None or now - said >= SAY_SECONDS:
                    say(f"{what}: {small.problem}; waiting for nodes for {now - began:.0f} s of {seconds:g}")
                    doing("waiting for nodes")
                    want(actors.most, gpus)
                    said = now
                time.sleep(1.0)
    finally:
        if said is not None:
            want(0, gpus)
