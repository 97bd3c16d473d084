"""The one error a user can cause. Doors print it without a traceback and exit with status 2."""


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
