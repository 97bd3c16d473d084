"""The vLLM generator: an actor that holds one engine and answers one shard of questions a call."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline import tables
from pipeline.config import Generate
from pipeline.schedule import uniform


@dataclass(frozen=True)
class GeneratorSpec:
    model: str  # a folder in Hugging Face format
    dtype: Literal["float32", "bfloat16"]
    trust_remote_code: bool
    folder: str  # where finished shards go
    settings: Generate
    max_model_len: int
    gpu_memory_fraction: float


def environment(kv_cache_gib: float, threads: int) -> dict[str, str]:
    """What vLLM reads from the environment; given through the actor's runtime environment, never set at import."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor, and dies with it
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(threads),
    }


class Generator:
    def __init__(self, spec: GeneratorSpec):
        from vllm import LLM

        self.spec = spec
        self.engine = LLM(
            model=spec.model,
            dtype=spec.dtype,
            trust_remote_code=spec.trust_remote_code,
            seed=spec.settings.seed,
            max_model_len=spec.max_model_len,
            gpu_memory_utilization=spec.gpu_memory_fraction,
            enforce_eager=True,
            disable_log_stats=True,
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Answer the shards in columns `part` and `questions`; one shard is one engine call, whatever the pool."""
        done = [
            self._shard(str(name), list(rows)) for name, rows in zip(batch["part"], batch["questions"], strict=True)
        ]
        return {key: [row[key] for row in done] for key in ("part", "rows", "tokens", "seconds")}

    def _shard(self, name: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
        from vllm import SamplingParams, TokensPrompt

        started = time.perf_counter()
        settings = self.spec.settings
        parameters = [
            SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                seed=self._seed(question),
            )
            for question in questions
        ]
        prompts = [
            TokensPrompt(prompt_token_ids=[int(token) for token in question["prompt_ids"]]) for question in questions
        ]
        outputs = self.engine.generate(prompts, parameters, use_tqdm=False)
        rows = [
            {
                **{key: question[key] for key in ("question_id", "benchmark", "prompt", "meta")},
                "response": output.outputs[0].text,
                "tokens": len(output.outputs[0].token_ids),
                "finish_reason": output.outputs[0].finish_reason,
                "seed": self._seed(question),
            }
            for question, output in zip(questions, outputs, strict=True)
        ]
        tables.write(rows, tables.RESPONSES, Path(self.spec.folder) / name)
        tokens = sum(row["tokens"] for row in rows)
        return {"part": name, "rows": len(rows), "tokens": tokens, "seconds": time.perf_counter() - started}

    def _seed(self, question: dict[str, Any]) -> int:
        """Keyed by the question, so that order and sharding do not matter."""
        return int(uniform("generate", self.spec.settings.seed, question["question_id"]) * 2**31)
