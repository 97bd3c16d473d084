"""Answers as the benchmarks' own tools read them."""

import json
from typing import Any

from pipeline.evaluation.exports.answers import export


def row(question: str, turn: int, response: str, sample: int = 0, **meta: Any) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"{question}, {turn}?"}]
    return {
        **{"question_id": question, "sample": sample, "turn": turn, "prompt": json.dumps(prompt)},
        **{"meta": json.dumps(meta), "response": response, "tokens": len(response), "finish_reason": "stop"},
    }


def lines(content: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.split("\n") if line]


def test_alpaca_eval_takes_the_first_sample() -> None:
    name, content = export("alpaca_eval", "m", [row("q", 1, "A", 1), row("q", 1, "B\u2028", dataset="koala")])
    assert name == "m/model_outputs.json"
    assert json.loads(content) == [{"dataset": "koala", "instruction": "q, 1?", "output": "B\u2028", "generator": "m"}]


def test_mt_bench_has_turns_within_choices() -> None:
    rows = [row("81", 1, "a"), row("82", 1, "c"), row("81", 2, "b"), row("81", 1, "d", 1), row("81", 2, "e", 1)]
    name, content = export("mt_bench", "m", rows)
    first, second = lines(content)
    assert name == "model_answer/m.jsonl"
    assert first["question_id"] == 81 and first["model_id"] == "m"
    assert first["choices"] == [{"index": 0, "turns": ["a", "b"]}, {"index": 1, "turns": ["d", "e"]}]
    assert second["choices"] == [{"index": 0, "turns": ["c"]}]
    assert first["answer_id"] != second["answer_id"]


def test_arena_hard() -> None:
    (old,) = lines(export("arena_hard_v0.1", "m", [row("q", 1, "yes")])[1])
    assert old["choices"] == [{"index": 0, "turns": [{"content": "yes", "token_len": 3}]}]
    answer = "# T\n## U\n1. a\n- **b** __c__\n```\n# code\n```"
    (new,) = lines(export("arena_hard_v2.0", "m", [row("u", 1, answer)])[1])
    assert (new["uid"], new["model"]) == ("u", "m")
    assert [message["content"] for message in new["messages"]] == ["u, 1?", {"answer": answer}]
    metadata = new["metadata"]
    assert metadata["header_count"] == {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0}
    assert metadata["list_count"] == {"ordered": 1, "unordered": 1} and metadata["bold_count"] == {"**": 1, "__": 1}


def test_the_same_answers_give_the_same_file() -> None:
    rows = [row("a", 1, "x"), row("b", 1, "y")]
    assert export("arena_hard_v2.0", "m", rows) == export("arena_hard_v2.0", "m", rows)
    assert export("mine", "m", rows) == export("mine", "m", rows)
