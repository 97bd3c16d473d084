"""The one error a user can cause. Doors print it without a traceback and exit with status 2."""

import errno
import os


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
        return UserError(f"a result could not be written: {why}", remedy)
    return None
