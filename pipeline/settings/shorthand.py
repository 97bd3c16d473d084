"""The shortest form of a section, and what it stands for: `model: PATH` is `model: {source: PATH}`.

What is no such form is handed on as it is, for the schema to say what is wrong with it.
"""

from collections.abc import Callable
from typing import Any

from pipeline.errors import UserError


def long_form(path: str, value: Any) -> Any:
    """What `value` at the dotted `path` of a configuration stands for."""
    return _FORMS[path](value) if path in _FORMS else value


def expand(raw: dict[str, Any]) -> dict[str, Any]:
    """A configuration with every short form in it written out."""
    found = dict(raw)
    for path in _FORMS:
        section, _, key = path.partition(".")
        inner = found.get(section)
        if not key and section in found:
            found[section] = long_form(path, inner)
        elif isinstance(inner, dict) and key in inner:
            found[section] = inner | {key: long_form(path, inner[key])}
    return found


def _text_under(key: str) -> Callable[[Any], Any]:
    return lambda value: {key: value} if isinstance(value, str) else value


def _lora(value: Any) -> Any:
    """`true` is LoRA as it comes, `false` is none, and a number is a rank."""
    if isinstance(value, bool):
        return {} if value else None
    return {"rank": value} if isinstance(value, int) else value


def _benchmarks(value: Any) -> Any:
    """A name, or names, without files of questions; a list may hold `NAME: FILE`, too."""
    found: dict[Any, Any] = {}
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str | dict):
            return value
        for name, file in each.items() if isinstance(each, dict) else [(each, None)]:
            if name in found and found[name] != file:
                problem = f"generate.benchmarks names {name} twice, with two files"
                raise UserError(problem, "give one of them another name")
            found[name] = file
    return found


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int | float) and not isinstance(value, bool) else value


_FORMS: dict[str, Callable[[Any], Any]] = {
    "model": _text_under("source"),
    "bridge.local": _text_under("source"),
    "data": _text_under("source"),
    "data.earlier": _listed,
    "reference.model": _text_under("source"),
    "train.start": _text_under("source"),
    "sample.prompts": _text_under("source"),
    "sample.model": _text_under("source"),
    "sample.against": _text_under("source"),
    "sample.stop": _listed,
    "sample.stop_token_ids": _listed,
    "rate.raters": lambda value: [value] if isinstance(value, str | dict) else value,
    "objective": _text_under("name"),
    "judge.local": _text_under("source"),
    "features": _text_under("source"),
    "train.lora": _lora,
    "weigh.contrast": lambda value: expand(value) if isinstance(value, dict) else value,
    "generate.benchmarks": _benchmarks,
    "generate.stop": _listed,
    "report.ranked": _listed,
    "generate.stop_token_ids": _listed,
    "study.flip_fractions": _listed,
    "study.seeds": _listed,
    "sweep.seeds": _listed,
}
