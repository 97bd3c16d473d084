"""What Ray and torch.distributed raise, in a user's words where it is a user's affair."""

import re
from functools import partial
from typing import Any

from pipeline.errors import UserError, no_room


def user_error(error: BaseException, logs: str) -> UserError | None:
    """The UserError inside what Ray raised, if there is one: Ray wraps an actor's exception several times.

    A full disk is one, too, a node whose memory ran out, a worker that others waited for in vain, and a process that
    dies each time it is begun. `logs`: Ray's.
    """
    seen: list[Any] = [error]
    for item in seen:
        inner = [getattr(item, name, None) for name in ("__cause__", "__context__", "cause", "controller_failure")]
        inner += list(getattr(item, "worker_failures", {}).values())
        seen += [each for each in inner if isinstance(each, BaseException) and each not in seen]
    # What was raised comes before what followed from it.
    for find in (plainly, no_room, no_memory, partial(no_life, logs=logs), no_place, no_answer, no_way):
        for item in seen:
            if found := find(item):
                return found
    return None


def no_start(error: Exception) -> UserError | None:
    """What Ray says, in words alone, where the processes that it starts here are not up within its 30 seconds."""
    if "timed out during startup" not in str(error):
        return None
    return UserError(
        "Ray did not start on this machine within 30 seconds",
        "leave it a processor and some memory, and run the same command again, which goes on from what is finished; "
        "the newest folder below /tmp/ray (or RAY_TMPDIR) has Ray's logs",
    )


def plainly(error: BaseException) -> UserError | None:
    return UserError(error.problem, error.remedy) if isinstance(error, UserError) else None


ROOM = "the stage asks for, such as resources.micro_batch_tokens, score_tokens, kv_cache_gib or its number of actors"


def no_memory(error: BaseException) -> UserError | None:
    """What Ray says where it killed processes of a node before its memory ran out; it says so in words alone."""
    found = re.search(r"running low on memory\..*? was (\S+) used / (\S+) limit", str(error), re.DOTALL)
    if found is None:
        return None
    return UserError(
        f"a node ran out of memory: {found[1]} of {found[2]} were used, and Ray ended processes on it",
        f"lower what {ROOM}; what is finished is kept",
    )


# What Ray says, in words alone, where it gives up.
LOST = {
    r"is dead because its worker process has died|worker actors failed to initialize": "the process of an actor died",
    r"is dead because its node has died": "the node of an actor was lost",
    r"worker died unexpectedly while executing this task": "a process that made a block of rows, or parts, died",
}


def no_life(error: BaseException, logs: str) -> UserError | None:
    """Where what an actor runs on was lost, and has no restarts left. Not where it raised something: that is ours."""
    for pattern, what in LOST.items():
        if re.search(pattern, str(error)):
            return UserError(
                f"{what}, again after every restart that resources.max_failures allows",
                f"Ray's logs in {logs} say more. Where the system ended it as memory ran out (dmesg tells), lower what "
                f"{ROOM}; where NCCL did after resources.collective_timeout_seconds, a train worker or the network "
                "hangs. What is finished is kept",
            )
    return None


def no_place(error: BaseException) -> UserError | None:
    """What Ray Train says where a group of workers found no room on the cluster."""
    if not re.search(r"worker group startup timed out|Insufficient cluster resources", str(error)):
        return None
    return UserError(
        "the cluster had no room for the train workers",
        "bring nodes back or add some, or lower resources.train_workers, which [least, most] leaves to what there is. "
        "What is finished is kept",
    )


def no_answer(error: BaseException) -> UserError | None:
    """What torch.distributed says, in words alone, where a worker waited too long for another. Ray began anew before.

    NCCL ends the process instead: `no_life`.
    """
    if not re.search(r"Timed out waiting \d+ ?ms for|caused pair closure|collective operation timeout", str(error)):
        return None
    return UserError(
        "a train worker waited for another longer than resources.collective_timeout_seconds, again after every restart "
        "that resources.max_failures allows",
        "one hangs, or the network between them does; where a step or the writing of a checkpoint takes that long, "
        "raise it. What is finished is kept",
    )


def no_way(error: BaseException) -> UserError | None:
    """What gloo says where workers on several nodes cannot connect: a node's name may stand for 127.0.0.1 there."""
    if "connectFullMesh" not in str(error):
        return None
    return UserError(
        f"the train workers cannot reach each other ({' '.join(str(error).split())[:200]})",
        "let every node's name be an address that the others reach, or set GLOO_SOCKET_IFNAME to its network interface",
    )
