"""Put both models' answers to the rules and compare them: python -m jobs.judge --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from jobs.stage import Outcome, Progress, Work, main
from pipeline.config import JudgeEndpoint
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.evaluation.verifiable import Judged
    from pipeline.preferences.verifiable import Question

Which = Literal["base", "trained"]
MODELS: tuple[Which, ...] = ("base", "trained")
ORDERS = (False, True)  # of a question's two games: whether the trained model's answer is shown first


def run(work: Work) -> Outcome:
    """Verdicts as a table, and the benchmark's figures in the manifest."""
    from pipeline import tables
    from pipeline.evaluation.verifiable import baselines, compare, judge, summarise

    settings = work.config.judge
    verdicts: list[dict[str, Any]] = []
    judged: dict[str, list[Judged]] = {model: [] for model in MODELS}
    asked: dict[str, Question] = {}
    if settings.model is not None:
        address(work.config.resources.judge_endpoint)  # before any work
    for model in MODELS:
        for row in tables.read(work.inputs[model].path, tables.RESPONSES).to_pylist():
            question = asked[row["question_id"]] = question_of(row)
            verdict = judge(question, row["response"], row["tokens"], row["finish_reason"])
            judged[model].append(verdict)
            detail = [
                {"kind": kind, "wording": wording, "met": met}
                for kind, wording, met in zip(verdict.kinds, question.wordings, verdict.met, strict=True)
            ]
            named = {"question_id": row["question_id"], "model": model, "score": verdict.share}
            verdicts.append({**named, "detail": json.dumps(detail)})
    tables.write(verdicts, tables.VERDICTS, work.folder / "part-00000.parquet")
    parts = {"part-00000.parquet": len(verdicts)}
    answers = {verdict.text for model in MODELS for verdict in judged[model]}
    empty, constant = baselines(list(asked.values()), answers)
    metrics: dict[str, Any] = {
        **{model: asdict(summarise(judged[model], settings.resamples, settings.seed)) for model in MODELS},
        "comparison": asdict(compare(judged["trained"], judged["base"], settings.resamples, settings.seed)),
        "empty": asdict(empty),
        "constant": asdict(constant),
    }
    if settings.model is not None:
        games, metrics["games"] = play(work, asked, judged)
        parts["games.parquet"] = tables.write(games, tables.GAMES, work.folder / "games.parquet")
    return Outcome(parts, metrics=metrics)


def play(
    work: Work, asked: Mapping[str, Question], judged: Mapping[str, Sequence[Judged]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of tables.GAMES and their figures: every question twice, once in each order, put to the judge."""
    from actors.endpoint import Endpoint, Reply
    from pipeline.evaluation.games import alike, as_row, read_game, summarise, wording

    settings, resources = work.config.judge, work.config.resources
    url, key = address(resources.judge_endpoint)
    words = wording(settings.wording)
    ours, theirs = ({each.question_id: each.text for each in judged[model]} for model in ("trained", "base"))
    played = [alike(name, ours_first) for name in asked for ours_first in ORDERS if ours[name] == theirs[name]]
    games = [(name, ours_first) for name in asked for ours_first in ORDERS if ours[name] != theirs[name]]
    requests = []
    for name, ours_first in games:
        shown = (ours[name], theirs[name]) if ours_first else (theirs[name], ours[name])
        requests.append(words.messages(asked[name].messages[-1]["content"], *shown))
    progress = Progress("judge", len(requests), "verdicts", resources.log_seconds)

    def answered(reply: Reply) -> None:
        progress.add(1, "" if reply.text is not None else f", no answer ({reply.why})")

    cache = work.step.address.root / ".replies"
    replies = Endpoint(url, key, resources.judge_endpoint, cache).ask(
        requests, answered, model=settings.model, max_tokens=settings.max_tokens, temperature=settings.temperature
    )
    played += [read_game(*game, reply.text, reply.why) for game, reply in zip(games, replies, strict=True)]
    missing = [game for game in played if game.outcome == "missing"]
    if len(missing) > settings.max_missing * len(played):
        raise UserError(
            f"{len(missing)} of {len(played)} verdicts are missing (judge.max_missing allows "
            f"{settings.max_missing:.0%}), such as: {missing[0].judgment}",
            "mend what keeps the judge from answering; the same command asks for the missing ones alone",
        )
    figures = {
        **asdict(summarise(played, settings.resamples, settings.seed)),
        "judge": settings.model,
        "wording": words.name,
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }
    return [as_row(game) for game in played], figures


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


def question_of(row: dict[str, Any]) -> Question:
    """The question that a row of tables.RESPONSES answers."""
    from pipeline.preferences.verifiable import Question

    return Question.restore(row["question_id"], json.loads(row["prompt"]), json.loads(row["meta"]))


if __name__ == "__main__":
    main("judge")
