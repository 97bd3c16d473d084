"""Putting answers to a model that judges: games between two models' answers, and ratings of single ones."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from actors.endpoint import Endpoint, Reply
from jobs.stage import Progress, Work
from pipeline.config import JudgeEndpoint
from pipeline.errors import UserError
from pipeline.evaluation import games, ratings

ORDERS = (False, True)  # of a question's two games: whether the trained model's answer is shown first
Row = dict[str, Any]


class ModelJudge:
    """The judge at resources.judge_endpoint. Raises UserError, before any work, where it cannot be asked."""

    def __init__(self, work: Work):
        self.settings, self.resources = work.config.judge, work.config.resources
        self.words = games.wording(self.settings.wording)
        url, key = address(self.resources.judge_endpoint)
        self.endpoint = Endpoint(url, key, self.resources.judge_endpoint, work.step.address.root / ".replies")

    def compare(
        self, benchmark: str, asked: Mapping[str, str], ours: Mapping[str, str], theirs: Mapping[str, str]
    ) -> tuple[list[Row], Row]:
        """Rows of tables.GAMES and their figures: every question twice, once in each order. Texts by question id."""
        played = [games.alike(name, first) for name in asked for first in ORDERS if ours[name] == theirs[name]]
        open_games = [(name, first) for name in asked for first in ORDERS if ours[name] != theirs[name]]
        requests = [
            self.words.messages(asked[name], *((ours[name], theirs[name]) if first else (theirs[name], ours[name])))
            for name, first in open_games
        ]
        replies = self._ask(benchmark, requests)
        found = [games.read_game(*game, reply.text, reply.why) for game, reply in zip(open_games, replies, strict=True)]
        played += found
        self._require([game.judgment for game in found if game.outcome == "missing"], len(played), benchmark)
        figures = {
            **asdict(games.summarise(played, self.settings.resamples, self.settings.seed)),
            **self._cost(replies),
        }
        rows = [{"benchmark": benchmark} | games.as_row(game) for game in played]
        return rows, {"judge": self.settings.model, "wording": self.words.name, **figures}

    def rate(self, benchmark: str, answers: Mapping[str, Sequence[Row]]) -> tuple[list[Row], Row]:
        """Rows of tables.RATINGS and their figures: each turn of each model's answers, rows of tables.RESPONSES."""
        turns = [(model, ratings.Turn.of(row)) for model, rows in answers.items() for row in rows]
        replies = self._ask(benchmark, [turn.messages() for _, turn in turns])
        rated = [
            ratings.read_rating(model, turn, reply.text, reply.why)
            for (model, turn), reply in zip(turns, replies, strict=True)
        ]
        self._require([each.judgment for each in rated if each.outcome == "missing"], len(rated), benchmark)
        figures = asdict(ratings.summarise(rated, self.settings.resamples, self.settings.seed))
        return [{"benchmark": benchmark} | asdict(each) for each in rated], {
            "judge": self.settings.model,
            "wording": ratings.NAME,
            **figures,
            **self._cost(replies),
        }

    def _ask(self, benchmark: str, requests: Sequence[Sequence[games.Message]]) -> list[Reply]:
        progress = Progress(f"judge, {benchmark}", len(requests), "verdicts", self.resources.log_seconds)

        def answered(reply: Reply) -> None:
            progress.add(1, "" if reply.text is not None else f", no answer ({reply.why})")

        sampling = {"max_tokens": self.settings.max_tokens, "temperature": self.settings.temperature}
        return self.endpoint.ask(requests, answered, model=self.settings.model, **sampling)

    def _require(self, missing: Sequence[str], asked: int, benchmark: str) -> None:
        if len(missing) > self.settings.max_missing * asked:
            raise UserError(
                f"{len(missing)} of {asked} verdicts on {benchmark} are missing (judge.max_missing allows "
                f"{self.settings.max_missing:.0%}), such as: {missing[0]}",
                "mend what keeps the judge from answering; the same command asks for the missing ones alone",
            )

    def _cost(self, replies: Sequence[Reply]) -> Row:
        return {name: sum(getattr(reply, name) for reply in replies) for name in ("prompt_tokens", "completion_tokens")}


def address(endpoint: JudgeEndpoint) -> tuple[str, str | None]:
    """(URL, key) of the judge. Raises UserError where either is not there, or the URL itself holds a secret."""
    url = endpoint.url
    if url is None:
        raise UserError("judge.model is set, but not where it is", "set resources.judge_endpoint.url")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"resources.judge_endpoint.url={url} is no URL", "give one such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        problem = f"resources.judge_endpoint.url of {parts.hostname} may hold a secret, which manifests would repeat"
        raise UserError(problem, "put the key into an environment variable, and its name into key_env")
    if endpoint.key_env is None:
        return url, None
    key = os.environ.get(endpoint.key_env)
    if not key:
        problem = f"resources.judge_endpoint.key_env={endpoint.key_env}: there is no such environment variable"
        raise UserError(problem, f"export {endpoint.key_env}=... before the command")
    return url, key
