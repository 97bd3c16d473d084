"""A benchmark before a judge: which of its answers are put to it, in which words, and what its replies mean."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation.judging import games, ratings
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.evaluation.judging.games import Answer, Asked, Fixture, Game, Match
from pipeline.evaluation.judging.ratings import Rated, Turn
from pipeline.evaluation.judging.words import Method, Words

Row = dict[str, Any]  # of tables.RESPONSES

METHODS: Mapping[str, Method] = {"alpaca_eval": "preference", "mt_bench": "ratings"}  # of the others: games
# Of a judge's words, as the authors set it; preferences take one token. 1,024 for all others.
MAX_TOKENS = {"arena_hard_v0.1": 4096, "arena_hard_v2.0": 16000, "mt_bench": 2048}


def method_of(benchmark: str, several_turns: bool, given: Method | None) -> Method:
    """How answers are judged. Raises UserError for a comparison of conversations."""
    own: Method = "ratings" if several_turns else "games"
    method = given or METHODS.get(benchmark, own)
    if several_turns and method != "ratings":
        raise UserError(
            f"judge.methods.{benchmark}={method}: its questions have several turns, and two conversations differ",
            f"set judge.methods.{benchmark}=ratings",
        )
    return method


def questions_of(rows: Sequence[Row]) -> dict[str, Asked]:
    """What was asked, by question_id."""
    found = {}
    for row in rows:
        meta = json.loads(row["meta"])
        found[row["question_id"]] = shown(json.loads(row["prompt"]), meta)
    return found


def shown(messages: Sequence[Row], meta: Mapping[str, Any]) -> Asked:
    """A question as a judge is shown it."""
    return Asked(_as_text(messages), meta.get("category"))


def _as_text(messages: Sequence[Row]) -> str:
    """What was asked, as one text: with the messages before the question, where there are any."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def matches(benchmark: str, answers: Mapping[str, Sequence[Row]], baseline: Mapping[str, Answer] | None) -> list[Match]:
    """Each model against the baseline; without one, the trained model against the base model.

    `answers` holds rows of both models by name, base first. A question that one side did not answer is in no match.
    """
    texts = {
        model: {row["question_id"]: Answer(model, row["response"], row["tokens"]) for row in rows}
        for model, rows in answers.items()
    }
    against = [("trained", texts["base"])] if baseline is None else [(model, baseline) for model in texts]
    found = []
    for model, theirs in against:
        asked = questions_of([row for row in answers[model] if row["question_id"] in theirs])
        found.append(Match(benchmark, model, asked, texts[model], theirs))
    return found


@dataclass(frozen=True)
class Contest:
    benchmark: str
    method: Method
    words: Words
    max_tokens: int
    matches: Sequence[Match] = ()
    turns: Sequence[Turn] = ()
    thought_tokens: int = games.THOUGHT_TOKENS

    def requests(self) -> list[Request]:
        """All that the judge is asked, in the order in which `read` takes the replies."""
        asked = [
            games.request(match, fixture, self.method, self.words, self.max_tokens)
            for match, fixture in self._fixtures()
            if not match.alike(fixture[0])
        ]
        return asked + [turn.request(self.words, self.max_tokens) for turn in self.turns]

    def further(self, asked: Sequence[Request], replies: Sequence[Reply]) -> dict[int, Request]:
        """What the judge is asked a second time, by the index of the reply that came before it."""
        found = {
            number: games.further(self.benchmark, self.method, *each, self.thought_tokens)
            for number, each in enumerate(zip(asked, replies, strict=True))
        }
        return {number: request for number, request in found.items() if request}

    def read(self, replies: Sequence[Reply]) -> tuple[list[Game], list[Rated]]:
        """The verdicts that the replies to `requests` hold."""
        left = iter(replies)
        played = [
            games.read(match, fixture, self.method, None if match.alike(fixture[0]) else next(left))
            for match, fixture in self._fixtures()
        ]
        return played, [ratings.read_rating(turn, reply) for turn, reply in zip(self.turns, left, strict=True)]

    def _fixtures(self) -> Iterator[tuple[Match, Fixture]]:
        return ((match, fixture) for match in self.matches for fixture in games.fixtures(match, self.method))
