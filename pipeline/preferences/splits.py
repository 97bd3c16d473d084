"""Which split or subset of a source is meant, where it has several: chosen by a setting, never guessed."""

import difflib
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import UserError

# A split is named by one of these words in a file's path.
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def chosen(option: str, given: str | None, source: Path, names: Collection[str]) -> str:
    """`given`, which must be one of `names`, or the only one of them."""
    if given is None and len(names) == 1:
        return next(iter(names))
    if given is None:
        raise UserError(
            f"data.source {str(source)!r} has the {option}s {', '.join(sorted(names))}",
            f"choose one with data.{option}",
        )
    if given not in names:
        meant = [name for name in names if given.lower() in WORDS.get(name, ())]
        if len(meant) != 1:
            refuse(option, given, source, names)
        return meant[0]
    return given


def refuse(option: str, given: str | None, source: Path, names: Collection[str]) -> None:
    if given is not None:
        near = difflib.get_close_matches(given, names, n=1)
        has = f"has the {option}s {', '.join(sorted(names))}" if names else f"has no {option}s of its own"
        remedy = f"did you mean {near[0]}?" if near else f"leave data.{option} out" if not names else "choose another"
        raise UserError(f"data.{option}={given!r}: data.source {str(source)!r} {has}", remedy)
