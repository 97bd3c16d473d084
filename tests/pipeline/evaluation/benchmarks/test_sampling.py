"""How answers are sampled: the papers' numbers, and who has the last word."""

from typing import Any

import pytest

from pipeline.evaluation.benchmarks.questions import Question
from pipeline.evaluation.benchmarks.sampling import Sampling, sampling
from pipeline.settings.evaluation import Generate

PLAIN = Question("q", ({"role": "user", "content": "Hi"},))
WARM = Question("w", ({"role": "user", "content": "Write."},), ("More.",), temperature=0.7)  # as MT-Bench's writing


def how(benchmark: str, question: Question = PLAIN, **settings: Any) -> tuple[float, float, int, tuple[int, ...]]:
    found = sampling(Generate(**settings), benchmark, question)
    return found.temperature, found.top_p, found.max_tokens, found.stop_token_ids


@pytest.mark.parametrize(
    ("preset", "temperature", "tokens", "stops"),
    [
        ("llama-3-instruct", 0.9, 4096, (128001, 128009)),
        ("mistral-base", 0.7, 2048, ()),
        ("mistral-instruct", 0.5, 2048, ()),
        ("gemma-2", 0.5, 4096, (1, 107)),
    ],
)
def test_presets(preset: str, temperature: float, tokens: int, stops: tuple[int, ...]) -> None:
    for benchmark in ("alpaca_eval", "mine"):
        assert how(benchmark, preset=preset) == (temperature, 1.0, tokens, stops)
    for benchmark in ("arena_hard_v0.1", "arena_hard_v2.0"):
        assert how(benchmark, preset=preset) == (0.0, 1.0, 4096, stops)
    assert how("mt_bench", WARM, preset=preset) == (0.7, 1.0, 1024, stops)
    assert how("verifiable", preset=preset) == (0.0, 1.0, 32, ())


def test_without_a_preset_the_settings_are_for_all() -> None:
    assert sampling(Generate(), "alpaca_eval", PLAIN) == Sampling(0.0, 1.0, 32, (), ())
    given: dict[str, Any] = {"temperature": 0.3, "top_p": 0.9, "max_new_tokens": 7, "stop_token_ids": [5]}
    assert how("arena_hard_v0.1", **given) == how("verifiable", **given) == (0.3, 0.9, 7, (5,))
    assert how("mt_bench", WARM, **given) == (0.7, 0.9, 7, (5,))


def test_what_the_settings_say_goes_before_the_preset() -> None:
    assert how("alpaca_eval", preset="gemma-2", temperature=0.0) == (0.0, 1.0, 4096, (1, 107))
    assert how("arena_hard_v2.0", preset="gemma-2", temperature=0.2, top_p=0.5) == (0.2, 0.5, 4096, (1, 107))
    assert how("mt_bench", WARM, preset="gemma-2", temperature=0.2, max_new_tokens=9) == (0.7, 1.0, 9, (1, 107))
    assert how("alpaca_eval", preset="gemma-2", stop_token_ids=[]) == (0.5, 1.0, 4096, ())
    assert how("verifiable", preset="gemma-2", temperature=0.2, max_new_tokens=9) == (0.2, 1.0, 9, ())
    assert sampling(Generate(preset="gemma-2", stop=("END",)), "mine", PLAIN).stop == ("END",)


def test_null_is_a_value_only_under_a_preset() -> None:
    """So that a configuration which says what holds anyway finds the same results."""
    assert Generate(temperature=None, stop_token_ids=None) == Generate(temperature=0.0, stop_token_ids=())
    assert Generate(preset="gemma-2") != Generate(preset="gemma-2", temperature=0.0)
    assert Generate.model_validate(Generate(preset="gemma-2").model_dump()) == Generate(preset="gemma-2")
