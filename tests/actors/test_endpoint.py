"""A judge at an endpoint: what fails is asked again, what was answered never, and a key is shown to nobody."""

import time
from pathlib import Path
from typing import Any

import pytest

from actors.endpoint import Endpoint
from pipeline.errors import UserError
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.settings.resources import JudgeEndpoint
from tests.judge_server import Answer, JudgeServer, Script, judge_server

FAULTS = {
    "busy": Answer(status=429, raw=b"{}", headers={"Retry-After": "0.1"}),
    "broken": Answer(status=500, raw=b"oops"),
    "dropped": Answer(drop=True),
    "not json": Answer(raw=b'{"choices": ['),
    "a page": Answer(raw=b"<html>hello</html>", headers={"Content-Type": "text/html"}),
    "no choices": Answer(raw=b'{"choices": []}'),
    "no text": Answer(raw=b'{"choices": [{"message": {"content": null}}]}'),
    "slow": Answer(seconds=3.0),
}


def ask(judge: JudgeServer, cache: Path, *questions: str, key: str | None = None, **settings: Any) -> list[Reply]:
    given = JudgeEndpoint(**{"timeout_seconds": 20.0, "retries": 1, **settings})
    asked = [request(question) for question in questions]
    heard: list[Reply] = []
    replies = Endpoint(judge.url, key, given, cache).ask(asked, heard.append, model="judge")
    assert sorted(map(repr, heard)) == sorted(map(repr, replies))
    return replies


def request(question: str, max_tokens: int = 5, first_token: bool = False) -> Request:
    return Request(({"role": "user", "content": question},), max_tokens, first_token)


def patience(fault: str) -> dict[str, Any]:
    """Little where too late is the fault; else enough for a busy machine."""
    return {"timeout_seconds": 1.5} if fault == "slow" else {}


def echo(question: str, _: int) -> Answer:
    return Answer(f"about {question}")


def test_replies_come_in_order_and_no_more_at_a_time_than_allowed(tmp_path: Path) -> None:
    questions = [f"q{i}" for i in range(30)]
    with judge_server(lambda question, _: Answer(f"about {question}", seconds=0.05)) as judge:
        replies = ask(judge, tmp_path, *questions, concurrency=4, key="secret")
    assert [reply.text for reply in replies] == [f"about {question}" for question in questions]
    assert {(reply.prompt_tokens, reply.completion_tokens) for reply in replies} == {(10, 2)}
    assert judge.most_at_work == 4 and judge.keys == {"Bearer secret"}
    assert {(body["model"], body["max_tokens"]) for body in judge.bodies} == {("judge", 5)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_overcome(tmp_path: Path, fault: str) -> None:
    with judge_server(lambda question, before: Answer("yes") if before else FAULTS[fault]) as judge:
        assert ask(judge, tmp_path, "q", **patience(fault)) == [Reply("yes", "", 10, 2)]
    assert judge.asked == {"q": 2}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_a_missing_reply_and_asked_again_next_time(tmp_path: Path, fault: str) -> None:
    """What was answered beside it is kept; nothing is ever made up."""
    script: Script = lambda question, _: FAULTS[fault] if question == "bad" else Answer("yes")  # noqa: E731
    with judge_server(script) as judge:
        bad, good = ask(judge, tmp_path, "bad", "good", **patience(fault))
        assert bad.text is None and bad.why and good.text == "yes"
        assert judge.asked == {"bad": 2, "good": 1}
    with judge_server(echo) as judge:
        assert [reply.text for reply in ask(judge, tmp_path, "bad", "good")] == ["about bad", "yes"]
        assert judge.asked == {"bad": 1}


def test_a_request_that_is_at_fault_is_not_tried_again(tmp_path: Path) -> None:
    with judge_server(lambda *_: Answer(status=400, raw=b'{"error": {"message": "too long"}}')) as judge:
        (reply,) = ask(judge, tmp_path, "q", retries=5)
    assert reply.text is None and "status 400" in reply.why and "too long" in reply.why and judge.asked == {"q": 1}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_it_at_once_and_is_not_repeated(tmp_path: Path, status: int) -> None:
    raw = b'{"error": {"message": "no such key: planted-key"}}'
    with judge_server(lambda *_: Answer(status=status, raw=raw)) as judge, pytest.raises(UserError) as refused:
        ask(judge, tmp_path, *(f"q{i}" for i in range(50)), key="planted-key", concurrency=2)
    assert f"status {status}" in str(refused.value) and "no such key: ***" in str(refused.value)
    assert "planted-key" not in str(refused.value) and sum(judge.asked.values()) <= 4


def test_nobody_there(tmp_path: Path) -> None:
    with judge_server(echo) as judge:
        pass
    (reply,) = ask(judge, tmp_path, "q")
    assert reply.text is None and "APIConnectionError" in reply.why


def test_other_words_to_the_judge_are_another_question(tmp_path: Path) -> None:
    with judge_server(echo) as judge:
        ask(judge, tmp_path, "q")
        given = JudgeEndpoint(retries=0)
        endpoint = Endpoint(judge.url, None, given, tmp_path)
        for one, model in ((request("q"), "judge"), (request("q", 6), "judge"), (request("q"), "other")):
            endpoint.ask([one], lambda _: None, model=model)
    assert judge.asked == {"q": 3}


def test_log_probs_of_the_first_token(tmp_path: Path) -> None:
    """Asked for where they are wanted, read as they are, kept with the reply; none where the endpoint gives none."""
    answer = Answer("m", first={"m": -0.5, "M": -1.25})
    with judge_server(lambda question, _: answer if question == "q" else Answer("m")) as judge:
        for _ in range(2):
            replies = Endpoint(judge.url, None, JudgeEndpoint(), tmp_path).ask(
                [request("q", 1, True), request("r", 1, True), request("s", 1)], lambda _: None, model="judge"
            )
            assert [reply.first for reply in replies] == [{"m": -0.5, "M": -1.25}, {}, {}]
    asked = {body["messages"][0]["content"]: body.get("top_logprobs") for body in judge.bodies}
    assert asked == {"q": 5, "r": 5, "s": None} and len(judge.bodies) == 3


def test_a_reply_that_was_cut_short_says_so(tmp_path: Path) -> None:
    """Also when it is asked for again, which takes it from where it was kept."""
    ends = {"q": "length", "r": "stop"}
    with judge_server(lambda question, _: Answer("so far", finish_reason=ends[question])) as judge:
        assert [[reply.cut for reply in ask(judge, tmp_path, "q", "r")] for _ in range(2)] == [[True, False]] * 2


def test_a_spoilt_reply_is_asked_for_again(tmp_path: Path) -> None:
    with judge_server(echo) as judge:
        ask(judge, tmp_path, "q")
        (file,) = tmp_path.glob("*.json")
        file.write_text("{")
        assert [reply.text for reply in ask(judge, tmp_path, "q")] == ["about q"]
    assert judge.asked == {"q": 2}


def test_turns_are_a_minutes_share_apart(tmp_path: Path) -> None:
    with judge_server(echo) as judge:
        started = time.monotonic()
        ask(judge, tmp_path, *"abcdef", requests_a_minute=600)
        assert time.monotonic() - started > 0.45  # five intervals of a tenth
