"""The real demo model, from its GGUF file to the report: converting, scoring, training, answering, judging."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docker.image import command, laid_out
from tests.e2e.answers import greedy
from tests.e2e.conftest import free_ports, wait_for
from tests.e2e.doors import made, only, rows

pytestmark = pytest.mark.e2e


def test_the_demo_model_goes_through_the_whole_line_as_in_the_image(tmp_path: Path) -> None:
    """In an environment of the image's packages and files alone, with a Ray of its own: what lacks there shows."""
    asked = ("generate.prompts=20", "generate.max_new_tokens=12", "generate.shard_prompts=20")
    done = command(laid_out(tmp_path / "image"), "configs/smoke.yaml", f"resources.root={tmp_path}", *asked)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    said = done.stdout
    assert "model: converting" in said and "smoke: 8 results made, 0 kept" in said
    assert (only(tmp_path, "report") / "report.html").stat().st_size > 100_000

    trained, converted = only(tmp_path, "train"), only(tmp_path, "model")
    held_out = json.loads((trained / "manifest.json").read_text())["metrics"]["held_out"]
    assert held_out["before"] != held_out["after"]
    scored = rows(only(tmp_path, "reference"), ["chosen_logps", "chosen_tokens"])
    per_token = [row["chosen_logps"] / row["chosen_tokens"] for row in scored]
    assert -6 < sum(per_token) / len(per_token) < -0.5  # a language model's; a random one is at -ln(49152) = -10.8

    for label, folder in (("smollm2-*", converted), ("gamma-dpo-*", trained / "model")):
        for row in rows(only(tmp_path, "generate", label)):
            assert row["response"] == greedy(folder, json.loads(row["prompt"]), 12)
    judges_itself(converted, tmp_path, asked)


def judges_itself(model: Path, root: Path, asked: tuple[str, ...]) -> None:
    """vLLM's own server, with the base model, compares both models' answers; hardly a verdict of its can be read."""
    with vllm_server(model) as url:
        said = (f"resources.judge_endpoint.url={url}", "judge.model=demo", "judge.max_tokens=24", "judge.max_missing=0")
        made("run", f"resources.root={root}", *asked, *said, "--from", "judge")
    (judged,) = root.glob("judge/*/games.parquet")
    figures = json.loads((judged.parent / "manifest.json").read_text())["metrics"]["benchmarks"]["verifiable"]["judged"]
    games = figures["matches"][0]["summary"]
    assert (games["games"], games["missing"]) == (40, 0) and games["read"] + games["unparsable"] + games["alike"] == 40
    assert games["unparsable"] + games["read"] > 0 and figures["prompt_tokens"] > 0 and figures["completion_tokens"] > 0


@contextmanager
def vllm_server(model: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    options = ["--model", str(model), "--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)]
    options += ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    server = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(port, server)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
