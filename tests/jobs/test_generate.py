"""How long a conversation may be, and which presets fit: without an engine."""

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jobs.generate import room_for
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.questions import Question
from pipeline.evaluation.benchmarks.sampling import check_family

SHORT = Question("short", ({"role": "user", "content": "one two"},))
TALK = Question("talk", ({"role": "user", "content": "one two"},), ("three",))


class Words:
    """A tokeniser whose tokens are words."""

    def prompt(self, messages: list[dict[str, str]]) -> list[str]:
        return " ".join(message["content"] for message in messages).split()


def room(questions: list[Question], most: int | None, answers: tuple[int, ...] = (5, 5)) -> int:
    words: Any = Words()
    return room_for([("mine", question) for question in questions], answers[: len(questions)], words, most)


def test_room_is_for_every_turn_and_its_answer() -> None:
    assert room([SHORT], None) == 2 + 5
    assert room([SHORT, TALK], None) == (2 + 1 + 1) + 2 * 5 + 64  # an earlier answer counts one, and may take more
    assert room([SHORT, TALK], 50) == 50
    assert room([SHORT, TALK], None, (90, 5)) == 2 + 90 + 64  # a question's answers are as long as it says


def test_a_model_that_takes_no_question_is_refused() -> None:
    assert room([SHORT, TALK], 7) == 7  # the talk's answers will be cut
    with pytest.raises(UserError, match="may take 7 tokens, the model takes 6"):
        room([SHORT, TALK], 6)


def test_a_preset_of_another_family_is_refused() -> None:
    """Its control tokens are words here: it would end answers in the middle."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(108)} | {"<eos>": 108}, "w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
    with pytest.raises(UserError, match=r"gemma-2 ends answers at token 1, .* but 'w1'"):
        check_family("gemma-2", tokenizer)
    with pytest.raises(UserError, match=r"at token 128001, .* but none"):
        check_family("llama-3-instruct", tokenizer)
    check_family("mistral-base", tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["w1", "w107"]})
    check_family("gemma-2", tokenizer)
