"""The columns of a source by the names that are read: mapped by data.columns, guessed for the message that refuses."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences.checks import SCORES
from pipeline.preferences.messages import Unusable, short
from pipeline.preferences.ranked import LISTS
from pipeline.preferences.rows import Row

# What data.columns may map, with other names of each; those are guessed at, and never taken without being told.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "query", "input", "user", "prompt_text", "user_prompt", "problem", "context"),
    "chosen": (
        *("response_j", "accepted", "preferred", "chosen_response", "response_chosen", "answer_chosen", "chosen_text"),
        *("positive", "pos", "good", "better", "winner", "win", "best", "y_w", "output_chosen"),
    ),
    "rejected": (
        *("response_k", "declined", "dispreferred", "rejected_response", "response_rejected", "answer_rejected"),
        *("rejected_text", "negative", "neg", "bad", "worse", "loser", "lose", "worst", "y_l", "output_rejected"),
    ),
    "instruction": (),
    "input": (),
    "system": ("system_prompt", "system_message"),
    "history": (),
    "tools": ("functions",),
    "completions": (),
    "scores": (),
    "ranks": (),
    "chosen_score": ("chosen_rating", "chosen_reward", "rating_chosen", "chosen_avg_rating"),
    "rejected_score": ("rejected_rating", "rejected_reward", "rating_rejected", "rejected_avg_rating"),
    "label_confidence": (),
    "source": (),
    "split": (),
    "images": (),
    "audio": (),
    "videos": (),
}
_PAIR = ("prompt", "chosen", "rejected")
ALWAYS = {*_PAIR, "system", "history", "tools", "label_confidence", "source", "split"}
ALWAYS |= {name for names in SCORES for name in names}
MEDIA = ("image", "images", "audio", "audios", "video", "videos")


class Columns:
    """What data.columns says: for a name that is read the column it stands in, null to leave a column unread.

    Scores come in pairs: one that is left unread leaves the other, and one that is named leaves the other spelling.
    Raises UserError for a name that nothing reads, and for one score named beside another left unread.
    """

    def __init__(self, named: Mapping[str, str | None]):
        for name, column in named.items():
            if name not in NAMES and column is not None:
                near = difflib.get_close_matches(name, NAMES, n=1)
                remedy = f"did you mean {near[0]}?" if near else f"map one of {', '.join(NAMES)}"
                raise UserError(f"data.columns.{name}: nothing is read by this name", remedy)
        self.named = dict(named)
        self._hidden = {*named, *named.values()}
        for names in SCORES:
            null = [name for name in names if name in named and named[name] is None]
            mapped = [f"{name}: {named[name]}" for name in names if named.get(name) is not None]
            if null and mapped:
                problem = f"data.columns leaves {null[0]} unread, and reads {mapped[0]}: scores come in pairs"
                raise UserError(problem, f"name both columns, or give null for {' and '.join(names)}")
            self._hidden |= {*names} if null else {*SCORES[1]} if mapped else set()

    def read(self, row: Row) -> Row:
        """The row by the names that are read."""
        if not self.named:
            return row
        rest = {name: value for name, value in row.items() if name not in self._hidden}
        return rest | {own: row[name] for own, name in self.named.items() if name is not None and name in row}

    def unused(self, seen: Collection[str], read: Collection[str]) -> list[str]:
        """Of the names in a source those that nothing was read from; `read` are such names after the mapping."""
        taken = {name for name in self.named.values() if name is not None}
        return sorted(name for name in seen if name not in taken and (name in self._hidden or name not in read))

    def require(self, rows: Collection[Row], difficulty: str | None) -> None:
        """Raise UserError where the rows lack a column that a setting names."""
        seen = {name for row in rows for name in row}
        lists = {self.named.get("completions") or "", *LISTS}
        within = {name for row in rows for name in _names_within(row, lists)}
        settings = {f"data.columns.{own}": name for own, name in self.named.items()}
        settings |= {f"data.columns.{own}": own for own in self.named if own not in NAMES}  # left unread
        for setting, name in (settings | {"data.difficulty_column": difficulty}).items():
            there = seen | within if setting.endswith(("scores", "ranks")) else seen
            if name is not None and name not in there:
                near = difflib.get_close_matches(name, there, n=2, cutoff=0.5)
                problem = f"{setting}={name}: the first rows of data.source have no such column"
                remedy = f"did you mean {' or '.join(near)}?" if near else f"they have {listed(there)}"
                raise UserError(problem, remedy)


def refuse_media(row: Row, suspects: Collection[str]) -> None:
    """Raise Unusable for a row with an image, audio or video beside its texts; `suspects` are columns not read."""
    for name in MEDIA:
        if row.get(name):
            raise Unusable("media", f"the column {name} holds {short.repr(row[name])}, which is no text")
    for name in suspects:
        value = row.get(name)
        if _is_media(value[0] if isinstance(value, list) and value else value):
            raise Unusable("media", f"the column {name} holds an image, audio or video")


def _is_media(value: Any) -> bool:
    """As the hub's data sets hold media: the bytes of a file with its path, or decoded by PIL."""
    if isinstance(value, dict):
        return {"bytes", "path"} <= value.keys() and not (value["bytes"] is None and value["path"] is None)
    return type(value).__module__.startswith("PIL.")


def _names_within(row: Row, lists: Collection[str]) -> set[str]:
    """Of the completions in one of the columns `lists`, the names of their fields."""
    given = [row[name] for name in lists if isinstance(row.get(name), list)]
    return {name for items in given for item in items if isinstance(item, dict) for name in item}


def guess(seen: set[str]) -> str:
    """The data.columns that would make a pair of these columns; empty where nothing is near."""
    lower = {name.lower(): name for name in sorted(seen, reverse=True)}
    found: dict[str, str] = {}
    for own in _PAIR:
        if own in seen:
            continue
        if own == "prompt" and {"instruction", "input"} <= lower.keys():
            found |= {name: lower[name] for name in ("instruction", "input") if lower[name] != name}
            continue
        match = next((lower[alias] for alias in NAMES[own] if alias in lower), None)
        match = match or next((name for name in sorted(seen) if own[:6] in name.lower() and "score" not in name), None)
        if match is not None and match not in found.values():
            found[own] = match
        elif own != "prompt":  # which whole conversations need not have
            return ""
    return _mapping(found)


def hint(unused: Collection[str]) -> str:
    """The data.columns that would read some of the columns that are not; empty where none has a name that says so."""
    spelled = {name.lower().replace("-", "_"): name for name in unused}
    optional = {own: aliases for own, aliases in NAMES.items() if own not in _PAIR}
    return _mapping({own: spelled[alias] for own, aliases in optional.items() for alias in aliases if alias in spelled})


def _mapping(found: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{own}: {name}" for own, name in found.items()) + "}" if found else ""


def listed(names: Collection[str]) -> str:
    """Names of columns for a message."""
    return ", ".join(map(repr, sorted(names))) or "(none)"
