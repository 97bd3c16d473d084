"""A judge at an endpoint, on this machine: a real HTTP server that answers, or fails, as a test tells it to."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`text` is the judge's words; `raw` is sent in place of a chat completion; `drop` closes the connection."""

    text: str | None = "[[A=B]]"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    seconds: float = 0.0
    drop: bool = False
    first: dict[str, float] | None = None  # log-probs of the first token
    finish_reason: str = "stop"
    thoughts: str | None = None  # kept apart from the words
    tokens: tuple[tuple[str, dict[str, float]], ...] = ()  # each with the log-probs in its place


Script = Callable[[str, int], Answer]  # of the last message, and how often it was asked before


class JudgeServer:
    def __init__(self, script: Script):
        self.script, self.lock = script, threading.Lock()
        self.asked: Counter[str] = Counter()  # requests by their last message
        self.keys: set[str | None] = set()
        self.bodies: list[dict[str, Any]] = []
        self.at_work = self.most_at_work = 0
        self.url = ""

    def answer(self, body: dict[str, Any], key: str | None) -> Answer:
        question = body["messages"][-1]["content"]
        with self.lock:
            before = self.asked[question]
            self.asked[question] += 1
            self.keys.add(key)
            self.bodies.append(body)
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        answer = self.script(question, before)
        time.sleep(answer.seconds)
        with self.lock:
            self.at_work -= 1
        return answer


@contextmanager
def judge_server(script: Script) -> Iterator[JudgeServer]:
    judge = JudgeServer(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = judge.answer(body, self.headers["Authorization"])
            if answer.drop:
                self.close_connection = True
                return
            content = answer.raw if answer.raw is not None else completion(answer)
            self.send_response(answer.status)
            for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # a client that gave up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(answer: Answer) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish_reason}
    choice["message"] = {"role": "assistant", "content": answer.text}
    if answer.thoughts is not None:
        choice["message"]["reasoning_content"] = answer.thoughts
    tokens = answer.tokens or ([] if answer.first is None else [(next(iter(answer.first)), answer.first)])
    if tokens:
        choice["logprobs"] = {
            "content": [{**entry(token, 0.0), "top_logprobs": top(likely)} for token, likely in tokens]
        }
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    whole = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(whole).encode()


def entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": None}


def top(likely: dict[str, float]) -> list[dict[str, Any]]:
    return [entry(token, logprob) for token, logprob in likely.items()]
