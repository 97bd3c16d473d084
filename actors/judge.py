"""The judge that runs here: an actor that holds one vLLM engine and replies to one shard of requests a call."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.endpoint import TOP
from actors.engine import Completion, Engine, EngineSpec
from actors.pooled import Pooled
from pipeline.evaluation.benchmarks.thoughts import OPENING, spoken
from pipeline.preferences.messages import Dropped, Message
from pipeline.preferences.tokenise import Tokeniser
from pipeline.results import tables


@dataclass(frozen=True)
class JudgeSpec:
    engine: EngineSpec
    folder: str  # where finished shards go
    temperature: float | None  # None: vLLM's own, 1


class Judge(Pooled):
    def open(self, spec: JudgeSpec) -> None:
        self.spec, self.engine = spec, Engine(spec.engine)

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Reply to a shard of `requests` (JSON of judging.Request), by one engine call."""
        self.engine.forget()  # else rounding would tell whether a restart began with this shard
        requests = json.loads(work["requests"])
        sampling = [
            {
                "max_tokens": request["max_tokens"],
                **({} if self.spec.temperature is None else {"temperature": self.spec.temperature}),
                "skip_special_tokens": False,  # some models mark their thoughts by such tokens
                "seed": self.spec.engine.seed,
                "logprobs": TOP if request["first_token"] else None,
            }
            for request in requests
        ]
        opened = opening(self.engine.tokeniser, requests[0]["messages"])
        rows: list[dict[str, Any]] = [
            {
                "text": f"{opened}{answer.text}",
                "why": "",
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.tokens,
                "first": json.dumps(answer.first),
                "cut": answer.finish_reason == "length",
            }
            if isinstance(answer, Completion)
            else _missing(answer)
            for answer in self.engine.answer([request["messages"] for request in requests], sampling)
        ]
        tables.write(rows, tables.REPLIES, Path(self.spec.folder) / work["part"])
        tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
        return {"rows": len(rows), "tokens": tokens}


def _missing(why: Dropped) -> dict[str, Any]:
    said = f"what it is asked cannot be asked: {why.reason} ({why.detail})"
    return {"text": None, "why": said, "prompt_tokens": 0, "completion_tokens": 0, "first": "{}", "cut": False}


def opening(tokeniser: Tokeniser, messages: Sequence[Message]) -> str:
    """The mark of thoughts that begin with a reply, where the template itself opens them; or else nothing."""
    ids = tokeniser.prompt(messages)
    prompt = "" if isinstance(ids, Dropped) else str(tokeniser.tokenizer.decode(ids))
    _, found, header = prompt.rpartition(messages[-1]["content"][-20:])
    return OPENING if found and spoken(header) is None else ""
