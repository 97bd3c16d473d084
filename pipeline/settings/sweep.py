"""The section `sweep`: which methods are tuned within which ranges, by how many trials, and how they are chosen."""

import json
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from pipeline.errors import UserError
from pipeline.settings.faults import shown
from pipeline.settings.section import Section


class Range(Section):
    """Where a setting may lie: between two ends, evenly in itself or in its logarithm, or among some values."""

    log: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    choice: tuple[Any, ...] | None = None

    @property
    def scale(self) -> Literal["log", "linear", "category"]:
        """Of an axis that holds its values."""
        among = self.choice is not None and not all(map(_is_number, self.choice))
        return "category" if among else "log" if self.log else "linear"

    @property
    def ends(self) -> tuple[float, float] | None:
        """Of numbers; None of a choice."""
        return self.log or self.uniform

    def samples(self) -> list[Any]:
        """Values that stand for all: a choice's own; of numbers both ends, and one between that is no whole number."""
        if self.ends is None:
            return list(self.choice or ())
        low, high = self.ends
        return [low, low + 0.381966 * (high - low), high]

    def check(self, where: str) -> None:
        """Raise UserError where it is no range."""
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        remedy = "give one of {log: [LOW, HIGH]}, {uniform: [LOW, HIGH]} and {choice: [VALUE, ...]}"
        if len(given) != 1:
            raise UserError(f"{where} has {'no range' if not given else ' and '.join(given)}", remedy)
        if self.ends is not None and not self.ends[0] < self.ends[1]:
            raise UserError(f"{where}.{given[0]}={list(self.ends)}: its ends are not in order", "give the lower first")
        if self.log is not None and self.log[0] <= 0:
            problem = f"{where}.log={list(self.log)} begins at {self.log[0]:g}, which has no logarithm"
            raise UserError(problem, "begin above 0, or give uniform in place of log")
        if self.choice is not None:
            _check_choice(self.choice, f"{where}.choice")


def _check_choice(choice: Sequence[Any], where: str) -> None:
    try:
        different = {float(value) if _is_number(value) else label(value) for value in choice}
    except (TypeError, ValueError):
        problem = f"{where} holds a value that is no number, text, list or section"
        raise UserError(problem, "quote it, if it is a text") from None
    if not choice or len(different) < len(choice):
        raise UserError(f"{where}={shown(list(choice))} names nothing, or a value twice", "name each value once")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Method(Section):
    """The sections that make a method, and the ranges that are its own."""

    objective: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    train: dict[str, Any] | None = None
    ranges: dict[str, Range] = Field(default={}, examples=[{"objective.tau": {"log": [0.1, 8]}}])


class Halving(Section):
    """Trials are made short at first, and of a batch the better ones go on: each time so large a share of them."""

    setting: Literal["schedule.epochs", "data.pairs", "data.limit"]  # what is short
    values: list[int] = Field(min_length=1, examples=[[1, 2]])  # rising; the last run has the configuration's own
    keep: float = Field(default=0.5, gt=0, lt=1)


class Sweep(Section):
    methods: dict[str, Method] = Field(min_length=1, examples=[{"dpo": {"objective": {"name": "dpo"}}}])
    ranges: dict[str, Range] = Field(default={}, examples=[{"train.learning_rate": {"log": [1e-6, 1e-4]}}])
    trials: int = Field(default=8, ge=1)  # of each method; a method without a range has one
    sampler: Literal["random", "tpe"] = "random"
    batch: int = Field(default=4, ge=1)  # trials of a method proposed together: tpe learns from the batches before
    seed: int = 0  # of what is proposed
    # Held-out accuracy, or the win rate over the base model on the embedded tasks of split dev.
    choose_by: Literal["accuracy", "win_rate"] = "accuracy"
    halving: Halving | None = None
    seeds: list[int] = Field(default=[0], min_length=1, examples=[[0, 1]])
    until: Literal["train", "judge"] = "judge"  # how far the final runs go
    against: str | None = None  # the method that the others are compared with; null: dpo, or else the first


def label(value: Any) -> str:
    """A value of a choice as JSON, as it may be a list or a section. Raises TypeError or ValueError for any other."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
