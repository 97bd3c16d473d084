"""An OpenAI-compatible endpoint: many requests at a time, each made until it is answered or clearly will not be.

What was answered is kept in a file of its own, named by what was asked, so that nothing is asked or paid for twice.
"""

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import openai

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.thoughts import first_word
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.results.artifacts import canonical
from pipeline.results.files import write_aside
from pipeline.settings.resources import JudgeEndpoint

TOP = 5  # likeliest first tokens that are asked for, as in AlpacaEval
PATIENCE = 60.0  # seconds between two tries at most, whatever the endpoint asks for
_PASSING = (408, 409, 425, 429)  # statuses of requests that may be answered later, as those from 500 on
_SETTINGS = (401, 403, 404, 405)  # of an endpoint, a key or a model that are wrong: no request will be answered

# What some judges do not take, under which name they take it, if any, and what is done.
_INSTEAD = {"max_tokens": "max_completion_tokens", "temperature": None}
_HOW = {"max_tokens": "max_completion_tokens is sent", "temperature": "none is sent: replies are at the judge's own"}
# Of a request that asks for more than there is, which under another name would be no smaller.
_TOO_MUCH = re.compile(
    r"too (large|long|high|many|big)|context (length|window)|output limit|exceed|at most|(greater|less|more) than",
    re.IGNORECASE,
)


class Endpoint:
    def __init__(
        self,
        url: str,
        key: str | None,
        settings: JudgeEndpoint,
        cache: Path,
        tell: Callable[[str], object] = lambda _: None,
    ):
        self.url, self.key, self.settings, self.cache, self.tell = url, key, settings, cache, tell
        self.without: set[str] = set()  # what the judge was found not to take
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
        without: set[str] = set()
        for attempt in range(self.settings.retries + 1):
            if attempt:
                await asyncio.sleep(asked_for or min(PATIENCE, 0.25 * 2**attempt) * random.uniform(0.5, 1.0))
            asked_for = None
            try:
                return await self._sent(client, pace, body, without)
            except openai.APIStatusError as error:
                why = self._hidden(f"status {error.status_code}: {_words(error)[:200]}")
                if error.status_code in _SETTINGS:
                    remedy = "check resources.judge_endpoint.url and key_env, and judge.model"
                    raise UserError(f"the judge at {self.url} refuses: {why}", remedy) from None
                if error.status_code < 500 and error.status_code not in _PASSING:
                    break  # this request is at fault
                asked_for = _retry_after(error)
            except (openai.APIError, ValueError) as error:  # no connection, too late, or nothing that can be read
                why = self._hidden(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return Reply(None, why)

    async def _sent(self, client: openai.AsyncOpenAI, pace: "_Pace", body: dict[str, Any], without: set[str]) -> Reply:
        """The reply to one try, which leaves out or renames what the judge says it does not take.

        `without` is what this request has lost so far. What helped once is believed of all requests that follow; those
        under way by then are refused themselves, each at once and for nothing, and go on as this one does.
        """
        while True:
            without |= self.without
            await pace.turn()
            try:
                completion = await client.chat.completions.create(**_changed(body, without))
            except openai.APIStatusError as error:
                name = refused(error, body.keys() - without)
                if name is None:
                    raise
                without.add(name)
                continue
            if new := (without & body.keys()) - self.without:
                self.without |= new
                for name in sorted(new):
                    self.tell(f"judge: {name} is not taken, so that {_HOW[name]}")
            return replace(read(completion), without=tuple(sorted(without & body.keys())))

    def _hidden(self, text: str) -> str:
        """An endpoint may repeat the key it was given."""
        return text.replace(self.key, "***") if self.key else text


def asked(request: Request) -> dict[str, Any]:
    """What a request is in the endpoint's own terms."""
    body: dict[str, Any] = {"messages": list(request.messages), "max_tokens": request.max_tokens}
    return body | {"logprobs": True, "top_logprobs": TOP} if request.first_token else body


def refused(error: openai.APIStatusError, sent: Collection[str]) -> str | None:
    """Which of what was `sent` the judge does not take, by its own account; None where that is not what is wrong.

    By the error's `param`, or else by any words of it: each server has its own.
    """
    if error.status_code not in (400, 422) or _TOO_MUCH.search(_words(error)):
        return None
    told = error.param if isinstance(error.param, str) and error.param else _words(error)
    return next((name for name in _INSTEAD if name in sent and re.search(rf"(?<!\w){name}(?!\w)", told)), None)


def _words(error: openai.APIStatusError) -> str:
    """What the server said, in one line; the client makes a message of one form alone."""
    plain = isinstance(error.body, dict) and isinstance(error.body.get("message"), str)
    return " ".join(str(error.message if plain or not error.body else error.body).split())


def _changed(body: dict[str, Any], without: Collection[str]) -> dict[str, Any]:
    names = {name: _INSTEAD[name] if name in without else name for name in body}
    return {new: body[name] for name, new in names.items() if new is not None}


def kept(file: Path) -> Reply | None:
    """An earlier reply; None where there is none, or what is there cannot be read."""
    try:
        reply = json.loads(file.read_text(encoding="utf-8"))
        return Reply(**reply | {"without": tuple(reply.get("without", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def read(completion: Any) -> Reply:
    """The first choice's text. Raises ValueError for what is no chat completion: clients hand on whatever came.

    A judge that thought until its tokens were spent said nothing: no text of it is a reply all the same.
    """
    try:
        choice = completion.choices[0]
        text, thoughts = _said(choice.message)
    except (AttributeError, LookupError, TypeError):
        raise ValueError("no chat completion") from None
    cut = getattr(choice, "finish_reason", None) == "length"
    if text is None and not thoughts and not cut:
        raise ValueError("a chat completion without text")
    why = "" if text else "it thought, and said nothing" if thoughts else "cut before a word was said" if cut else ""
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")]
    prompt, completed = (count if isinstance(count, int) else 0 for count in counts)
    first = first_token(choice, (text or "") if thoughts else None)
    return Reply(text or "", why, prompt, completed, first, cut, thoughts)


def _said(message: Any) -> tuple[str | None, str]:
    """(text, thoughts) of a message: servers that keep thoughts apart have a field for them, or parts of content."""
    text = message.content
    thoughts = [getattr(message, name, None) for name in ("reasoning_content", "reasoning")]
    if isinstance(text, list):
        said = [part for part in text if part["type"] == "text"]
        thoughts += [json.dumps(part) for part in text if part["type"] != "text"]
        text = "".join(part["text"] for part in said)
    kept_apart = next((each for each in thoughts if isinstance(each, str) and each), "")
    return (text if isinstance(text, str) else None), kept_apart


def first_token(choice: Any, words: str | None) -> dict[str, float]:
    """Log-probs of the likeliest first tokens after any thoughts, from which `words` may have been told apart; none
    where the endpoint gives none."""
    try:
        tokens = [
            (one.token, {each.token: float(each.logprob) for each in one.top_logprobs or ()})
            for one in choice.logprobs.content
        ]
        return first_word(tokens, words)
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
