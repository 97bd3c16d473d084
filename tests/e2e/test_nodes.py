"""Nodes lost and given back, of a cluster of a head without CPUs and four nodes of two each, all on this machine.

The tests stand in the order in which the cluster shrinks.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from actors.environment import environment
from tests.e2e.conftest import Head, Line, free_ports, running_head
from tests.e2e.doors import REPOSITORY, command, made, only
from tests.e2e.running import (
    LONG,
    PARTS,
    Calm,
    actors,
    as_within_rounding,
    beside,
    finish,
    knows_a_checkpoint,
    newest,
    same_parts,
    same_training,
    start,
    stop_job,
    submitting,
    until,
)

pytestmark = pytest.mark.e2e

# How soon a lost node is noticed, by default after some fifteen seconds, and how often metrics are reported, after ten.
IMPATIENT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
AS_HERE = ("--node-ip-address=127.0.0.1", "--disable-usage-stats")
IMPATIENT |= {"RAY_metrics_report_interval_ms": "1000"}


@dataclass(frozen=True)
class Cluster:
    head: Head
    nodes: list["subprocess.Popen[bytes]"]
    words: Path  # what nodes say when they start
    metrics: list[int]  # the ports of their Prometheus endpoints

    def join(self, cpus: int) -> "subprocess.Popen[bytes]":
        """One more node, once it is up."""
        ray = [str(Path(sys.executable).parent / "ray"), "start", f"--address={self.head.environment['RAY_ADDRESS']}"]
        said, port = self.words / f"{len(self.nodes)}.txt", *free_ports(1)
        with said.open("wb") as out:
            node = subprocess.Popen(
                [*ray, "--block", f"--num-cpus={cpus}", f"--metrics-export-port={port}", *AS_HERE],
                env=os.environ | self.head.environment | IMPATIENT,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(node)
        self.metrics.append(port)
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in said.read_text():
            assert node.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.2)
        return node

    def measured(self) -> dict[str, float]:
        """What the endpoints of all nodes say of us now, by name and our tags: loss, x_total{stage=train}."""
        found: dict[str, float] = {}
        for port in self.metrics:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith("ray_widemargin_"):
                        name, _, rest = line.removeprefix("ray_widemargin_").partition("{")
                        tags = [each for each in ("stage", "reason", "le") if f'{each}="' in rest]
                        told = ",".join(f"{tag}={rest.partition(f'{tag}=')[2].split(chr(34))[1]}" for tag in tags)
                        key = f"{name}{{{told}}}" if told else name
                        found[key] = found.get(key, 0.0) + float(rest.rpartition(" ")[2])
        return found

    def known(self) -> int:
        """How many nodes the head takes to be alive, itself among them: a lost one as long as it has not noticed."""
        bearer = {"Authorization": f"Bearer {self.head.token['RAY_AUTH_TOKEN']}"}
        asked = urllib.request.Request(f"{self.head.dashboard}/api/v0/nodes", headers=bearer)
        with urllib.request.urlopen(asked) as answer:
            nodes = json.load(answer)["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)

    def workers(self) -> list[psutil.Process]:
        return [worker for node in self.nodes if node.poll() is None for worker in actors(node.pid, "RayTrainWorker")]

    def holding(self, title: str) -> "subprocess.Popen[bytes]":
        """The node that runs the one actor of this title."""
        (node,) = (node for node in self.nodes if node.poll() is None and actors(node.pid, title))
        return node


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Every test may lose a node."""
    with running_head(cpus=0, **IMPATIENT) as head:
        one = Cluster(head, [], tmp_path_factory.mktemp("nodes"), [head.metrics])
        try:
            for _ in range(4):  # one after the other: two that start at once can take each other's ports
                one.join(cpus=2)
            yield one
        finally:
            for node in one.nodes:
                lose(node)


def lose(node: "subprocess.Popen[bytes]") -> None:
    """All of a node's processes at once, as when its power fails."""
    if node.poll() is None:
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    node.wait()


def test_every_stage_as_a_job(line: Line, cluster: Cluster, tmp_path: Path, trackers: None) -> None:
    """By a configuration from elsewhere; stopped in its training, and submitted again. What nodes measure of it."""
    root = tmp_path / "root"
    (base,) = (
        file.parent for file in line.root.glob("generate/*/manifest.json") if "generate:base" in file.read_text()
    )
    shutil.copytree(base, root / "generate" / base.name)  # which is what else the second engine would be started for
    config = yaml.safe_load((REPOSITORY / "configs" / "smoke.yaml").read_text())
    config["model"]["source"] = line.settings[0].partition("=")[2]
    (tmp_path / "elsewhere.yaml").write_text(yaml.safe_dump(config | {"resources": {"root": str(root)}}))
    run = command("run", *LONG, "resources.trackers=tensorboard", config=str(tmp_path / "elsewhere.yaml"))
    first = submitting(cluster.head, "--submission-id", "first", entrypoint=run)
    until(lambda: knows_a_checkpoint(root), first)
    stop_job(cluster.head, "first")
    first.communicate(timeout=120)
    assert not list(root.glob("train/*/manifest.json"))
    again = submitting(cluster.head, entrypoint=run)
    seen: dict[str, float] = {}
    while again.poll() is None:
        seen |= cluster.measured()
        time.sleep(0.5)
    said, _ = again.communicate()
    assert again.returncode == 0 and "steps are in a checkpoint and kept" in said, said
    assert "tensorboard has the run's figures and its page" in said
    assert same_parts(only(root, "reference"), only(line.root, "reference"))
    steps = pq.read_table(only(root, "train") / "steps.parquet")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(root / "tracking" / "tensorboard" / only(root, "train").name))
    read.Reload()
    assert [each.step for each in read.Scalars("train/loss")] == steps["step"].to_pylist()
    for stage in ("prepare", "reference", "train", "generate"):
        assert seen[f"stage_pairs_total{{stage={stage}}}"] > 0
    assert seen["step_seconds_count"] > 0 and seen["step"] <= len(steps) and {"loss", "gap"} <= seen.keys()


def test_a_node_lost_in_prepare(tiny: Path, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = ({"prompt": f"Name colour {n}.", "chosen": "Red.", "rejected": f"Seven {n}."} for n in range(10_000))
    file.write_text("".join(json.dumps(pair) + "\n" for pair in [*pairs, {"prompt": "Alone.", "chosen": "Yes."}]))
    given = (f"model.source={tiny}", f"data.source={file}", "data.shard_pairs=4000", "resources.log_seconds=1")
    made("prepare", *given, f"resources.root={tmp_path / 'calm'}", "resources.prepare_workers=1")
    root = tmp_path / "root"
    driver = start(cluster.head, "prepare", *given, f"resources.root={root}", "resources.prepare_workers=2")
    until(lambda: list(root.glob("prepare/*.partial/blocks/block-*")), driver)
    while not (at_work := [node for node in cluster.nodes if actors(node.pid, "ray::_call")]):
        assert driver.poll() is None
        time.sleep(0.02)
    lose(at_work[0])
    finish(driver)
    assert same_parts(only(tmp_path / "calm", "prepare"), only(root, "prepare"))
    assert (
        sum(value for name, value in cluster.measured().items() if name.startswith("dropped_rows_total{reason=")) == 1
    )


def test_a_node_lost_in_the_reference_stage(scored: Calm, cluster: Cluster, tmp_path: Path) -> None:
    driver = start(cluster.head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    lose(cluster.holding("Scorer"))
    finish(driver)
    assert same_parts(only(scored.root, "reference"), only(tmp_path, "reference"))


def test_a_node_lost_in_a_training(trained: Calm, cluster: Cluster, tmp_path: Path) -> None:
    driver = start(cluster.head, "train", *beside(trained, tmp_path, "prepare", "reference", "schedule"))
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    assert all(worker.environ().items() >= environment(0).items() for worker in cluster.workers())
    lose(cluster.holding("RayTrainWorker"))
    finish(driver)
    assert same_training(only(trained.root, "train"), only(tmp_path, "train"))


def test_a_training_goes_on_with_what_it_gets(trained: Calm, cluster: Cluster, tmp_path: Path) -> None:
    """Three workers where a node joined, two where it was lost, three again where it came back: the same training,
    within the bounds of another number of workers. Stopped while it waits for the node, or it would be done before."""
    given = beside(trained, tmp_path, "prepare", "reference", "schedule")
    for node in [node for node in cluster.nodes if node.poll() is None][1:]:
        lose(node)
    borrowed = cluster.join(cpus=1)
    driver = start(cluster.head, "train", *given, "resources.train_workers=[2, 3]")
    until(lambda: knows_a_checkpoint(tmp_path), driver)
    assert newest(tmp_path)["workers"] == 3
    lose(borrowed)
    until(lambda: newest(tmp_path)["workers"] == 2, driver)
    resumed = newest(tmp_path)["resumed"]
    for worker in cluster.workers():
        worker.suspend()
    cluster.join(cpus=1)
    until(lambda: list(tmp_path.glob("train/*.partial/stop")), driver)
    for worker in cluster.workers():
        worker.resume()
    said = finish(driver)
    assert "train: goes on with 2 workers in place of 3" in said and "train: there is room for 3 workers" in said, said
    assert "train: goes on with 3 workers in place of 2" in said and resumed >= 8
    as_within_rounding(trained, only(trained.root, "train"), only(tmp_path, "train"))


def test_a_pool_waits_for_nodes_and_not_for_ever(scored: Calm, cluster: Cluster, tmp_path: Path) -> None:
    """Before it begins, and where the last one is lost. What was finished then is used by the next run."""
    for node in cluster.nodes:
        lose(node)
    until(lambda: cluster.known() == 1, seconds=60, pause=0.2)
    given = (*beside(scored, tmp_path, "prepare"), "resources.wait_for_cluster=30")
    driver = start(cluster.head, "reference", *given)
    assert driver.stdout is not None
    said = ""
    while "waiting for nodes for 0 s of 30" not in said:
        said += (line := driver.stdout.readline())
        assert line, said
    assert "resources.scorers=1 actors, but the cluster has 0 CPUs" in said
    node = cluster.join(cpus=2)
    until(lambda: len(list(tmp_path.glob(PARTS))) >= 3, driver)
    lose(node)
    told, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2 and "Traceback" not in told, told
    assert "error: resources.scorers=1 actors, but the cluster has 0 CPUs, after 30 s\n  remedy: add nodes" in told, (
        told
    )
    assert "resources.wait_for_cluster sets how many seconds it is waited. What is finished is kept" in told
    assert len(list(tmp_path.glob(PARTS))) >= 3


def test_the_cluster_dies(scored: Calm, cluster: Cluster, tmp_path: Path) -> None:
    """By the raylet of the driver's node, which takes the driver with it: its parent tells."""
    cluster.join(cpus=2)
    driver = start(cluster.head, "reference", *beside(scored, tmp_path, "prepare"))
    until(lambda: list(tmp_path.glob(PARTS)), driver)
    for raylet in actors(cluster.head.pid, "raylet/raylet"):
        os.kill(raylet.pid, signal.SIGKILL)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 2 and "Traceback" not in said, said
    assert f"error: the Ray cluster at {cluster.head.environment['RAY_ADDRESS']} died" in said.splitlines()[-2], said
    assert "the same command goes on from there" in said.splitlines()[-1]
