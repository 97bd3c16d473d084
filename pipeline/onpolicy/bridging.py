"""Pairs whose chosen side is an edit: the rejected answer, rewritten towards the chosen one (BMC, arXiv 2408.07471).

The edit and the answer that it was made of differ in little, and so in what matters. Held-out pairs stay as they are.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.benchmarks.thoughts import spoken
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.preferences.messages import Dropped
from pipeline.preferences.normalise import Normaliser, Preference, split_of
from pipeline.preferences.rows import Source
from pipeline.results.tables import messages_json
from pipeline.settings.inputs import SAMPLED, Data

WORDS_VERSION = 1  # raised when what is asked below changes
SOURCE = "bridged"  # what the label of such a pair is from
_ASKED = """\
Here is a conversation, a weak answer to its last message, and a better answer.

[Conversation]
{conversation}

[Weak answer]
{rejected}

[Better answer]
{chosen}

Improve the weak answer with the better one as a guide. Change as little as possible: keep its order, its style and \
every word that need not change, and correct what is wrong, missing or not asked for. Reply with the improved answer \
alone, without a word before or after it."""
_HEADINGS = re.findall(r"^\[.+\]$", _ASKED, re.MULTILINE)


@dataclass
class Found:
    """The pairs of a source: those to be edited, those that stay, and the rows that are neither."""

    edited: list[tuple[int, Preference]] = field(default_factory=list)  # with the number of the row
    kept: list[Preference] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)  # rows of tables.DROPPED
    beyond_limit: int = 0


def read_pairs(source: Source, data: Data) -> Found:
    """What becomes of each row. Train pairs are edited, at most `data.limit`, those of the lowest ids; each once.

    Raises UserError where the source holds no pairs.
    """
    found, seen = Found(), set[str]()
    normaliser = Normaliser(source.rows, data.columns, data.difficulty_column, data.pairing)
    normaliser.repeats &= source.loader != SAMPLED  # whose answers are whole, though they begin with their prompt
    for number, row in source.rows:
        for outcome in normaliser.read(row):
            if isinstance(outcome, Preference):
                why = _why_not(outcome) if outcome.pair_id not in seen else Dropped("duplicate", outcome.pair_id)
                seen.add(outcome.pair_id)
            else:
                why = outcome
            if why is not None or not isinstance(outcome, Preference):
                assert why is not None
                found.dropped.append(_dropped(number, why, getattr(row, "detail", row)))
            elif split_of(outcome, data.dev_fraction) == "train":
                found.edited.append((number, outcome))
            else:
                found.kept.append(outcome)
    if data.limit is not None and len(found.edited) > data.limit:
        found.beyond_limit = len(found.edited) - data.limit
        lowest = sorted(found.edited, key=lambda each: each[1].pair_id)[: data.limit]
        found.edited = sorted(lowest, key=lambda each: each[0])
    return found


def request(pair: Preference, max_tokens: int) -> Request:
    """What an editor is asked."""
    conversation = "\n\n".join(f"{message['role']}: {message['content']}" for message in pair.prompt)
    texts = {"chosen": pair.chosen["content"], "rejected": pair.rejected["content"]}
    return Request(({"role": "user", "content": _ASKED.format(conversation=conversation, **texts)},), max_tokens)


def edit(pair: Preference, reply: Reply, max_growth: float) -> str | Dropped:
    """The edited answer in a reply, or why there is none."""
    if reply.text is None:
        return Dropped("no-reply", reply.why)
    if reply.cut:
        return Dropped("cut", f"the edit did not end within its {reply.completion_tokens} tokens")
    text = (spoken(reply.text) or "").strip()
    chosen, rejected = str(pair.chosen["content"]), str(pair.rejected["content"])
    if not text:
        return Dropped("empty-edit", "nothing is left beside thoughts" if reply.text.strip() else "the reply is empty")
    if text == rejected.strip():
        return Dropped("unchanged", text[:200])
    if any(each in text and each not in chosen + rejected for each in _HEADINGS):
        return Dropped("echo", text[:200])
    shorter, longer = sorted((len(chosen), len(rejected)))
    of = f"{len(text)} characters, of answers with {len(rejected)} and {len(chosen)}"
    if len(text) > max_growth * longer:
        return Dropped("grown", of)
    if len(text) * max(1.0, max_growth) < shorter:
        return Dropped("shrunk", of)
    return text


@dataclass
class Edits:
    """What came of the edits that were asked for."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # of tables.BRIDGED
    dropped: list[dict[str, Any]] = field(default_factory=list)
    copied: int = 0  # edits that are the chosen answer itself

    @property
    def reasons(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.dropped)


def edits(found: Found, replies: list[Reply], max_growth: float) -> Edits:
    """Edited pairs, and those without an edit with the reason; then the pairs that stay."""
    made = Edits()
    for (number, pair), reply in zip(found.edited, replies, strict=True):
        text = edit(pair, reply, max_growth)
        if isinstance(text, Dropped):
            content = {"rejected": pair.rejected["content"], "chosen": pair.chosen["content"], "edit": reply.text}
            made.dropped.append(_dropped(number, text, content))
        else:
            made.copied += text == str(pair.chosen["content"]).strip()
            unrated = {"chosen_score": None, "rejected_score": None}
            made.rows.append(_row(pair, text) | unrated | {"source": SOURCE, "split": "train"})
    for pair in found.kept:
        scores = {"chosen_score": pair.chosen_score, "rejected_score": pair.rejected_score}
        split = pair.split or "dev"  # held out by data.dev_fraction
        made.rows.append(_row(pair, str(pair.chosen["content"])) | scores | {"source": pair.source, "split": split})
    return made


def some(rows: list[dict[str, Any]], count: int = 3) -> Iterator[dict[str, Any]]:
    """A few edits to look at, the same whenever they are drawn."""
    of_edits = [row for row in rows if row["source"] == SOURCE]
    yield from random.Random(0).sample(of_edits, min(count, len(of_edits)))


def _row(pair: Preference, chosen: str) -> dict[str, Any]:
    rejected = str(pair.rejected["content"])
    return {
        "prompt": messages_json(list(pair.prompt)),
        "chosen": chosen,
        "rejected": rejected,
        "label_confidence": None,
    }


def _why_not(pair: Preference) -> Dropped | None:
    """Why a pair cannot be edited."""
    if pair.tools or any(side.keys() != {"role", "content"} for side in (pair.chosen, pair.rejected)):
        return Dropped("more-than-text", "functions, calls or thoughts stand beside its answers")
    return None


def _dropped(number: int, why: Dropped, content: Any) -> dict[str, Any]:
    return {"row": number, "reason": why.reason, "detail": ascii(why.detail)[1:-1], "content": ascii(content)[:4000]}
