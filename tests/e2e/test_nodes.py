"""A whole node lost, of a cluster of a head without CPUs and four nodes of two each, all on this machine."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Head, running_head
from tests.e2e.doors import made, only
from tests.e2e.running import (
    PARTS,
    Calm,
    actors,
    beside,
    finish,
    knows_a_checkpoint,
    same_parts,
    same_training,
    start,
    until,
)

pytestmark = pytest.mark.e2e

# How soon a lost node is noticed; by default after some fifteen seconds.
IMPATIENT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}


@dataclass(frozen=True)
class Cluster:
    head: Head
    nodes: list["subprocess.Popen[bytes]"]

    def holding(self, title: str) -> "subprocess.Popen[bytes]":
        """The node that runs the one actor of this title."""
        (node,) = (node for node in self.nodes if node.poll() is None and actors(node.pid, title))
        return node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Every test may lose a node."""
    with running_head(cpus=0, **IMPATIENT) as head:
        nodes: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(4):  # one after the other: two that start at once can take each other's ports
                said = tmp_path_factory.getbasetemp() / f"node-{number}.txt"
                nodes.append(join(head, said))
                deadline = time.monotonic() + 120
                while "Ray runtime started" not in said.read_text():
                    assert nodes[-1].poll() is None and time.monotonic() < deadline, said.read_text()
                    time.sleep(0.2)
            yield Cluster(head, nodes)
        finally:
            for node in nodes:
                lose(node)


def join(head: Head, said: Path) -> "subprocess.Popen[bytes]":
    ray = [str(Path(sys.executable).parent / "ray"), "start", f"--address={head.environment['RAY_ADDRESS']}"]
    with said.open("wb") as out:
        return subprocess.Popen(
            [*ray, "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--disable-usage-stats"],
            env=os.environ | head.environment | IMPATIENT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def lose(node: "subprocess.Popen[bytes]") -> None:
    """All of a node's processes at once, as when its power fails."""
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def test_a_node_lost_in_prepare(tiny: Path, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = ({"prompt": f"Name colour {n}.", "chosen": "Red.", "rejected": f"Seven {n}."} for n in range(10_000))
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    given = (f"model.source={tiny}", f"data.source={file}", "data.shard_pairs=4000", "resources.log_seconds=1")
    made("prepare", *given, f"resources.root={tmp_path / 'calm'}", "resources.prepare_workers=1")
    root = tmp_path / "root"
    driver = start(cluster.head, "prepare", *given, f"resources.root={root}", "resources.prepare_workers=2")
    until(lambda: list(root.glob("prepare/*.partial/blocks/block-*")), driver)
    until(lambda: any(actors(node.pid, "ray::_call") for node in cluster.nodes), driver)
    lose(next(node for node in cluster.nodes if actors(node.pid, "ray::_call")))
    finish(driver)
    assert same_parts(only(tmp_path / "calm", "prepare"), only(root, "prepare"))


def test_a_node_lost_in_the_reference_stage(scored: Calm, cluster: Cluster, tmp_path: Path) -> None:
    driver = start(cluster.head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    lose(cluster.holding("Scorer"))
    finish(driver)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


def test_a_node_lost_in_a_training(trained: Calm, cluster: Cluster, tmp_path: Path) -> None:
    driver = start(cluster.head, "train", *beside(trained, tmp_path, "prepare", "reference", "schedule"))
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    lose(cluster.holding("RayTrainWorker"))
    finish(driver)
    assert same_training(only(trained.root, "train"), only(tmp_path, "train"))
