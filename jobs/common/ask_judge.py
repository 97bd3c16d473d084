"""Putting requests to the model that judges: one at an endpoint, or one that runs here in vLLM actors."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from jobs.common.saying import Progress, doing, tell
from jobs.common.stage import Work
from pipeline.errors import UserError
from pipeline.settings.inputs import Model
from pipeline.settings.resources import JudgeEndpoint

if TYPE_CHECKING:
    from pipeline.compute.models import ModelSource
    from pipeline.evaluation.judging.asking import Reply, Request


class ModelJudge(Protocol):
    name: str
    prices: tuple[float, float] | None  # dollars a million tokens, asked and answered
    remedy: str  # where too many of its verdicts are missing

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply to each, in order."""


def judge_of(work: Work) -> ModelJudge | None:
    """The judge that the settings mean. Raises UserError, before any work, where it cannot be asked."""
    if work.config.judge.model is not None:
        return AtEndpoint(work, work.config.judge.model)
    local, source = work.config.judge.local, work.plan.judge
    return Here(work, source, local, "judge.local") if local is not None and source is not None else None


class AtEndpoint:
    def __init__(self, work: Work, model: str):
        from actors.endpoint import Endpoint

        self.name, self.work = model, work
        settings = work.config.resources.judge_endpoint
        self.prices = settings.dollars_per_million
        self.remedy = "mend what keeps the judge from answering; the same command asks for the missing ones alone"
        url, key = address(settings)
        self.endpoint = Endpoint(url, key, settings, work.step.address.root / ".replies", tell)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        progress = Progress(self.work.step.name, len(requests), "verdicts", self.work.config.resources.log_seconds)

        def answered(reply: Reply) -> None:
            progress.add(1, "" if reply.text is not None else f", no answer ({reply.why})")

        temperature = self.work.config.judge.temperature
        sampling = {} if temperature is None else {"temperature": temperature}
        return self.endpoint.ask(requests, answered, model=self.name, **sampling)


class Here:
    """A vLLM engine for all requests; finished shards are kept, and become a part of the result."""

    prices: tuple[float, float] | None = None
    remedy = "take a judge of more context or lower judge.max_tokens"

    def __init__(self, work: Work, source: ModelSource, model: Model, setting: str):
        from jobs.common.models import opened

        self.name, self.work, self.model, self.calls = source.label, work, model, 0
        self.folder = opened(work.plan, source, model, setting)

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        from actors.cluster import connected, threads
        from actors.engine import environment
        from actors.judge import Judge, JudgeSpec
        from jobs.common.models import engine_spec
        from jobs.common.pool import run_parts
        from pipeline.evaluation.judging.asking import Reply
        from pipeline.results import tables

        settings, resources, folder = self.work.config.judge, self.work.config.resources, self.work.folder
        self.calls, call = self.calls + 1, self.calls
        shards = [
            {"part": f"replies-{call}-{number:05d}.parquet", "requests": json.dumps([asdict(each) for each in part])}
            for number, part in enumerate(tables.parts(requests, settings.shard_prompts))
        ]
        doing("starting or joining Ray")
        with connected():
            engine = engine_spec(self.folder, self.model, self._room(requests), resources, settings.seed)
            run_parts(
                shards,
                Judge,
                JudgeSpec(engine, str(folder), settings.temperature),
                what=self.work.step.name,
                setting="resources.judges",
                actors=resources.judges,
                resources=resources,
                address=self.work.step.address,
                environment=environment(resources.kv_cache_gib, threads(resources.judges)),
            )
        rows = tables.read(folder, tables.REPLIES, pattern=f"replies-{call}-*.parquet").to_pylist()
        return [Reply(**row | {"first": json.loads(row["first"])}) for row in rows]

    def _room(self, requests: Sequence[Request]) -> int:
        """Tokens of the longest request and its reply; no more than the model takes."""
        from pipeline.compute.limits import positions, read_config
        from pipeline.preferences.messages import Dropped
        from pipeline.preferences.tokenise import open_tokeniser

        most = positions(read_config(self.folder))
        tokeniser = open_tokeniser(self.folder, most or 1, most or 1, **self.model.rendering)
        lengths = [1]
        for request in requests:
            ids = tokeniser.prompt(request.messages)
            lengths.append(0 if isinstance(ids, Dropped) else len(ids) + request.max_tokens)
        return min(max(lengths), most or max(lengths))


def address(endpoint: JudgeEndpoint) -> tuple[str, str | None]:
    """(URL, key) of the judge. Raises UserError where either is not there, or the URL itself holds a secret."""
    url = endpoint.url
    if url is None:
        raise UserError(
            "judge.model is set, but not where it is",
            "set resources.judge_endpoint.url, or judge.local.source in place of judge.model",
        )
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
