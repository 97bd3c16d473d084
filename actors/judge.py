"""The judge that runs here: an actor that holds one vLLM engine and replies to one shard of requests a call."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.endpoint import TOP
from actors.engine import Engine, EngineSpec
from pipeline import tables


@dataclass(frozen=True)
class JudgeSpec:
    engine: EngineSpec
    folder: str  # where finished shards go
    temperature: float


class Judge:
    def __init__(self, spec: JudgeSpec):
        self.spec, self.engine = spec, Engine(spec.engine)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Reply to the shards in columns `part` and `requests` (JSON of judging.Request), by one engine call each."""
        done = [
            self._shard(str(name), json.loads(requests))
            for name, requests in zip(batch["part"], batch["requests"], strict=True)
        ]
        return {key: [row[key] for row in done] for key in ("part", "rows", "tokens", "seconds")}

    def _shard(self, name: str, requests: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        sampling = [
            {
                "max_tokens": request["max_tokens"],
                "temperature": self.spec.temperature,
                "seed": self.spec.engine.seed,
                "logprobs": TOP if request["first_token"] else None,
            }
            for request in requests
        ]
        rows: list[dict[str, Any]] = [
            {
                "text": answer.text if answer else None,
                "why": "" if answer else f"what it is asked takes more than its {self.engine.room} tokens",
                "prompt_tokens": answer.prompt_tokens if answer else 0,
                "completion_tokens": answer.tokens if answer else 0,
                "first": json.dumps(answer.first if answer else {}),
                "cut": answer is not None and answer.finish_reason == "length",
            }
            for answer in self.engine.answer([request["messages"] for request in requests], sampling)
        ]
        tables.write(rows, tables.REPLIES, Path(self.spec.folder) / name)
        tokens = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
        return {"part": name, "rows": len(rows), "tokens": tokens, "seconds": time.perf_counter() - started}
