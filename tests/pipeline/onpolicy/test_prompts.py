"""Prompts out of rows of any shape: each once, in an order that only content decides; every row accounted for."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.onpolicy.prompts import Asked, Prompt, look, read_prompts
from pipeline.preferences.messages import Dropped
from pipeline.preferences.normalise import Preference, prompt_id_of
from pipeline.preferences.verifiable import Question
from pipeline.settings.onpolicy import Prompts


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def written(folder: Path, rows: list[Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def read(folder: Path, rows: list[Any], **given: Any) -> Asked:
    return read_prompts(Prompts(source=written(folder, rows), **given))


SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "pair": ({"prompt": "Q?", "chosen": "A.", "rejected": "B."}, ["A.", "B."]),
    "messages": ({"prompt": [user("Q?")], "chosen": [said("A.")], "rejected": [said("B.")]}, ["A.", "B."]),
    "conversations": ({"chosen": [user("Q?"), said("A.")], "rejected": [user("Q?"), said("B.")]}, ["A.", "B."]),
    "ranked": ({"prompt": "Q?", "responses": [{"text": "A.", "score": 2}, {"text": "B.", "score": 1}]}, ["A.", "B."]),
    "tied": ({"prompt": "Q?", "responses": [{"text": "A.", "score": 1}, {"text": "B.", "score": 1}]}, []),
    "alone": ({"prompt": "Q?"}, []),
    "chat": ({"prompt": [user("Q?")]}, []),
    "answered": ({"messages": [user("Q?"), said("A.")]}, ["A."]),
    "sharegpt": ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}, ["A."]),
    "instruction": ({"instruction": "Q?", "input": "", "output": "A."}, []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_is_read_out_of_any_shape(shape: str, tmp_path: Path) -> None:
    row, answers = SHAPES[shape]
    asked = read(tmp_path, [row])
    assert list(asked.prompts) == [prompt_id_of([user("Q?")])] and asked.reasons == {}
    (prompt,) = asked.prompts.values()
    assert prompt.messages == (user("Q?"),)
    assert [message["content"] for _, message in prompt.answers] == answers
    assert [name for name, _ in prompt.answers] == ["chosen", "rejected"][: len(answers)]


def test_a_prompt_has_the_id_that_prepare_knows_it_by() -> None:
    pair = Preference((user("Q?"),), said("A."), said("B."))
    assert pair.prompt_id == prompt_id_of([user("Q?")]) == prompt_id_of([dict(reversed(user("Q?").items()))])


def test_a_conversation_is_asked_up_to_its_last_answer(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, user("Q?"), said("A."), user("And?"), said("B.")]
    (prompt,) = read(tmp_path, [{"messages": talk, "source": "chats", "split": "validation"}]).prompts.values()
    assert prompt == Prompt(tuple(talk[:-1]), (("chosen", talk[-1]),), source="chats", split="dev")


def test_rows_in_any_order_are_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number % 20}?"} for number in range(60)]
    asked = read(tmp_path, rows)
    assert (asked.rows, len(asked.prompts), asked.repeated) == (60, 20, 40)
    assert list(asked.prompts) == sorted(asked.prompts)
    random.Random(0).shuffle(rows)
    again = read(tmp_path, rows)
    assert list(again.prompts.items()) == list(asked.prompts.items())


def test_a_larger_limit_keeps_the_same_and_more(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}?"} for number in range(20)]
    few, more = read(tmp_path, rows, limit=5), read(tmp_path, rows, limit=9)
    assert list(more.prompts)[:5] == list(few.prompts) and len(more.prompts) == 9
    assert (few.beyond_limit, more.beyond_limit) == (15, 11)


def test_every_row_is_a_prompt_a_repetition_or_dropped_for_a_reason(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    rows: list[Any] = [
        {"prompt": "One?"},
        {"prompt": "Two?", "source": "mine"},
        {"prompt": "One?"},
        {"prompt": "   "},
        {"prompt": None, "answer": "x"},
        {"prompt": [said("I begin."), said("I go on.")]},
        {"prompt": "Three?", "tools": [tool]},
        {"prompt": "Four?", "split": "holdout"},
        {"prompt": 7},
        "not json",
    ]
    asked = read(tmp_path, rows)
    reasons = {"empty-prompt": 1, "missing-prompt": 1, "bad-role": 1, "tools": 1, "bad-split": 1, "wrong-type": 1}
    assert asked.reasons == {**reasons, "unreadable-row": 1}
    assert asked.rows == 10 == len(asked.prompts) + asked.repeated + asked.beyond_limit + len(asked.dropped)
    assert {row["row"] for row in asked.dropped} == {4, 5, 6, 7, 8, 9, 10}
    two = prompt_id_of([user("Two?")])
    asked.leave_out(two, Dropped("prompt-too-long", "9 tokens"))
    assert two not in asked.prompts and asked.dropped[-1]["row"] == 2


def test_the_embedded_prompts_carry_what_rules_need() -> None:
    asked = read_prompts(Prompts(limit=12))
    assert len(asked.prompts) == 12
    for prompt_id, prompt in asked.prompts.items():
        assert prompt_id == prompt_id_of(prompt.messages)
        question = Question.restore(prompt_id, list(prompt.messages), json.loads(json.dumps(prompt.meta)))
        assert question.constraints and all(wording in question.messages[0]["content"] for wording in question.wordings)
    assert asked.prompts.keys() <= read_prompts(Prompts(limit=20)).prompts.keys()


@pytest.mark.parametrize(
    ("rows", "given", "says"),
    [
        ([{"text": "x"}] * 3, {}, r"sample\.prompts\.source: none of its first 3 rows holds a prompt.*missing-prompt"),
        ([{"q": "x"}], {"columns": {"prompt": "p"}}, r"sample\.prompts\.columns\.prompt=p: the first rows"),
        ([], {}, r"sample\.prompts\.source .* holds no rows"),
    ],
)
def test_a_source_without_prompts_is_told_at_once(
    rows: list[Any], given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        look(Prompts(source=written(tmp_path, rows), **given))
    assert "data." not in caught.value.problem + caught.value.remedy
    assert list(read(tmp_path, [{"q": "Q?"}], columns={"prompt": "q"}).prompts) == [prompt_id_of([user("Q?")])]
