"""Judges that do not take what others take, and judges that think, at a real endpoint on this machine."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from actors.endpoint import Endpoint
from actors.judge import opening
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.preferences.tokenise import Tokeniser
from pipeline.settings.resources import JudgeEndpoint
from tests.judge_server import Answer, JudgeServer, Script, judge_server


def ask(judge: JudgeServer, cache: Path, *questions: str, said: list[str] | None = None, **given: Any) -> list[Reply]:
    first_token = given.pop("first_token", False)
    temperature = given.pop("temperature", 0.0)
    settings = JudgeEndpoint(**{"timeout_seconds": 20.0, "retries": 0, **given})
    requests = [Request(({"role": "user", "content": each},), 5, first_token) for each in questions]
    endpoint = Endpoint(judge.url, None, settings, cache, (said if said is not None else []).append)
    sampling = {} if temperature is None else {"temperature": temperature}
    return endpoint.ask(requests, lambda _: None, model="judge", **sampling)


def error(message: str, status: int = 400, **more: Any) -> Answer:
    return Answer(status=status, raw=json.dumps({"error": {"message": message, **more}}).encode())


# As servers say it: by `param`, in words of their own, in no structure at all, and as a validator of fields.
NO_MAX_TOKENS = [
    error(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        type="invalid_request_error",
        param="max_tokens",
        code="unsupported_parameter",
    ),
    error("this model wants max_completion_tokens, not max_tokens", param=None),
    error("not for this model", param="max_tokens"),
    Answer(status=400, raw=b'{"error": "max_tokens: extra fields not permitted"}'),
    Answer(status=422, raw=b'{"detail": [{"loc": ["body", "max_tokens"], "msg": "extra fields not permitted"}]}'),
    Answer(status=400, raw=b"no field max_tokens", headers={"Content-Type": "text/plain"}),
]
NO_TEMPERATURE = [
    error(
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
        type="invalid_request_error",
        param="temperature",
        code="unsupported_value",
    ),
    error("`temperature` is deprecated for this model."),
]


def refusing(server: list[JudgeServer], *rules: tuple[str, Answer]) -> Script:
    """Answers what lacks each of the named parameters."""

    def script(question: str, before: int) -> Answer:
        body = next(each for each in reversed(server[0].bodies) if each["messages"][-1]["content"] == question)
        return next((answer for name, answer in rules if name in body), Answer(f"about {question}"))

    return script


@pytest.mark.parametrize("answer", NO_MAX_TOKENS)
def test_a_judge_without_max_tokens(tmp_path: Path, answer: Answer) -> None:
    """Refused once and for nothing, then asked under the other name; what was answered is not asked again."""
    held: list[JudgeServer] = []
    said: list[str] = []
    with judge_server(refusing(held, ("max_tokens", answer))) as judge:
        held.append(judge)
        replies = ask(judge, tmp_path, *"abcd", said=said, concurrency=1)
        assert [reply.text for reply in replies] == [f"about {each}" for each in "abcd"]
        assert {reply.without for reply in replies} == {("max_tokens",)}
        assert [body.get("max_tokens") for body in judge.bodies] == [5, None, None, None, None]
        assert {body.get("max_completion_tokens") for body in judge.bodies[1:]} == {5}
        assert said == ["judge: max_tokens is not taken, so that max_completion_tokens is sent"]
        assert ask(judge, tmp_path, *"abcd") == replies and len(judge.bodies) == 5


@pytest.mark.parametrize("answer", NO_TEMPERATURE)
def test_a_judge_without_a_temperature(tmp_path: Path, answer: Answer) -> None:
    """Beside one that takes no max_tokens either, as a model that thinks."""
    held: list[JudgeServer] = []
    said: list[str] = []
    with judge_server(refusing(held, ("max_tokens", NO_MAX_TOKENS[0]), ("temperature", answer))) as judge:
        held.append(judge)
        (reply,) = ask(judge, tmp_path, "q", said=said)
        assert (reply.text, reply.without) == ("about q", ("max_tokens", "temperature"))
        assert len(said) == 2 and "temperature is not taken" in said[1]
        assert [sorted(body) for body in judge.bodies][-1] == ["max_completion_tokens", "messages", "model"]


def test_many_at_a_time_are_each_refused_once_at_most_and_each_answered_once(tmp_path: Path) -> None:
    """All are under way when the first is refused; without a retry to spare none is lost, none paid for twice."""
    gate = threading.Barrier(8)
    paid: list[str] = []
    held: list[JudgeServer] = []

    def script(question: str, before: int) -> Answer:
        bodies = [each for each in held[0].bodies if each["messages"][-1]["content"] == question]
        if "max_tokens" in bodies[-1]:
            if before == 0 and not gate.broken and len(held[0].bodies) <= 8:
                gate.wait(20)
            return NO_MAX_TOKENS[0]
        paid.append(question)
        return Answer(f"about {question}")

    questions = [f"q{n}" for n in range(40)]
    with judge_server(script) as judge:
        held.append(judge)
        replies = ask(judge, tmp_path, *questions, concurrency=8)
    assert [reply.text for reply in replies] == [f"about {each}" for each in questions]
    assert sorted(paid) == sorted(questions)
    refused = sum("max_tokens" in body for body in judge.bodies)
    assert 8 <= refused < 40 and len(judge.bodies) == refused + 40


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 5. This model supports at most 4 completion tokens.",
        "This model's maximum context length is 8 tokens, and you requested 9 (4 in max_tokens). Reduce max_tokens.",
        "'max_tokens' or 'max_completion_tokens' is too large: 16000.",
        "Could not finish the message because max_tokens or model output limit was reached.",
        "max_tokens must be less than 4",
    ],
)
def test_a_request_for_too_much_is_not_made_under_another_name(tmp_path: Path, message: str) -> None:
    """A server that ignores the other name would answer with as many tokens as it likes."""
    with judge_server(lambda *_: error(message, param="max_tokens")) as judge:
        (reply,) = ask(judge, tmp_path, "q")
    assert reply.text is None and "status 400" in reply.why and len(judge.bodies) == 1


def test_what_did_not_help_is_not_remembered(tmp_path: Path) -> None:
    """One question is refused in both forms; the others are asked as before."""
    script: Script = lambda question, _: error("no max_tokens here") if question == "bad" else Answer("yes")  # noqa: E731
    with judge_server(script) as judge:
        bad, good = ask(judge, tmp_path, "bad", "good", concurrency=1)
    assert bad.text is None and (good.text, good.without) == ("yes", ())
    assert ["max_tokens" in body for body in judge.bodies] == [True, False, True]


def test_a_temperature_of_null_is_not_sent_and_is_another_question(tmp_path: Path) -> None:
    with judge_server(lambda *_: Answer("yes")) as judge:
        for temperature in (None, 0.0, None, 0.0):
            ask(judge, tmp_path, "q", temperature=temperature)
    assert [body.get("temperature") for body in judge.bodies] == [None, 0.0]


def test_a_reply_kept_by_earlier_code_is_still_a_reply(tmp_path: Path) -> None:
    """It knew of no thoughts, and of nothing that was left out."""
    with judge_server(lambda *_: Answer("yes")) as judge:
        (reply,) = ask(judge, tmp_path, "q")
        (file,) = tmp_path.glob("*.json")
        kept = json.loads(file.read_text())
        file.write_text(json.dumps({key: kept[key] for key in kept.keys() - {"thoughts", "without"}}))
        assert ask(judge, tmp_path, "q") == [reply] and len(judge.bodies) == 1


def parts(*texts: dict[str, Any]) -> bytes:
    message = {"role": "assistant", "content": list(texts)}
    return json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()


@pytest.mark.parametrize(
    ("answer", "text", "thoughts", "wordless"),
    [
        (Answer("[[9]]", thoughts="[[2]]?"), "[[9]]", "[[2]]?", False),
        (Answer(None, thoughts="[[2]]?", finish_reason="length"), "", "[[2]]?", True),
        (Answer(None, thoughts="[[2]]?"), "", "[[2]]?", True),
        (Answer(None, finish_reason="length"), "", "", True),
        (Answer("", finish_reason="length"), "", "", True),
        (Answer("<think>[[2]]", finish_reason="length"), "<think>[[2]]", "", True),
        (
            Answer(raw=parts({"type": "thinking", "thinking": []}, {"type": "text", "text": "[[9]]"})),
            "[[9]]",
            None,
            False,
        ),
    ],
)
def test_thoughts_are_told_from_words(
    tmp_path: Path, answer: Answer, text: str, thoughts: str | None, wordless: bool
) -> None:
    """A judge that thought until its tokens were spent has answered: it is not asked again, and not paid again."""
    with judge_server(lambda *_: answer) as judge:
        for _ in range(2):
            (reply,) = ask(judge, tmp_path, "q", retries=3)
            assert reply.text == text and reply.wordless == wordless
            assert thoughts is None or reply.thoughts == thoughts
            assert bool(reply.why) == (text == "")
    assert len(judge.bodies) == 1


def test_log_probs_are_those_of_the_first_word_after_the_thoughts(tmp_path: Path) -> None:
    noise, first = {"<think>": -0.01, "m": -9.0}, {"m": -0.5, "M": -1.25}
    marked: tuple[tuple[str, dict[str, float]], ...]
    marked = (("<think>", noise), ("hm", {}), ("</think>", {}), ("\n", {}), ("m", first))
    answers = {
        "marked": Answer("<think>hm</think>\nm", tokens=marked),
        "apart": Answer("m", thoughts="hm", tokens=(("hm", noise), ("m", first))),
        "cut": Answer("<think>hm", tokens=marked[:2]),
        "plain": Answer("m", first=first),
    }
    with judge_server(lambda question, _: answers[question]) as judge:
        replies = dict(zip(answers, ask(judge, tmp_path, *answers, first_token=True), strict=True))
    assert {name: reply.first for name, reply in replies.items()} == {
        **dict.fromkeys(("marked", "apart", "plain"), first),
        "cut": {},
    }
    assert [name for name, reply in replies.items() if reply.thinks] == ["marked", "apart", "cut"]


def test_a_template_that_opens_thoughts_is_known_by_its_header(tmp_path: Path) -> None:
    """Of a judge that runs here; what the question says of tags opens nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = Tokenizer(models.BPE({"</s>": 0, **{each: place for place, each in enumerate(alphabet, 1)}}, []))
    letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    plain += "{% if add_generation_prompt %}assistant: {% endif %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>")
    asked = {"role": "user", "content": "Which one is better? Say why <think>"}, {"role": "user", "content": "m or M:"}
    for template, expected in (
        (plain, ""),
        (f"{plain}{{% if add_generation_prompt %}}<think>\n{{% endif %}}", "<think>"),
        (f"{plain}{{% if add_generation_prompt %}}<think>\n\n</think>{{% endif %}}", ""),
    ):
        tokenizer.chat_template = template
        tokeniser = Tokeniser(tokenizer, 512, 512)
        assert [opening(tokeniser, [message]) for message in asked] == [expected] * 2
