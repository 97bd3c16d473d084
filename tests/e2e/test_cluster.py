"""On a cluster: Ctrl-C, and what an actor raises; submitted jobs are in test_nodes.py and test_judge.py."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL_MEMORY, with_code
from tests.e2e.conftest import Head, Line, running_head
from tests.e2e.doors import door, made, only, refused
from tests.e2e.running import MANY, settings, start, until

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("stage", ["reference", "train"])
def test_ctrl_c_ends_a_stage_in_one_line(line: Line, head: Head, tmp_path: Path, stage: str) -> None:
    """Interrupted once it is seen at work: a first part written, a first step taken."""
    if stage == "reference":
        long: tuple[str, ...] = (*settings(line, tmp_path), *MANY)
        made("prepare", *long)
        at_work = "reference/*.partial/part-*.parquet"
    else:
        long = (*settings(line, tmp_path, "prepare", "reference"), "schedule.epochs=500")
        made("schedule", *long)
        at_work = "train/*.partial/progress.json"
    driver = start(head, stage, *long)
    until(lambda: list(tmp_path.glob(at_work)), driver)
    os.killpg(driver.pid, signal.SIGINT)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 130, said
    assert said.splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in said


def test_more_actors_than_the_cluster_places_are_refused(line: Line, head: Head, tmp_path: Path) -> None:
    told = refused(
        "reference", *settings(line, tmp_path, "prepare"), "resources.scorers=64", environment=head.environment
    )
    assert "resources.scorers=64" in told and "the cluster has 2 CPUs" in told and "resources.scorers=2" in told


def test_what_an_actor_refuses_comes_out_as_one_message(line: Line, head: Head, tmp_path: Path) -> None:
    ready = settings(line, tmp_path, "prepare")
    told = refused("reference", *ready, "resources.score_tokens=8", environment=head.environment)
    assert "resources.score_tokens=8" in told


@pytest.mark.parametrize("spoilt", ["cut", "no numbers"])
def test_a_model_that_an_actor_cannot_open_is_refused(
    line: Line, head: Head, tmp_path: Path, tiny: Path, spoilt: str
) -> None:
    """Cut weights, as a broken download leaves them; and weights that are no numbers."""
    shutil.copytree(tiny, tmp_path / "spoilt")
    file = tmp_path / "spoilt" / "model.safetensors"
    if spoilt == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        weights = load_file(file)
        weights["model.norm.weight"][3] = float("nan")
        save_file(weights, file, metadata={"format": "pt"})
    ready = (f"model.source={tmp_path / 'spoilt'}", f"resources.root={tmp_path / 'root'}")
    made("prepare", *ready)
    told = refused("reference", *ready, environment=head.environment)
    assert ("cannot be opened" if spoilt == "cut" else "LlamaForCausalLM gives log-probs that are no finite") in told
    assert "fetch" in told


def test_a_model_that_vllm_does_not_know_is_refused(head: Head, tmp_path: Path, tiny: Path) -> None:
    shutil.copytree(tiny, tmp_path / "unheard-of")
    config = json.loads((tiny / "config.json").read_text()) | {"architectures": ["UnheardOfForCausalLM"]}
    (tmp_path / "unheard-of" / "config.json").write_text(json.dumps(config))
    given = (f"model.source={tmp_path / 'unheard-of'}", f"resources.root={tmp_path / 'root'}")
    told = refused("generate", *given, environment=head.environment)
    assert "vLLM cannot serve the model in" in told and "UnheardOfForCausalLM" in told


def test_an_unexpected_failure_says_what_failed_and_where_to_look(line: Line, head: Head, tmp_path: Path) -> None:
    """A folder where a part should be."""
    ready = settings(line, tmp_path, "prepare")
    reference = only(line.root, "reference").name
    (tmp_path / "reference" / f"{reference}.partial" / "part-00000.parquet").mkdir(parents=True)
    done = door("reference", *ready, environment=head.environment)
    assert done.returncode == 1
    first, *rest = done.stderr.splitlines()
    assert first.startswith("failed unexpectedly; ")
    assert "reference is not done, its finished parts are kept in" in first
    logs = re.search(r"Ray's logs are in (\S+?)(;|$)", first)
    assert logs and Path(logs[1]).is_dir()
    assert any(said.startswith("Traceback") for said in rest)


def test_a_node_out_of_memory_is_told_in_words(line: Line, tmp_path: Path) -> None:
    """On a node whose memory Ray takes for full once a thousandth of it is used."""
    ready = (*settings(line, tmp_path, "prepare", "reference", "schedule"), "resources.max_failures=0")
    with running_head(cpus=2, RAY_memory_usage_threshold="0.001") as full:
        for stage in ("train", "reference"):
            told = refused(stage, *ready, *(["--force"] if stage == "reference" else []), environment=full.environment)
            assert re.search(r"a node ran out of memory: \S+GB of \S+GB were used", told), told
            assert "resources.micro_batch_tokens" in told


def test_a_finished_part_that_was_spoilt_before_the_rest_is_made(line: Line, head: Head, tmp_path: Path) -> None:
    ready = settings(line, tmp_path, "prepare")
    partial = tmp_path / "reference" / f"{only(line.root, 'reference').name}.partial"
    partial.mkdir(parents=True)
    part = (only(line.root, "reference") / "part-00000.parquet").read_bytes()
    (partial / "part-00000.parquet").write_bytes(part[: len(part) // 2])
    told = refused("reference", *ready, environment=head.environment)
    assert str(partial / "part-00000.parquet") in told and "remove it" in told
    (partial / "part-00000.parquet").unlink()
    assert "3 of 4 parts are finished already and kept" in made("reference", *ready, environment=head.environment)


def test_memory_that_runs_out_in_a_train_worker_is_told_once(head: Head, tmp_path: Path, tiny: Path) -> None:
    """Of a model that does not take more than 200 tokens at a time; for scorers see tests/actors/test_scorer.py."""
    own, root = with_code(tiny, tmp_path / "own", SMALL_MEMORY.format(tokens=200)), tmp_path / "root"
    given = (f"model.source={own}", "model.trust_remote_code=true", f"resources.root={root}")
    told = refused("run", *given, "resources.score_tokens=200", "--until", "train", environment=head.environment)
    assert "with resources.micro_batch_tokens=1024, logits_chunk=1024 and train_workers=1 a train worker ran" in told
    assert "OutOfMemoryError: CUDA out of memory" in told and "checkpoint_activations" in told
    assert only(root, "reference") and len(list(root.glob("train/*.partial/refusal.json"))) == 1  # not tried again
