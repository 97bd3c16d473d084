"""A configuration as it is written: one YAML file, and overrides from the command line. Nothing is checked here."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError


def read(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a file says, with `section.key=value` overrides applied. Raises UserError where it cannot be read so."""
    raw = _content(Path(path))
    for override in overrides:
        override_one(raw, override)
    return raw


def _content(file: Path) -> dict[str, Any]:
    if not file.is_file():
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        hint = f"did you mean {file.parent / near[0]}?" if near else "give a YAML file, such as configs/quickstart.yaml"
        raise UserError(f"--config {file}: there is no such file", hint)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read ({error.strerror})", "give a file you may read") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = f"--config {file}: is not YAML ({' '.join(str(error).split())})"
        raise UserError(problem, "mend the file at that place") from None
    if not isinstance(raw, dict | None):
        problem = f"--config {file}: holds a {type(raw).__name__}, not sections"
        raise UserError(problem, "write sections such as `model:` and `data:`")
    return raw or {}


def override_one(raw: dict[str, Any], override: str) -> None:
    """Apply one `section.key=value`, in place. Raises UserError for what is not one."""
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")) or key.startswith("-"):
        raise UserError(f"argument {override!r} is not section.key=value", "write for example train.learning_rate=1e-5")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    *sections, leaf = key.split(".")
    for section in sections:
        inner = raw.get(section)
        if inner is None:
            inner = raw[section] = {}
        if not isinstance(inner, dict):
            problem = f"argument {override!r}: {section} is not a section"
            raise UserError(problem, "see the sections in configs/quickstart.yaml")
        raw = inner
    raw[leaf] = _number(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as text, and the objective's parameters are checked without converting."""
    try:
        return float(value) if isinstance(value, str) and any(map(str.isdigit, value)) else value
    except ValueError:
        return value
