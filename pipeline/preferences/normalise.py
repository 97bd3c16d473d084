"""Rows made one form, or counted out: every row ends as `Preference`s or as `Dropped` with a reason.

The reason is a short slug for the ledger (docs/data.md has them all), the detail gives the value at fault. Nothing here
raises on a row, whatever is in it. Which shapes of row are accepted is in shapes.py.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.preferences.checks import (
    after,
    check_answers,
    check_json,
    check_prompt,
    check_text,
    number,
    scores,
    split,
)
from pipeline.preferences.columns import ALWAYS, NAMES, Columns, guess, listed, refuse_media
from pipeline.preferences.messages import Dropped, Message, Notes, Unusable, plain, read_tools, short
from pipeline.preferences.rows import Row, Unreadable
from pipeline.preferences.shapes import RANKED, SHAPES, read_sides, shape_of

HEAD = 100  # rows at the beginning of a source that are looked at


@dataclass(frozen=True)
class Preference:
    """A normalised pair. Which completion is better is what the row says; the scores may disagree with it."""

    prompt: tuple[Message, ...]
    chosen: Message  # of role assistant, as rejected
    rejected: Message
    chosen_score: float | None = None
    rejected_score: float | None = None
    label_confidence: float | None = None  # P(chosen is preferred)
    difficulty: float | None = None  # larger is harder
    source: str = ""
    split: str | None = None  # train | dev | test, where the row says so
    tools: tuple[Any, ...] = ()  # functions that the assistant may call, as chat templates take them

    @cached_property
    def pair_id(self) -> str:
        """Content digest of prompt, chosen, rejected and tools: 32 hex digits. Scores are no part of it."""
        prompt, chosen, rejected, *tools = self._spelled
        return _digest(prompt, chosen, rejected, *tools)[:32]

    @property
    def mirrored_id(self) -> str:
        """The id of the same two answers with the label the other way round."""
        prompt, chosen, rejected, *tools = self._spelled
        return _digest(prompt, rejected, chosen, *tools)[:32]

    @property
    def prompt_id(self) -> str:
        """As `prompt_id_of` its messages."""
        return _digest(self._spelled[0])[:32]

    @cached_property
    def _spelled(self) -> list[str]:
        """Prompt, chosen, rejected and, where there are any, tools, in the one form of JSON that is digested."""
        sides = [plain(message) for message in (self.chosen, self.rejected)]
        return [*map(_canonical, [list(self.prompt), *sides, *([list(self.tools)] if self.tools else [])])]


def prompt_id_of(messages: Sequence[Message]) -> str:
    """Content digest of a prompt: 32 hex digits."""
    return _digest(_canonical(list(messages)))[:32]


Outcome = Preference | Dropped


class Look(NamedTuple):
    """What the first rows of a source decide for all of them."""

    repeats: bool = False  # the answers begin with their prompt, which is taken off
    scale: str | None = None  # the scores' name in this source; None: not seen yet


class Normaliser:
    """Reads the rows of one source, one after the other, and keeps account of what was found in them.

    It looks at the first rows before: whether answers repeat their prompt is a question about all of them, and so is
    what completions are ranked by, as scores must be of one scale. Raises UserError where none of these rows has an
    accepted shape, most hold images, or a column named by a setting is not there. One that is given such a `look`
    reads any part of the source as the one that took it would.
    """

    def __init__(
        self,
        rows: Iterable[tuple[int, Row | Unreadable]] = (),
        columns: Mapping[str, str | None] | None = None,
        difficulty_column: str | None = None,
        pairing: str = "best-worst",
        look: Look | None = None,
    ):
        self.columns, self.pairing = Columns(columns or {}), pairing
        self.difficulty_column = difficulty_column or "difficulty"
        self.repeats, self.scale = look or Look()
        self._forget()
        if look is not None:
            return
        head = [row for _, row in itertools.islice(rows, HEAD)]
        found = [outcome for row in head for outcome in self._outcomes(row)]
        self._refuse(head, found, difficulty_column)
        self.first = next((each for each in found if isinstance(each, Preference)), None)
        self.repeats = bool(found) and self.repeated_by_both == sum(isinstance(each, Preference) for each in found) > 0
        self.scale = next((scale for scale, _ in self.scales.most_common(1)), None)
        self._forget()

    def _forget(self) -> None:
        self.notes = Notes()
        self.seen_columns: set[str] = set()  # that held anything
        self.repeated = self.repeated_by_both = 0  # pairs of which an answer, or both, begin with their prompt
        self.scales: Counter[str] = Counter()  # rows by the name of their scores

    @property
    def look(self) -> Look:
        """What was decided so far."""
        return Look(self.repeats, self.scale)

    @property
    def unused(self) -> list[str]:
        """The source's columns that nothing is read from."""
        return self.unused_of(self.seen_columns, self.notes.columns)

    def unused_of(self, seen: Collection[str], read: Collection[str]) -> list[str]:
        """Of columns that held anything those that nothing is read from; `read` are such beside those always read."""
        return self.columns.unused(seen, {*ALWAYS, *read, self.difficulty_column})

    def read(self, row: Row | Unreadable) -> list[Outcome]:
        """The pairs that a row holds, and why it holds none or not all. Copies of a pair are not looked for here."""
        outcomes = self._outcomes(row)
        self.scale = self.scale or next(iter(self.scales), None)
        return outcomes

    def _outcomes(self, row: Row | Unreadable) -> list[Outcome]:
        if isinstance(row, Unreadable):
            return [Dropped("unreadable-row", row.detail)]
        try:
            self._see(row)
            read = self.columns.read(row)
            if not (row.keys() <= ALWAYS):
                refuse_media(read, read.keys() - ALWAYS)
            sides = read_sides(read, self.pairing, self.columns.named, self.scale, self.notes)
            common = self._common(row, read)
            self._weigh(sides.scale or ("chosen_score" if common["chosen_score"] is not None else None))
        except Unusable as unusable:
            return [unusable.dropped]
        return [*(self._outcome(sides.prompt, common, *pair) for pair in sides.pairs), *sides.left_out]

    def _weigh(self, scale: str | None) -> None:
        """Raise Unusable for scores of another scale than the source's."""
        if scale is None:
            return
        self.scales[scale] += 1
        if self.scale not in (None, scale):
            raise Unusable("other-scale", f"the scores are {scale}, others of the source {self.scale}")

    def _see(self, row: Row) -> None:
        for name in row.keys() - self.seen_columns:
            if row[name] is not None:
                self.seen_columns.add(name)

    def _common(self, row: Row, read: Row) -> dict[str, Any]:
        """What a row says beside prompt and completions."""
        confidence = number(read, "label_confidence", "bad-confidence")
        if confidence is not None and not 0 <= confidence <= 1:
            raise Unusable("bad-confidence", f"label_confidence is {confidence}, not in [0, 1]")
        chosen_score, rejected_score = scores(read)
        tools = read_tools(read["tools"]) if read.get("tools") else ()
        for tool in tools:
            check_json(tool)
        source = read.get("source")  # where the pair is from; whatever is no text is left out
        if isinstance(source, str):
            check_text(source)
        return {
            "chosen_score": chosen_score,
            "rejected_score": rejected_score,
            "label_confidence": confidence,
            "difficulty": number(row, self.difficulty_column, "bad-difficulty"),
            "source": source if isinstance(source, str) else "",
            "split": split(read.get("split")),
            "tools": tools,
        }

    def _outcome(
        self,
        prompt: list[Message],
        common: dict[str, Any],
        chosen: Message,
        rejected: Message,
        *ranked: float | None,
    ) -> Outcome:
        try:
            check_prompt(prompt)
            # What follows the prompt in answers that begin with it; where all of the source's do, that is the answer.
            question = prompt[-1]["content"].strip()
            rests = [after(question, chosen["content"]), after(question, rejected["content"])]
            if self.repeats and None in rests:
                detail = f"others begin with their prompt: {short.repr(plain(chosen))}"
                raise Unusable("prompt-not-repeated", detail)
            if self.repeats:
                chosen, rejected = {**chosen, "content": rests[0]}, {**rejected, "content": rests[1]}
            check_answers(chosen, rejected)
        except Unusable as unusable:
            return unusable.dropped
        self.repeated += rests != [None, None]
        self.repeated_by_both += None not in rests
        preference = Preference(tuple(prompt), chosen, rejected, **common)
        if ranked[0] is not None:
            return replace(preference, chosen_score=ranked[0], rejected_score=ranked[1])
        return preference

    def _refuse(self, head: list[Row | Unreadable], found: list[Outcome], difficulty: str | None) -> None:
        """Raise UserError where the first rows show that the source, or a setting, is not what was meant."""
        rows = [row for row in head if not isinstance(row, Unreadable)]
        if not rows:
            return
        seen = {name for row in rows for name in row}
        self.columns.require(rows, difficulty)
        media = [each for each in found if isinstance(each, Dropped) and each.reason == "media"]
        if 2 * len(media) > len(found):
            raise UserError(
                f"data.source: {len(media)} of the first {len(rows)} rows are not text alone: {media[0].detail}",
                "give pairs of texts; where a column does not matter, data.columns={NAME: null} leaves it unread",
            )
        if any(isinstance(each, Preference) for each in found):
            return
        named = [self.columns.read(row) for row in rows]
        if binary := {
            self.columns.named.get(name) or name for row in named for name in NAMES if _is_binary(row.get(name))
        }:
            raise UserError(
                f"none of the first {len(rows)} rows of data.source is a pair; {listed(binary)} hold bytes, not texts",
                "write them as texts, with pandas such as table[NAME] = table[NAME].str.decode('utf-8')",
            )
        if any(map(shape_of, named)):
            return
        accepted = "; ".join([*(f"{name}: {shape.wording}" for name, shape in SHAPES.items()), f"ranked: {RANKED}"])
        tried = f"data.columns={near} may be what you mean, or " if (near := guess(seen)) else ""
        raise UserError(
            f"no row of data.source has an accepted shape; its columns are {listed(seen)}",
            f"{tried}map them with data.columns, or convert them, to one of these shapes: {accepted}",
        )


def _is_binary(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, list) and any(isinstance(each, bytes) for each in value))


def split_of(preference: Preference, dev_fraction: float) -> str:
    """The row's own split, else dev for about `dev_fraction` of the prompts and train for the others.

    Drawn from the prompt alone, so that all pairs of a prompt are on the same side.
    """
    if preference.split is not None:
        return preference.split
    draw = int(_digest('"split"', preference._spelled[0])[:13], 16) / 16**13  # 52 bits: exact in a float
    return "dev" if draw < dev_fraction else "train"


_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _digest(*spelled: str) -> str:
    """sha256 of a list of values, each given in canonical JSON."""
    return hashlib.sha256(f"[{','.join(spelled)}]".encode()).hexdigest()
