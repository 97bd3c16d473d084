"""A door that outlives Ray. Knows nothing of it but this: it takes the process that uses it along where it dies.

Where a raylet is gone, or the agent that a raylet does not live without, or the control store for a minute, Ray's core
ends the driver at once, without an exception that Python could meet. So a door works in a child process, which writes
down when it uses Ray; its parent sees how it ended, tells it, and begins anew where Ray was the child's own.
"""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipeline.errors import UserError

ENDED = 1  # the status with which Ray's core ends a process
_KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class OnRay:
    """What a process says of the Ray that it uses."""

    own: bool  # started by this door
    address: str
    logs: str


class _Child:
    """Memory that a child shares with its parent; none where the door runs in its caller's process."""

    shared: mmap.mmap | None = None
    restarts = 0  # how often its parent may begin anew


def uses_ray(facts: OnRay | None) -> None:
    """Write down for the parent what this process uses from now on; None: nothing any more."""
    if _Child.shared is not None:
        text = json.dumps({"restarts": _Child.restarts, "ray": asdict(facts)} if facts else None).encode()
        _Child.shared.seek(0)
        _Child.shared.write(text.ljust(len(_Child.shared), b" "))


def may_restart(times: int) -> None:
    """resources.max_failures, once it is known."""
    _Child.restarts = times


def is_watched() -> bool:
    """Whether a parent tells what comes of it where this process ends under Ray's hands."""
    return _Child.shared is not None


def outlive(say: Callable[[str], None]) -> None:
    """Go on in a child process. The parent waits, passes on what it is sent, and ends as the last child does.

    Raises UserError, in the parent, where Ray died under the child and is not started again. Nothing is forked where
    this program is no door of its own, such as under a test. Call it before any thread is started.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or not spec.name.startswith("jobs."):
        return
    died = 0
    while True:
        shared, parent = mmap.mmap(-1, 4 * mmap.PAGESIZE), os.getpid()
        sys.stdout.flush()
        child = os.fork()
        if not child:
            ctypes.CDLL(None).prctl(_KILLED_WITH_PARENT, signal.SIGKILL)
            if os.getppid() != parent:  # it died before it was asked for
                os._exit(ENDED)
            _Child.shared = shared
            return
        status = _wait(child)
        found = json.loads(shared[:].rstrip(b"\0 ") or b"null")
        if found is None or status not in (ENDED, -signal.SIGABRT, -signal.SIGSEGV):
            _end_as(status)
        died += 1
        facts, restarts = OnRay(**found["ray"]), found["restarts"]
        if not facts.own or died > restarts:
            raise lost(facts, died)
        say(f"Ray, which was started here, died ({facts.logs}); all begins anew, {died} of {restarts} times")


def lost(ray: OnRay, died: int) -> UserError:
    """What to tell of a Ray that died, for the `died`th time."""
    why = "Where memory ran out (dmesg tells), lower what the stage asks for. What is finished is kept, and the same"
    if ray.own:
        return UserError(
            f"Ray, which was started here, died{f' {died} times' * (died > 1)}: resources.max_failures allows no more",
            f"its logs in {ray.logs} say more. {why} command goes on from there",
        )
    return UserError(
        f"the Ray cluster at {ray.address} died, or this node's part of it",
        f"start it again; its logs in {ray.logs} say more. {why} command goes on from there",
    )


def _wait(child: int) -> int:
    """The status of the child once it has ended: below zero the signal that ended it.

    SIGTERM and SIGINT that are sent to this process are passed on; a terminal's Ctrl-C has met the child itself.
    """
    sent = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, sent | {signal.SIGCHLD})
    try:
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            came = signal.sigwaitinfo(sent | {signal.SIGCHLD})
            if came.si_signo in sent and came.si_code <= 0:  # by a process, and not by the kernel
                os.kill(child, came.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return os.waitstatus_to_exitcode(ended[1])


def _end_as(status: int) -> None:
    """End this process as its child did."""
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)
