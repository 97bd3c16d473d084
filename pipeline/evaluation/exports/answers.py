"""Answers in the formats of the benchmarks' own tools, so that these read, judge and score them.

| benchmark | format |
|---|---|
| alpaca_eval | AlpacaEval's model_outputs.json: a list of {dataset, instruction, output, generator} |
| arena_hard_v0.1, mt_bench | FastChat's model_answer JSON Lines: {question_id, model_id, choices: [{turns}]} |
| arena_hard_v2.0 | Arena-Hard's model_answer JSON Lines: {uid, model, messages, metadata} |

Others are written as AlpacaEval's are. Nothing in a file depends on when it was written: identifiers are digests, and
times are 0. Rows are those of tables.RESPONSES, of one model and benchmark.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evaluation.profile import without_code

Row = dict[str, Any]


def export(benchmark: str, model: str, rows: Sequence[Row]) -> tuple[str, str]:
    """(file name, content) of one model's answers."""
    name, line = _LINES.get(benchmark, ("", None))
    if line is None:
        outputs = [_alpaca(model, own) for own in _by_question(rows).values()]
        return f"{model}/model_outputs.json", json.dumps(outputs, ensure_ascii=False, indent=1) + "\n"
    lines = [json.dumps(line(model, own), ensure_ascii=False) for own in _by_question(rows).values()]
    return name.format(model=model), "".join(f"{each}\n" for each in lines)


def _by_question(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All samples and turns of each question, in order."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["sample"], row["turn"])):
        found.setdefault(row["question_id"], []).append(row)
    return found


def _alpaca(model: str, rows: Sequence[Row]) -> Row:
    first = rows[0]
    dataset = json.loads(first["meta"]).get("dataset", "")
    return {"dataset": dataset, "instruction": _asked(first), "output": first["response"], "generator": model}


def _fastchat(model: str, rows: Sequence[Row]) -> Row:
    """MT-Bench's turns are texts."""
    choices = [{"index": sample, "turns": [row["response"] for row in turns]} for sample, turns in _samples(rows)]
    question = rows[0]["question_id"]
    named = int(question) if question.isdecimal() else question
    return {"question_id": named, "answer_id": _digest(model, rows), "model_id": model, "choices": choices, "tstamp": 0}


def _arena_v01(model: str, rows: Sequence[Row]) -> Row:
    """Arena-Hard v0.1's turns are objects with a length."""
    choices = [
        {"index": sample, "turns": [{"content": row["response"], "token_len": row["tokens"]} for row in turns]}
        for sample, turns in _samples(rows)
    ]
    named = {"question_id": rows[0]["question_id"], "answer_id": _digest(model, rows), "model_id": model}
    return {**named, "choices": choices, "tstamp": 0}


def _arena_v20(model: str, rows: Sequence[Row]) -> Row:
    first = rows[0]
    answer = {"role": "assistant", "content": {"answer": first["response"]}}
    return {
        "uid": first["question_id"],
        "ans_id": _digest(model, rows),
        "model": model,
        "messages": [*json.loads(first["prompt"]), answer],
        "tstamp": 0,
        "metadata": {"token_len": first["tokens"], **_markdown(first["response"])},
    }


_LINES: Mapping[str, tuple[str, Callable[[str, Sequence[Row]], Row]]] = {
    "mt_bench": ("model_answer/{model}.jsonl", _fastchat),
    "arena_hard_v0.1": ("model_answer/{model}.jsonl", _arena_v01),
    "arena_hard_v2.0": ("model_answer/{model}.jsonl", _arena_v20),
}


def _markdown(answer: str) -> dict[str, dict[str, int]]:
    """What Arena-Hard's style control counts, outside of code."""
    prose = without_code(answer)

    def count(pattern: str) -> int:
        return len(re.findall(pattern, prose, flags=re.MULTILINE))

    return {
        "header_count": {f"h{level}": count(rf"^#{{{level}}}\s") for level in range(1, 7)},
        "list_count": {"ordered": count(r"^\s*\d+\.\s"), "unordered": count(r"^\s*[-*+]\s")},
        "bold_count": {"**": count(r"\*\*[^*\n]+\*\*"), "__": count(r"__[^_\n]+__")},
    }


def _samples(rows: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["sample"], []).append(row)
    return list(found.items())


def _asked(row: Row) -> str:
    return str(json.loads(row["prompt"])[-1]["content"])


def _digest(model: str, rows: Sequence[Row]) -> str:
    content = json.dumps([model, *(row["response"] for row in rows)])
    return hashlib.sha256(content.encode()).hexdigest()[:22]
