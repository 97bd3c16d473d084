"""Single answers rated from 1 to 10 by a judge, as MT-Bench does (Zheng et al. 2023, arXiv 2306.05685).

Of a later turn the judge sees the conversation before it; where a question has reference answers, as MT-Bench's of
mathematics, reasoning and coding, it sees these, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.verdicts import SCALE, rating
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.evaluation.judging.words import Words, mark_of
from pipeline.preferences.messages import Message
from pipeline.statistics import Interval, clustered_mean

Outcome = Literal["read", "unparsable", "missing"]


@dataclass(frozen=True)
class Turn:
    """One answer of a model, with the conversation that it ends."""

    model: str
    question_id: str
    turn: int
    category: str | None
    before: tuple[Message, ...]  # ends with the question
    answer: str
    references: tuple[str, ...]  # one a turn, or none

    @staticmethod
    def of(model: str, row: Mapping[str, Any]) -> "Turn":
        """From a row of tables.RESPONSES."""
        meta = json.loads(row["meta"])
        references = tuple(meta.get("references") or ())
        before = tuple(json.loads(row["prompt"]))
        return Turn(model, row["question_id"], row["turn"], meta.get("category"), before, row["response"], references)

    def request(self, words: Words, max_tokens: int) -> Request:
        """What the judge is asked. Raises UserError where FastChat's words have none for so late a turn."""
        texts = {"ANSWER": self.answer, "CONVERSATION": self._conversation()}
        asked = [message["content"] for message in self.before if message["role"] == "user"]
        answered = [message["content"] for message in self.before if message["role"] == "assistant"] + [self.answer]
        texts |= {f"QUESTION_{number}": text for number, text in enumerate(asked, 1)}
        texts |= {f"ANSWER_{number}": text for number, text in enumerate(answered, 1)}
        texts |= {f"REFERENCE_{number}": text for number, text in enumerate(self.references, 1)}
        texts["QUESTION"] = asked[-1]
        case = f"turn-{self.turn}{'-reference' if len(self.references) >= self.turn else ''}"
        if "default" in words.cases:
            case = "default"
        elif case not in words.cases:
            problem = f"question {self.question_id}: {words.name} has no words for turn {self.turn}"
            raise UserError(problem, "name another file in judge.wording, or none for our own words")
        return Request(words.messages(case, texts), max_tokens)

    def _conversation(self) -> str:
        """For our own words. Each text stands between marks that hold a digest of them all: none can close its own."""
        texts = [(message["role"], message["content"]) for message in self.before]
        texts += [("assistant, to be rated", self.answer)]
        if len(self.references) >= self.turn:
            texts += [("reference answer, not of the assistant", self.references[self.turn - 1])]
        mark = mark_of(*(text for _, text in texts))
        return "\n\n".join(f"{who} {mark}\n{text}\nend {mark}" for who, text in texts)


@dataclass(frozen=True)
class Rated:
    """A row of tables.RATINGS, but for its benchmark."""

    question_id: str
    turn: int
    model: str
    category: str | None
    outcome: Outcome
    rating: float | None
    judgment: str  # the judge's words, or why there are none


def read_rating(turn: Turn, reply: Reply) -> Rated:
    """The rating in a judge's words; beyond 1 to 10 it is none."""
    value = None if reply.text is None else rating(reply.text)
    if value is not None and not SCALE[0] <= value <= SCALE[1]:
        value = None
    outcome: Outcome = "missing" if reply.text is None else "unparsable" if value is None else "read"
    words = reply.text or reply.why
    return Rated(turn.question_id, turn.turn, turn.model, turn.category, outcome, value, words)


@dataclass(frozen=True)
class ModelRating:
    overall: Interval | None  # mean of all ratings, 95 % bootstrap over questions; None without any
    turns: dict[str, float]
    categories: dict[str, float]
    ratings: int
    unparsable: int
    missing: int


def summarise(rated: Sequence[Rated], resamples: int, seed: int) -> ModelRating:
    """One model's means. What has no rating counts for nothing, and is counted."""
    found = [(each, each.rating) for each in rated if each.rating is not None]
    outcomes = [each.outcome for each in rated]

    def means(key: str) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for each, value in found:
            if getattr(each, key) is not None:
                groups.setdefault(str(getattr(each, key)), []).append(value)
        return {name: sum(own) / len(own) for name, own in sorted(groups.items())}

    values, questions = [value for _, value in found], [each.question_id for each, _ in found]
    return ModelRating(
        overall=clustered_mean(values, questions, resamples, seed, within=SCALE) if found else None,
        turns=means("turn"),
        categories=means("category"),
        ratings=len(found),
        unparsable=outcomes.count("unparsable"),
        missing=outcomes.count("missing"),
    )
