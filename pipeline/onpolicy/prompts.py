"""Prompts to be answered: out of a source of any shape, each once, in an order that only their content decides."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import UserError
from pipeline.preferences import verifiable
from pipeline.preferences.checks import check_prompt, check_text, split
from pipeline.preferences.columns import Columns, refuse_media
from pipeline.preferences.messages import Dropped, Message, Notes, Unusable
from pipeline.preferences.normalise import HEAD, Look, Normaliser, Preference, prompt_id_of
from pipeline.preferences.rows import Row, Source, Unreadable
from pipeline.preferences.shapes import read_prompt, shape_of
from pipeline.preferences.sources import open_source
from pipeline.settings.inputs import EMBEDDED
from pipeline.settings.onpolicy import EMBEDDED_PROMPTS, Prompts

_SETTING = re.compile(r"\bdata\.(source|columns|split|subset|revision)\b")


@dataclass(frozen=True)
class Prompt:
    """One prompt, and what the data say beside it."""

    messages: tuple[Message, ...]
    answers: tuple[tuple[str, Message], ...] = ()  # the data's own, each as chosen or rejected; some of more than text
    meta: Mapping[str, Any] = field(default_factory=dict)  # what rules need
    source: str = ""
    split: str | None = None

    @property
    def prompt_id(self) -> str:
        return prompt_id_of(self.messages)


@dataclass
class Asked:
    """All prompts of a source, and an account of its rows: each is a prompt, a repetition of one, or dropped."""

    prompts: dict[str, Prompt] = field(default_factory=dict)  # by id, in the order of ids
    numbers: dict[str, int] = field(default_factory=dict)  # of the row that each is of
    rows: int = 0
    repeated: int = 0  # rows whose prompt an earlier row has
    skipped: int = 0
    beyond_limit: int = 0
    dropped: list[dict[str, Any]] = field(default_factory=list)  # rows of tables.DROPPED

    @property
    def reasons(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.dropped)

    def leave_out(self, prompt_id: str, why: Dropped) -> None:
        """Take a prompt away that cannot be asked."""
        content = self.prompts.pop(prompt_id).messages
        self.dropped.append({"row": self.numbers[prompt_id], **_why(why), "content": ascii(list(content))[:4000]})


class PromptReader:
    """Reads prompts out of the rows of one source. Raises UserError where `columns` names one that is not there."""

    def __init__(self, source: Source, columns: Mapping[str, str | None]):
        head = [row for _, row in itertools.islice(source.rows, HEAD) if not isinstance(row, Unreadable)]
        self.columns = Columns(columns)
        self.columns.require(head, None)
        pairs = any(shape_of(self.columns.read(row)) for row in head)
        self.pairs = Normaliser(source.rows, columns) if pairs else Normaliser((), columns, look=Look())
        found = [self.read(row) for row in head]
        if found and all(isinstance(each, Dropped) for each in found):
            reasons = dict(Counter(each.reason for each in found if isinstance(each, Dropped)))
            raise UserError(
                f"data.source: none of its first {len(found)} rows holds a prompt: {reasons}",
                "give rows with a prompt, messages or an instruction; data.columns={prompt: NAME} reads it from NAME",
            )

    def read(self, row: Row | Unreadable) -> Prompt | Dropped:
        """The prompt of a row, with its answers where they can be used."""
        outcomes = self.pairs.read(row)
        pair = next((each for each in outcomes if isinstance(each, Preference)), None)
        try:
            if isinstance(row, Unreadable):
                raise Unusable("unreadable-row", row.detail)
            return self._alone(self.columns.read(row)) if pair is None else _of_pair(pair)
        except Unusable as unusable:
            return unusable.dropped

    def _alone(self, row: Row) -> Prompt:
        refuse_media(row, ())
        if row.get("tools"):
            raise Unusable("tools", _TOOLS)
        messages, answer = read_prompt(row, Notes())
        check_prompt(messages)
        if answer is not None:
            check_text(answer)
        given = row.get("source")
        source = given if isinstance(given, str) else ""
        check_text(source)
        given_too = answer is not None and (answer["content"].strip() or len(answer) > 2)
        answers = (("chosen", answer),) if answer is not None and given_too else ()
        return Prompt(tuple(messages), answers, source=source, split=split(row.get("split")))


_TOOLS = "the row offers functions, which who answers here is not offered"


def _of_pair(pair: Preference) -> Prompt:
    if pair.tools:
        raise Unusable("tools", _TOOLS)
    sides = (("chosen", pair.chosen), ("rejected", pair.rejected))
    return Prompt(pair.prompt, sides, source=pair.source, split=pair.split)


def read_prompts(given: Prompts, rows: int | None = None) -> Asked:
    """Every prompt once, whatever the order of rows: of two rows with one prompt the first says what stands beside it.

    Of more than `given.limit` those with the lowest ids are kept, after the first `given.skip` of them. With `rows`
    only so many of the first are read. Raises UserError where the source holds no prompt, or none is left.
    """
    asked = Asked()
    found = _embedded(given) if given.source == EMBEDDED else _read(given)
    for number, prompt, row in itertools.islice(found, rows):
        asked.rows += 1
        if isinstance(prompt, Dropped):
            content = ascii(getattr(row, "detail", row))[:4000]
            asked.dropped.append({"row": number, **_why(prompt), "content": content})
        elif (prompt_id := prompt.prompt_id) in asked.prompts:
            asked.repeated += 1
        else:
            asked.prompts[prompt_id], asked.numbers[prompt_id] = prompt, number
    several = sorted(asked.prompts)
    left = several if given.source == EMBEDDED else several[given.skip :]  # of those that are made none is made for it
    kept = left[: given.limit]
    if several and not kept and rows is None:
        problem = f"sample.prompts.skip={given.skip} passes over all {len(several)} prompts of {given.source}"
        raise UserError(problem, "lower it, or give more prompts; of rounds each takes sample.prompts.limit others")
    asked.skipped, asked.beyond_limit = len(several) - len(left), len(left) - len(kept)
    asked.prompts = {prompt_id: asked.prompts[prompt_id] for prompt_id in kept}
    return asked


def _why(dropped: Dropped) -> dict[str, str]:
    return {"reason": dropped.reason, "detail": ascii(dropped.detail)[1:-1]}


Numbered = Iterator[tuple[int, Prompt | Dropped, Any]]


def _embedded(given: Prompts) -> Numbered:
    count = given.limit or EMBEDDED_PROMPTS
    for number, task in enumerate(verifiable.questions("train", given.skip + count)[given.skip :], given.skip + 1):
        yield number, Prompt(tuple(task.messages), meta=task.meta, source=EMBEDDED), None


def _read(given: Prompts) -> Numbered:
    with _named():
        source = open_prompts(given)
        reader = PromptReader(source, given.columns)
        for number, row in source.rows:
            yield number, reader.read(row), row


def open_prompts(given: Prompts) -> Source:
    """The source of prompts that are read, not made. Raises UserError."""
    with _named():
        return open_source(
            given.source,
            split=given.split,
            subset=given.subset,
            revision=given.revision,
            columns=given.columns.values(),
        )


def look(given: Prompts) -> None:
    """Raise UserError where the first rows hold no prompt."""
    if given.source != EMBEDDED:
        with _named():
            PromptReader(open_prompts(given), given.columns)


@contextmanager
def _named() -> Iterator[None]:
    """What is wrong with a source, of these settings and not of `data`."""
    try:
        yield
    except UserError as error:
        told = (re.sub(_SETTING, r"sample.prompts.\1", text) for text in (error.problem, error.remedy))
        raise UserError(*told) from None
