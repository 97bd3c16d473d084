"""A pydantic report, in the words of our errors: which key, which value, why, and what to write instead."""

import difflib
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError

# What to write, by the kind of value that pydantic wanted: the part of its error type before the underscore.
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "text (in quotes where YAML would read a number, a date or null)",
    "tuple": "a list such as [0.9, 0.999]",
    "too": "as many values as the default has",
}


def explain(error: ValidationError, schema: type[BaseModel]) -> UserError:
    """The first fault of a report, and how many more there are."""
    fault, more = error.errors()[0], error.error_count() - 1
    location, kind = fault["loc"], fault["type"]
    where = ".".join(map(str, location)) or "the configuration"
    tail = f" (and {more} more)" if more else ""
    if kind == "missing":
        return UserError(f"{where} is missing{tail}", f"set it in the file, or give {where}=VALUE")
    if kind in ("extra_forbidden", "invalid_key"):
        known = _keys(schema, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*map(str, location[:-1]), *near])}?" if near else f"known: {', '.join(known)}"
        return UserError(f"{where} is not a key of the configuration{tail}", hint)
    if kind in ("model_type", "model_attributes_type"):
        keys = ", ".join(_keys(schema, location))
        return UserError(f"{where}={fault['input']!r} is a section, not a value{tail}", f"set its keys: {keys}")
    problem = f"{where} has no value" if fault["input"] is None else f"{where}={fault['input']!r}: {fault['msg']}"
    return UserError(f"{problem}{tail}", f"{where}: {_remedy(kind, fault)}")


def _remedy(kind: str, fault: Any) -> str:
    limits = fault.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", limits["expected"])
        near = difflib.get_close_matches(str(fault["input"]), choices, n=1)
        return (f"did you mean {near[0]}? " if near else "") + f"choose one of {', '.join(choices)}"
    for bound, words in (("ge", "{} or more"), ("gt", "more than {}"), ("le", "{} or less"), ("lt", "less than {}")):
        if bound in limits:
            return "give " + words.format(limits[bound])
    if kind == "string_too_short":
        return "give a value, or leave the key out for its default"
    return f"give {_WANTED.get(kind.split('_')[0], 'another value')}"


def _keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `location`."""
    kind: Any = schema
    for part in location:
        kind = kind.model_fields[part].annotation
    return list(kind.model_fields)
