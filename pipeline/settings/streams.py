"""Streams: pairs of other sources that are trained beside those of `data`, each with a line of its own."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, JsonValue, field_validator

from pipeline.errors import UserError
from pipeline.settings.section import Section

SECTIONS = ("model", "data", "sample", "rate", "pair", "schedule")  # which a stream may say something of
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


def require_in_each_step(pairs: Mapping[str, int], batch: int) -> None:
    """Raise UserError where a step of `batch` pairs may hold none of a stream that has a weight: it would not count."""
    total = sum(pairs.values())
    for name, own in pairs.items():
        if own * batch < total:
            needed = f"train.batch_size={-(-total // own)} or more" if own else "pairs of that stream"
            raise UserError(
                f"stream {name} has {own} of {total} pairs, so that not every step of {batch} holds one",
                f"give {needed}, fewer pairs of the others (data.limit), or no weights: each pair then counts alike",
            )
