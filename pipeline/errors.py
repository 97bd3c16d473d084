"""The one error a user can cause. Doors print it without a traceback and exit with status 2."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

UNWRITTEN = "a result could not be written"  # begins what is said of a full disk

# What torch, CUDA's libraries, vLLM and the system say where memory ran out; most of it comes as a plain RuntimeError.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can(no|')t allocate memory|_STATUS_ALLOC_FAILED|registering memory failed", re.IGNORECASE
)


class UserError(Exception):
    """Something the user gave cannot be used.

    `problem` names the value and the reason, `remedy` says what to do about it.
    """

    def __init__(self, problem: str, remedy: str):
        super().__init__(f"{problem}\n  remedy: {remedy}")
        self.problem, self.remedy = problem, remedy

    def __reduce__(
        self,
    ) -> tuple[type["UserError"], tuple[str, str]]:  # Ray carries errors between processes by pickling them
        return UserError, (self.problem, self.remedy)


def code_not_trusted(error: BaseException) -> str | None:
    """The remedy where transformers raised `error` because a model brings code of its own; None otherwise."""
    if "trust_remote_code" in str(error):
        return "model.trust_remote_code=true runs the Python files that the model brings: read them first"
    return None


def no_room(error: BaseException) -> UserError | None:
    """What to say of a disk that is full, or a quota that is used up; None of any other error."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = os.strerror(error.errno)
        remedy = "free some room, or set resources.root to a larger disk; finished parts are kept"
        return UserError(f"{UNWRITTEN}: {why}", remedy)
    return None


def out_of_memory(error: BaseException) -> str | None:
    """What `error` says, on one line, where it means that memory ran out, a GPU's or the process's; else None."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and (_OUT_OF_MEMORY.search(said) or "OutOfMemory" in said)
    ):
        return said[:240]
    return None


@contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Where memory runs out inside, raise the UserError that `what` asked for more than there was."""
    try:
        yield
    except Exception as error:
        if said := out_of_memory(error):
            raise UserError(f"{what} ran out of memory ({said})", remedy) from None
        raise
