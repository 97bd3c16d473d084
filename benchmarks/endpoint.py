"""Whether a judge's endpoint is kept at its allowed concurrency: JSON on stdout.

    python -m benchmarks.endpoint [--n 400] [--concurrency 16] [--latency 0.2]

A local server, in a process of its own, answers each request after `latency` seconds. The ideal is that all places are
taken all the time: n / concurrency rounds of `latency`; `of_ideal` is that over the time that was taken.
"""

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

from actors.endpoint import Endpoint
from pipeline.evaluation.judging.asking import Reply, Request
from pipeline.settings.resources import JudgeEndpoint

ANSWER = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "[[A=B]]"}}]}).encode()


def serve(latency: float, port: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which keeps connections open, as real endpoints do
        wbufsize = 1 << 16  # one packet an answer: the second of two would wait for the first one's receipt

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(latency)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(ANSWER)))
            self.end_headers()
            self.wfile.write(ANSWER)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, request_queue_size = True, 256

    server = Server(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


def ask(port: int, n: int, concurrency: int) -> float:
    """Seconds for `n` requests, none of them answered before."""
    heard: list[Reply] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = JudgeEndpoint(concurrency=concurrency)
        endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", None, settings, Path(folder))
        started = time.perf_counter()
        requests = [Request(({"role": "user", "content": str(i)},), max_tokens=16) for i in range(n)]
        endpoint.ask(requests, heard.append, model="judge")
        seconds = time.perf_counter() - started
    if len(heard) != n or any(reply.text is None for reply in heard):
        raise RuntimeError("some requests were not answered")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400, help="requests")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds that the server takes")
    options = parser.parse_args()
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(options.latency, there), daemon=True)
    server.start()
    try:
        port = here.recv()
        ask(port, options.concurrency, options.concurrency)  # imports, and what is set up once
        seconds = ask(port, options.n, options.concurrency)
    finally:
        server.terminate()
    ideal = math.ceil(options.n / options.concurrency) * options.latency
    print(json.dumps({**vars(options), "seconds": round(seconds, 3), "of_ideal": round(ideal / seconds, 3)}, indent=2))


if __name__ == "__main__":
    main()
