"""All doors under one name: widemargin DOOR ..., or python -m jobs DOOR ...

What follows the door's name is read by the door itself, which begins as `python -m jobs.DOOR` would have it.
"""

import ast
import difflib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.common.completion import SHELLS, complete, script
from jobs.common.provenance import git_commit, version
from jobs.common.saying import tell
from jobs.common.stage import Parser

HERE = Path(__file__).parent
GROUPS = {
    "to begin": ("init", "fit", "run", "status"),
    "a stage": ("sample", "rate", "pair", "prepare", "reference", "schedule", "train", "generate", "judge", "report"),
    "a stage that some objectives or settings have": ("bridge", "features", "weigh"),
    "several runs": ("study", "rounds", "sweep"),
    "what came of it": ("rank", "export", "publish", "track", "score", "fetch"),
    "keeping house": ("list", "prune"),
}
COMPLETION = "completion"  # and the one that its scripts call:
COMPLETE = "complete"


def main(arguments: Sequence[str] | None = None) -> None:
    """Open a door. Ends with the door's own status; with 2 where there is no such door."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["help"] and len(words) == 2:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        tell(overview())
        return
    if words == ["--version"]:
        tell(f"widemargin {version('widemargin') or '(not installed)'}, commit {git_commit() or 'unknown'}")
        return
    name, *rest = words
    if name == COMPLETION and rest and rest[0] in SHELLS:
        tell(script(rest[0]))
    elif name == COMPLETE and len(rest) == 2:
        tell("\n".join(complete(rest[0], rest[1], [*doors(), COMPLETION])))
    elif name in doors():
        sys.argv, Parser.before = [name, *rest], "widemargin "
        runpy.run_module(f"jobs.{name}", run_name="__main__", alter_sys=True)
    else:
        tell(refusal(name), sys.stderr)
        sys.exit(2)


def doors() -> list[str]:
    return sorted(file.stem for file in HERE.glob("*.py") if not file.stem.startswith("__"))


def overview() -> str:
    """What each door is for, in a line."""
    grouped = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {"others": tuple(name for name in doors() if name not in grouped)}
    lines = ["usage: widemargin DOOR ...; widemargin DOOR --help says what it takes"]
    for group, names in groups.items():
        if here := [name for name in names if name in doors()]:
            lines += ["", f"{group}:", *(f"  {name:10s} {purpose(name)}" for name in here)]
    shells = "|".join(SHELLS)
    return "\n".join([*lines, "", f'In a shell: eval "$(widemargin {COMPLETION} {shells})" completes what is typed.'])


def purpose(door: str) -> str:
    """The first line of a door's own words, without how it is called."""
    words = ast.get_docstring(ast.parse((HERE / f"{door}.py").read_text(encoding="utf-8"))) or ""
    return words.partition("\n")[0].partition(": python -m ")[0]


def refusal(name: str) -> str:
    near = difflib.get_close_matches(name, [*doors(), COMPLETION], n=1)
    if name == COMPLETION:
        return f"error: widemargin {COMPLETION}: of which shell?\n  remedy: one of {', '.join(SHELLS)}"
    remedy = f"did you mean {near[0]}?" if near else "widemargin --help names all"
    return f"error: widemargin {name}: there is no such door\n  remedy: {remedy}"


if __name__ == "__main__":
    main()
