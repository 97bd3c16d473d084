"""An OpenAI-compatible endpoint: many requests at a time, each made until it is answered or clearly will not be.

What was answered is kept in a file of its own, named by what was asked, so that nothing is asked or paid for twice.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai

from pipeline.errors import UserError
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.results.artifacts import canonical
from pipeline.results.files import write_aside
from pipeline.settings.config import JudgeEndpoint

TOP = 5  # likeliest first tokens that are asked for, as in AlpacaEval
PATIENCE = 60.0  # seconds between two tries at most, whatever the endpoint asks for
_PASSING = (408, 409, 425, 429)  # statuses of requests that may be answered later, as those from 500 on
_SETTINGS = (401, 403, 404, 405)  # of an endpoint, a key or a model that are wrong: no request will be answered


class Endpoint:
    def __init__(self, url: str, key: str | None, settings: JudgeEndpoint, cache: Path):
        self.url, self.key, self.settings, self.cache = url, key, settings, cache
        cache.mkdir(parents=True, exist_ok=True)

    def ask(self, requests: Sequence[Request], answered: Callable[[Reply], None], **sampling: Any) -> list[Reply]:
        """A reply for each request, in their order; `answered` hears of each as it comes.

        `sampling` goes into every request: model, temperature. Raises UserError where the endpoint refuses the key or
        the model: then it would refuse all others, too.
        """
        return asyncio.run(self._ask(requests, answered, sampling))

    async def _ask(
        self, requests: Sequence[Request], answered: Callable[[Reply], None], sampling: dict[str, Any]
    ) -> list[Reply]:
        limit = asyncio.Semaphore(self.settings.concurrency)
        pace = _Pace(self.settings.requests_a_minute)
        # Its own retries are off: they know nothing of answers that are none.
        async with openai.AsyncOpenAI(
            base_url=self.url, api_key=self.key or "none", max_retries=0, timeout=self.settings.timeout_seconds
        ) as client:

            async def one(request: Request) -> Reply:
                body = asked(request) | sampling
                file = self._file(body)
                reply = kept(file)
                if reply is None:
                    async with limit:
                        reply = await self._answer(client, pace, body)
                    if reply.text is not None:
                        write_aside(file, json.dumps(asdict(reply)))
                answered(reply)
                return reply

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(request)) for request in requests]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None  # the others were cancelled by it, or say the same
        return [task.result() for task in tasks]

    def _file(self, body: dict[str, Any]) -> Path:
        digest = hashlib.sha256(canonical(body).encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / f"{digest}.json"

    async def _answer(self, client: openai.AsyncOpenAI, pace: "_Pace", body: dict[str, Any]) -> Reply:
        why, asked_for = "", None
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await asyncio.sleep(asked_for or min(PATIENCE, 0.25 * 2**attempt) * random.uniform(0.5, 1.0))
            await pace.turn()
            asked_for = None
            try:
                return read(await client.chat.completions.create(**body))
            except openai.APIStatusError as error:
                why = self._hidden(f"status {error.status_code}: {' '.join(str(error.message).split())[:200]}")
                if error.status_code in _SETTINGS:
                    remedy = "check resources.judge_endpoint.url and key_env, and judge.model"
                    raise UserError(f"the judge at {self.url} refuses: {why}", remedy) from None
                if error.status_code < 500 and error.status_code not in _PASSING:
                    break  # this request is at fault
                asked_for = _retry_after(error)
            except (openai.APIError, ValueError) as error:  # no connection, too late, or nothing that can be read
                why = self._hidden(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return Reply(None, why)

    def _hidden(self, text: str) -> str:
        """An endpoint may repeat the key it was given."""
        return text.replace(self.key, "***") if self.key else text


def asked(request: Request) -> dict[str, Any]:
    """What a request is in the endpoint's own terms."""
    body: dict[str, Any] = {"messages": list(request.messages), "max_tokens": request.max_tokens}
    return body | {"logprobs": True, "top_logprobs": TOP} if request.first_token else body


def kept(file: Path) -> Reply | None:
    """An earlier reply; None where there is none, or what is there cannot be read."""
    try:
        return Reply(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def read(completion: Any) -> Reply:
    """The first choice's text. Raises ValueError for what is no chat completion: clients hand on whatever came."""
    try:
        text = completion.choices[0].message.content
    except (AttributeError, LookupError, TypeError):
        raise ValueError("no chat completion") from None
    if not isinstance(text, str):
        raise ValueError("a chat completion without text")
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
    prompt, completed = (count if isinstance(count, int) else 0 for count in counts)
    cut = getattr(completion.choices[0], "finish_reason", None) == "length"
    return Reply(text, "", prompt, completed, first_token(completion), cut)


def first_token(completion: Any) -> dict[str, float]:
    """Log-probs of the likeliest first tokens; none where the endpoint gives none."""
    try:
        return {each.token: float(each.logprob) for each in completion.choices[0].logprobs.content[0].top_logprobs}
    except (AttributeError, LookupError, TypeError, ValueError):
        return {}


def _retry_after(error: openai.APIStatusError) -> float | None:
    """How many seconds the endpoint asks to be left alone, where it says so in numbers."""
    try:
        return min(PATIENCE, max(0.0, float(error.response.headers.get("retry-after", ""))))
    except ValueError:
        return None


class _Pace:
    """Turns that are at least a minute's share apart."""

    def __init__(self, a_minute: float | None):
        self.apart, self.next = 60 / a_minute if a_minute else 0.0, 0.0

    async def turn(self) -> None:
        now = asyncio.get_running_loop().time()
        at = max(now, self.next)
        self.next = at + self.apart
        if at > now:
            await asyncio.sleep(at - now)
