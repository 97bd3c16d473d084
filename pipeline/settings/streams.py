"""Streams: pairs of other sources that are trained beside those of `data`, each with a line of its own."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, JsonValue, field_validator

from pipeline.errors import UserError
from pipeline.settings.section import Section

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SECTIONS = ("model", "data", "sample", "rate", "pair", "bridge", "schedule")  # which a stream may say something of
_RENDERING = ("chat_template", "template_arguments", "template_date")  # and of `model` these alone

FIRST = "data"  # the name of the stream that the configuration's own pairs are

Given = dict[str, JsonValue]


class Stream(Section):
    """What is other for its pairs: every section stands over the configuration's own, key by key."""

    # Of the step's loss, beside the other streams'; the first has the rest. Null, of all streams: each pair counts
    # alike, as if all were of one source.
    weight: float | None = Field(default=None, gt=0, lt=1)
    model: Given = Field(default={}, examples=[{"template_arguments": {"enable_thinking": False}}])
    data: str | Given = Field(default={})  # a text is another source alone, without what `data` says of its own
    sample: Given = Field(default={})
    rate: Given = Field(default={})
    pair: Given = Field(default={})
    bridge: Given = Field(default={}, examples=[{"judge": None}])  # null of who edits: these pairs are not edited
    schedule: Given = Field(default={})

    @field_validator("model")
    @classmethod
    def _one_model(cls, given: Given) -> Given:
        for name in given:
            if name not in _RENDERING:
                problem = f"streams.NAME.model.{name}: all streams train one model"
                raise UserError(problem, f"give how its conversations are rendered: {', '.join(_RENDERING)}")
        return given

    def over(self, raw: dict[str, Any]) -> dict[str, Any]:
        """A configuration with what this stream says put over it."""
        merged = dict(raw)
        for section in SECTIONS:
            given = getattr(self, section)
            merged[section] = {"source": given} if isinstance(given, str) else _over(raw[section], given)
        return merged


def _over(raw: Any, given: Any) -> Any:
    if isinstance(raw, dict) and isinstance(given, dict):
        return raw | {name: _over(raw.get(name), value) for name, value in given.items()}
    return given


def in_proportion(pairs: Sequence[int]) -> "npt.NDArray[np.int64]":
    """Of each position of an epoch which stream it is of, where they have so many: every stretch holds of each about
    its share of all.
    """
    import numpy as np

    places = np.concatenate([(np.arange(own) + 0.5) / max(1, own) for own in pairs])
    return np.repeat(np.arange(len(pairs)), pairs)[np.argsort(places, kind="stable")]


def require_in_each_step(pairs: Mapping[str, int], batch: int, least: int = 1) -> None:
    """Raise UserError where a step of `batch` pairs may hold fewer than `least` of a stream that has a weight.

    With none it would not count, and with one its gradient shows no noise to balance streams by.
    """
    import numpy as np

    total, of = sum(pairs.values()), in_proportion([*pairs.values()])
    steps = of[: total // batch * batch].reshape(-1, batch)  # the last one may be shorter, and is left out
    for stream, (name, own) in enumerate(pairs.items()):
        if own * batch >= least * total and not ((steps == stream).sum(axis=1) < least).any():
            continue
        wanted, otherwise = "one", "no weights: each pair then counts alike"
        if least > 1:
            wanted, otherwise = f"{least}, which objective.balance=least-error goes by", "objective.balance=fixed"
        places = np.concatenate([[-1], np.flatnonzero(of == stream), [total]])
        enough = int((places[least:] - places[:-least]).max())  # as many in a row, wherever they begin
        needed = "pairs of that stream"
        if own >= least:
            needed = f"train.batch_size={max(enough, -(-least * total // own))} or more"
        raise UserError(
            f"stream {name} has {own} of {total} pairs, so that not every step of {batch} holds {wanted}",
            f"give {needed}, fewer pairs of the others (data.limit), or {otherwise}",
        )
