"""How long a conversation may be: without an engine."""

from typing import Any

import pytest

from jobs.generate import room_for
from pipeline.errors import UserError
from pipeline.evaluation.questions import Question

SHORT = Question("short", ({"role": "user", "content": "one two"},))
TALK = Question("talk", ({"role": "user", "content": "one two"},), ("three",))


class Words:
    """A tokeniser whose tokens are words."""

    def prompt(self, messages: list[dict[str, str]]) -> list[str]:
        return " ".join(message["content"] for message in messages).split()


def room(questions: list[Question], most: int | None) -> int:
    words: Any = Words()
    return room_for([("mine", question) for question in questions], words, 5, most)


def test_room_is_for_every_turn_and_its_answer() -> None:
    assert room([SHORT], None) == 2 + 5
    assert room([SHORT, TALK], None) == (2 + 1 + 1) + 2 * 5 + 64  # an earlier answer counts one, and may take more
    assert room([SHORT, TALK], 50) == 50


def test_a_model_that_takes_no_question_is_refused() -> None:
    assert room([SHORT, TALK], 7) == 7  # the talk's answers will be cut
    with pytest.raises(UserError, match="may take 7 tokens, the model takes 6"):
        room([SHORT, TALK], 6)
