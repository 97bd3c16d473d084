"""The vLLM generator: an actor that holds one engine and answers one shard of questions a call."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline import tables
from pipeline.config import Generate
from pipeline.preferences.shapes import Dropped
from pipeline.preferences.tokenise import Tokeniser, load_tokenizer
from pipeline.schedule import uniform

Question = dict[str, Any]  # a pipeline.evaluation.questions.Question, with `benchmark` and `sample`


@dataclass(frozen=True)
class GeneratorSpec:
    model: str  # a folder in Hugging Face format
    dtype: Literal["float32", "bfloat16"]
    chat_template: str | None  # a Jinja file
    trust_remote_code: bool
    folder: str  # where finished shards go
    settings: Generate
    max_model_len: int
    gpus: float  # of one engine, which is laid over as many
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
        tokenizer = load_tokenizer(Path(spec.model), spec.chat_template, trust_remote_code=spec.trust_remote_code)
        self.tokeniser = Tokeniser(tokenizer, spec.max_model_len, spec.max_model_len)
        self.engine = LLM(
            model=spec.model,
            dtype=spec.dtype,
            trust_remote_code=spec.trust_remote_code,
            seed=spec.settings.seed,
            max_model_len=spec.max_model_len,
            tensor_parallel_size=max(1, int(spec.gpus)),
            gpu_memory_utilization=spec.gpu_memory_fraction,
            enforce_eager=True,
            disable_log_stats=True,
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Answer the shards in columns `part` and `questions` (JSON); a turn of a shard is one call of the engine."""
        done = [
            self._shard(str(name), json.loads(rows))
            for name, rows in zip(batch["part"], batch["questions"], strict=True)
        ]
        return {key: [row[key] for row in done] for key in ("part", "rows", "tokens", "seconds")}

    def _shard(self, name: str, questions: list[Question]) -> dict[str, Any]:
        started = time.perf_counter()
        talks = [list(question["messages"]) for question in questions]
        answers: list[list[dict[str, Any]]] = [[] for _ in questions]
        for turn in range(1, 2 + max(len(question["then"]) for question in questions)):
            asked = [index for index, question in enumerate(questions) if turn <= 1 + len(question["then"])]
            for index, row in zip(asked, self._answers([(questions[i], talks[i], turn) for i in asked]), strict=True):
                answers[index].append(row)
                if turn <= len(questions[index]["then"]):
                    talks[index] += [
                        {"role": "assistant", "content": row["response"]},
                        {"role": "user", "content": questions[index]["then"][turn - 1]},
                    ]
        rows = [row for own in answers for row in own]
        tables.write(rows, tables.RESPONSES, Path(self.spec.folder) / name)
        tokens = sum(row["tokens"] for row in rows)
        return {"part": name, "rows": len(rows), "tokens": tokens, "seconds": time.perf_counter() - started}

    def _answers(self, asked: list[tuple[Question, list[dict[str, str]], int]]) -> list[dict[str, Any]]:
        """Rows of tables.RESPONSES for (question, messages, turn), by one call of the engine."""
        from vllm import SamplingParams, TokensPrompt

        settings = self.spec.settings
        rows, prompts, parameters = [], [], []
        for question, messages, turn in asked:
            seed = self._seed(question, turn)
            ids = self.tokeniser.prompt(messages)
            row = {key: question[key] for key in ("question_id", "benchmark", "sample")}
            row |= {"turn": turn, "prompt": tables.messages_json(messages), "meta": json.dumps(question["meta"])}
            rows.append({**row, "seed": seed, "response": "", "tokens": 0, "finish_reason": "no-room"})
            if not isinstance(ids, Dropped) and (room := self.spec.max_model_len - len(ids)) > 0:
                prompts.append((rows[-1], TokensPrompt(prompt_token_ids=ids)))
                temperature = settings.temperature if question["temperature"] is None else question["temperature"]
                parameters.append(
                    SamplingParams(
                        temperature=temperature,
                        top_p=settings.top_p,
                        max_tokens=min(settings.max_new_tokens, room),
                        stop=list(settings.stop),
                        seed=seed,
                    )
                )
        outputs = self.engine.generate([prompt for _, prompt in prompts], parameters, use_tqdm=False)
        for (row, _), output in zip(prompts, outputs, strict=True):
            (answer,) = output.outputs
            row |= {"response": answer.text, "tokens": len(answer.token_ids), "finish_reason": answer.finish_reason}
        return rows

    def _seed(self, question: Question, turn: int) -> int:
        """Keyed by what is asked, so that order and sharding do not matter."""
        key = (question["question_id"], question["sample"], turn)
        return int(uniform("generate", self.spec.settings.seed, *key) * 2**31)
