"""A configuration as it is written: one YAML file, and overrides from the command line. Nothing is checked here.

But that nothing is said twice: YAML would take the last and forget the rest. And a number is what YAML 1.2 has as one:
by 1.1, which PyYAML reads, 1:30 is 90, 0b11 is 3, 010 is 8 and 1e-5 a text.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError
from pipeline.settings.shorthand import long_form

RECIPES = Path(__file__).parents[2] / "configs"  # beside the packages, in a checkout as in an image
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError, OverflowError)


def read(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a file says, or the recipe of this name, with `section.key=value` overrides applied.

    Raises UserError where it cannot be read so.
    """
    raw = _content(Path(path))
    override(raw, overrides)
    return raw


def _content(file: Path) -> dict[str, Any]:
    try:
        if not file.exists() and str(file) in recipes():
            file = RECIPES / f"{file}.yaml"
        if not file.is_file():
            raise _no_file(file)
        raw = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"--config {file}: cannot be read ({error.strerror})", "give a file you may read") from None
    except _Twice as twice:
        raise UserError(f"--config {file}: {twice}", "leave one of them out, or put both's keys under one") from None
    except _NOT_YAML as error:
        problem = f"--config {file}: is not YAML ({' '.join(str(error).split())})"
        raise UserError(problem, "mend the file at that place") from None
    if not isinstance(raw, dict | None):
        problem = f"--config {file}: holds a {type(raw).__name__}, not sections"
        raise UserError(problem, "write sections such as `model:` and `data:`")
    return raw or {}


def _no_file(file: Path) -> UserError:
    folder = file if file.is_dir() else file.parent
    names = sorted(path.name for path in folder.glob("*.y*ml"))
    if file.is_dir():
        shown = ", ".join(names[:8]) or "no YAML file"
        return UserError(f"--config {file}: is a folder", f"give a file of it (it holds {shown})")
    near = [str(folder / name) for name in difflib.get_close_matches(file.name, names, n=1)]
    near += difflib.get_close_matches(str(file), recipes(), n=1)
    example = f"give a YAML file, such as configs/quickstart.yaml, or a recipe of {RECIPES / 'README.md'}"
    hint = f"did you mean {near[0]}?" if near else example
    return UserError(f"--config {file}: there is no such file", hint)


def recipes() -> list[str]:
    """The names by which the recipes that come with the tool are found, such as papers/zephyr."""
    return sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))


class _Twice(Exception):
    """A key that stands twice in one mapping."""


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML, but a key stands once: of two, YAML takes the second and drops the first with all that is under it."""

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
        return int(node.value if base == 10 else node.value[2:], base)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:  # before `<<` brings in others, which a key of one's own may well replace
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if name in lines:
                    raise _Twice(f"{key.value} stands twice, in line {lines[name]} and in line {line}")
                lines[name] = line
        return node


# Numbers are those of YAML 1.2's core schema; a whole one is whole before it is any other.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (_INT, _FLOAT)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, _Loader.construct_whole_number)


def override(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `section.key=value` overrides in order, in place.

    Raises UserError for what is not one, and for one of which a later one would leave nothing.
    """
    keys = [each.partition("=")[0] for each in overrides]
    for number, key in enumerate(keys):
        for earlier in keys[:number]:
            if f"{earlier}.".startswith(f"{key}."):
                problem = f"{overrides[keys.index(earlier)]!r} would be lost: {overrides[number]!r} comes after it"
                raise UserError(problem, "give each setting once, and a section before its keys")
    for each in overrides:
        _override_one(raw, each)


def _override_one(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")) or key.startswith("-"):
        raise UserError(f"argument {override!r} is not section.key=value", "write for example train.learning_rate=1e-5")
    try:
        value = yaml.load(text, _Loader)
    except _Twice as twice:
        raise UserError(f"argument {override!r}: {str(twice).partition(',')[0]}", "leave one of them out") from None
    except _NOT_YAML:
        value = text
    *sections, leaf = key.split(".")
    for depth, section in enumerate(sections, 1):
        inner = long_form(".".join(sections[:depth]), raw.get(section))
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            problem = f"argument {override!r}: {section} is not a section"
            raise UserError(problem, "see the sections in configs/quickstart.yaml")
        raw[section] = inner
        raw = inner
    raw[leaf] = value
