"""The vLLM generator: an actor that holds one engine and answers one shard of questions a call."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine import Completion, Engine, EngineSpec
from actors.pooled import Pooled
from pipeline.preferences.messages import Dropped
from pipeline.randomness import uniform
from pipeline.results import tables

Question = dict[str, Any]  # as benchmarks.questions.Question, with `benchmark`, `sample` and its `sampling`
Row = dict[str, Any]  # of tables.RESPONSES


@dataclass(frozen=True)
class GeneratorSpec:
    engine: EngineSpec
    folder: str  # where finished shards go
    seed: int


class Generator(Pooled):
    def open(self, spec: GeneratorSpec) -> None:
        self.spec, self.engine = spec, Engine(spec.engine)

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Answer a shard of `questions` (JSON of Question); a turn of it is one call of the engine."""
        self.engine.forget()  # else rounding would tell whether a restart began with this shard
        questions = json.loads(work["questions"])
        talks = [list(question["messages"]) for question in questions]
        answers: list[list[Row]] = [[] for _ in questions]
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
        tables.write(rows, tables.RESPONSES, Path(self.spec.folder) / work["part"])
        tokens = sum(row["tokens"] for row in rows)
        return {"rows": len(rows), "tokens": tokens}

    def _answers(self, asked: list[tuple[Question, list[dict[str, str]], int]]) -> list[Row]:
        """A row for each (question, messages, turn), by one call of the engine."""
        sampling = [self._sampling(question, turn) for question, _, turn in asked]
        answers = self.engine.answer([messages for _, messages, _ in asked], sampling)
        return [
            {
                **{key: question[key] for key in ("question_id", "benchmark", "sample")},
                "turn": turn,
                "prompt": tables.messages_json(messages),
                "meta": json.dumps(question["meta"]),
                **_said(answer),
                "seed": used["seed"],
            }
            for (question, messages, turn), used, answer in zip(asked, sampling, answers, strict=True)
        ]

    def _sampling(self, question: Question, turn: int) -> dict[str, Any]:
        """What SamplingParams take. The seed is keyed by what is asked, so that order and sharding do not matter."""
        key = (question["question_id"], question["sample"], turn)
        return question["sampling"] | {"seed": int(uniform("generate", self.spec.seed, *key) * 2**31)}


def _said(answer: Completion | Dropped) -> Row:
    if isinstance(answer, Completion):
        return {"response": answer.text, "tokens": answer.tokens, "finish_reason": answer.finish_reason}
    why = answer.reason if answer.reason in tables.UNASKED else "not-rendered"
    return {"response": "", "tokens": 0, "finish_reason": why}
