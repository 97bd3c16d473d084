"""Words that may stand where a shell's cursor is: doors, their options, recipes, settings and their values.

A door's options are those of the parser that it reads its arguments with; settings are the fields of the configuration.
"""

import contextlib
import runpy
import shlex
import sys
import types
import typing
from argparse import Action, ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jobs.common.stage import Asked, Parser
from pipeline.fit.devices import NAMES
from pipeline.objectives.presets import PRESETS
from pipeline.settings.config import RunConfig
from pipeline.settings.file import recipes
from pipeline.settings.section import Section

_BASH = """_widemargin() {
    local IFS=$'\\n'
    COMPREPLY=($(widemargin complete bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -o nospace -F _widemargin widemargin"""
_ZSH = """_widemargin() {
    local -a found
    found=("${(@f)$(widemargin complete zsh "${(j: :)words[1,CURRENT-1]} ${PREFIX}" 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) && compadd -Q -S '' -- $found || _files
}
compdef _widemargin widemargin"""
SHELLS = {"bash": _BASH, "zsh": _ZSH}
BREAKS = "=:"  # at which bash begins another word


def script(shell: str) -> str:
    return SHELLS[shell]


def complete(shell: str, line: str, doors: Sequence[str]) -> list[str]:
    """What may stand at the end of a line, as a shell puts it there; one that is whole ends with a blank."""
    try:
        words = shlex.split(line)[1:]
    except ValueError:  # within quotes
        return []
    current = "" if line[-1:].isspace() or not words else words.pop()
    found = sorted({each for each in candidates(words, current, doors) if each.startswith(current)})
    whole = [each if each.endswith((".", "=", "/")) else f"{each} " for each in found]
    if shell == "bash" and (broken := max(map(current.rfind, BREAKS)) + 1):
        return [each[broken:] for each in whole]
    return whole


def candidates(words: Sequence[str], current: str, doors: Sequence[str]) -> Iterable[str]:
    """Words that may follow `words`, some of which begin with what there is of the `current` one."""
    if not words:
        return doors
    if words[0] == "completion":
        return SHELLS
    parser = parser_of(words[0]) if words[0] in doors else None
    if parser is None:
        return ()
    options = {option: action for action in parser._actions for option in action.option_strings}
    last = options.get(words[-1])
    if last is not None and last.nargs != 0:
        return values_of(last, current)
    option, given, value = current.partition("=")
    if given and option in options:
        return [f"{option}={each}" for each in values_of(options[option], value)]
    if current.startswith("-"):
        return [option for option in options if option not in words or _repeats(options[option])]
    return settings(current) if any(action.dest == "overrides" for action in parser._actions) else ()


def parser_of(door: str) -> ArgumentParser | None:
    """The parser of a door, caught as it is about to read arguments."""
    argv, Parser.asked = sys.argv, True
    try:
        sys.argv = [door]
        runpy.run_module(f"jobs.{door}", run_name="__main__")
    except Asked as asked:
        return asked.parser
    finally:
        sys.argv, Parser.asked = argv, False
    return None


def _repeats(action: Action) -> bool:
    return type(action).__name__ == "_AppendAction"


def values_of(option: Action, current: str) -> Iterable[str]:
    """What an option takes; nothing of a file, which the shell itself completes."""
    if option.choices:
        return list(map(str, option.choices))
    if "--gpu" in option.option_strings:
        return NAMES
    if "--config" not in option.option_strings:
        return ()
    return [*recipes(), *_files(current)]


def _files(current: str) -> Iterator[str]:
    """YAML files, and folders on the way to some."""
    with contextlib.suppress(OSError, ValueError):
        for path in Path().glob(f"{glob_safe(current)}*") if not current.startswith("/") else ():
            if path.is_dir():
                yield f"{path}/"
            elif path.suffix in (".yaml", ".yml"):
                yield str(path)


def glob_safe(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def settings(current: str) -> Iterator[str]:
    """Settings by their dotted names, a section at a time, and the values of those that have few."""
    key, given, _ = current.partition("=")
    *sections, name = key.split(".")
    within: Any = RunConfig
    for section in sections:
        within = section_of(within.model_fields[section].annotation) if section in within.model_fields else None
        if within is None:
            return
    path = "".join(f"{section}." for section in sections)
    if given:
        yield from (f"{key}={value}" for value in values(within, path, name))
        return
    for each, field in within.model_fields.items():
        yield f"{path}{each}" + ("." if section_of(field.annotation) else "=")
    if path == "objective.":
        yield from {f"{path}{parameter}=" for preset in PRESETS.values() for parameter in preset.parameters}


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field holds, if it is one."""
    for each in (annotation, *typing.get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Section):
            return each
    return None


def values(section: type[Section], path: str, name: str) -> Iterator[str]:
    if (path, name) == ("objective.", "name"):
        yield from PRESETS
    elif name in section.model_fields:
        yield from _values(section.model_fields[name].annotation)


def _values(annotation: Any) -> Iterator[str]:
    if typing.get_origin(annotation) is Literal:
        yield from map(str, typing.get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "null"
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):  # one of a list is given bare
        for each in typing.get_args(annotation):
            yield from _values(each)
