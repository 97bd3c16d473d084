"""How many processes share the work changes nothing: the claim on which `resources` stays out of every identity."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.e2e.answers import greedy
from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only, rows
from tests.e2e.running import apart

pytestmark = pytest.mark.e2e


def start_from(line: Line, root: Path, *stages: str) -> tuple[str, str]:
    for stage in stages:
        shutil.copytree(line.root / stage, root / stage)
    return line.settings[0], f"resources.root={root}"


def test_two_scorers_score_as_one(line: Line, head: Head, tmp_path: Path) -> None:
    settings = start_from(line, tmp_path, "prepare")
    made("reference", *settings, "resources.scorers=2", environment=head.environment)
    one, two = only(line.root, "reference"), only(tmp_path, "reference")
    parts = sorted(path.name for path in one.glob("*.parquet"))
    assert len(parts) == 4
    for part in parts:
        assert pq.read_table(one / part).equals(pq.read_table(two / part))


LORA = ("train.lora.rank=4", "train.learning_rate=1e-2", "resources.checkpoint_steps=1")
APART = (*LORA, "train.lora.merge=false", "resources.train_workers=2")


@pytest.fixture(scope="module")
def adapted(line: Line, head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two roots: one worker that merged its adapters, and two that kept theirs apart."""
    roots = []
    for lora in (LORA, APART):
        roots.append(tmp_path_factory.mktemp("adapted"))
        settings = start_from(line, roots[-1], "prepare", "reference", "schedule")
        made("train", *settings, *lora, environment=head.environment)
    return roots[0], roots[1]


def test_adapters_sharded_over_two_workers(adapted: tuple[Path, Path], tiny: Path, tmp_path: Path) -> None:
    """Sharded, saved, resumed or not, merged or not: what two workers learnt is what one did, and not the base."""
    one, two = (only(root, "train") for root in adapted)
    merge(tiny, two / "adapter", tmp_path)
    assert apart(tiny, one / "model", tmp_path) <= 1e-2


def test_unmerged_adapters_answer_as_merged_ones(
    adapted: tuple[Path, Path], line: Line, tiny: Path, head: Head, tmp_path: Path
) -> None:
    """Put on the base model by vLLM, or merged into it and run by transformers: the same words, and not the base's."""
    root, base = adapted[1], only(line.root, "generate", "tiny-*")
    shutil.copytree(base, root / "generate" / base.name)
    made("generate", line.settings[0], f"resources.root={root}", *APART, environment=head.environment)
    merge(tiny, only(root, "train") / "adapter", tmp_path)
    answers = rows(only(root, "generate", "gamma-dpo-*"))
    assert [row["response"] for row in answers] == [greedy(tmp_path, json.loads(row["prompt"]), 8) for row in answers]
    assert not {row["response"] for row in answers} & {row["response"] for row in rows(base)}


def merge(base: Path, adapter: Path, folder: Path) -> None:
    """As anyone would who was given an adapter and knows its base model."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


@pytest.fixture(scope="module")
def exact(tiny_exact: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A root trained in float64, one worker and one micro-batch a step of 8 pairs; and the settings that mean it."""
    root = tmp_path_factory.mktemp("exact")
    settings = (f"model.source={tiny_exact}", "model.dtype=float64", "objective.tau=0.5", "schedule.flip_fraction=0.2")
    made("run", *settings, f"resources.root={root}", "--until", "train", environment=head.environment)
    return root, settings


def test_two_train_workers_learn_as_one(
    exact: tuple[Path, tuple[str, ...]], tiny_exact: Path, head: Head, tmp_path: Path
) -> None:
    """1 worker x 8 pairs = 2 workers x micro-batches of 4, in float64 to 1e-9."""
    root, settings = exact
    for stage in ("prepare", "reference", "schedule"):
        shutil.copytree(root / stage, tmp_path / stage)
    made("train", *settings, f"resources.root={tmp_path}", "resources.train_workers=2", environment=head.environment)
    base = load_file(tiny_exact / "model.safetensors")
    one, two = (load_file(only(folder, "train") / "model" / "model.safetensors") for folder in (root, tmp_path))
    assert one["lm_head.weight" if "lm_head.weight" in one else "model.embed_tokens.weight"].dtype == torch.float64
    assert max(float((one[name] - base[name]).abs().max()) for name in one) > 1e-5
    assert max(float((one[name] - two[name]).abs().max()) for name in one) <= 1e-9
    logs = [pq.read_table(only(folder, "train") / "trained_pairs.parquet").to_pylist() for folder in (root, tmp_path)]
    for a, b in zip(*logs, strict=True):
        assert (a["pair_id"], a["step"], a["flipped"]) == (b["pair_id"], b["step"], b["flipped"])
        assert a["margin"] == pytest.approx(b["margin"], abs=1e-9)
    assert len({round(row["margin"], 9) for row in logs[0]}) > 8  # margins of their own in the second step


def test_two_generators_answer_as_one(line: Line, head: Head, tmp_path: Path) -> None:
    settings = start_from(line, tmp_path, "train", "generate")
    trained = only(line.root, "generate", "gamma-dpo-*").name
    shutil.rmtree(tmp_path / "generate" / trained)
    made("generate", *settings, "resources.generators=2", environment=head.environment)
    columns = ["question_id", "response", "tokens", "finish_reason", "seed"]
    one, two = (rows(root / "generate" / trained, columns) for root in (line.root, tmp_path))
    assert one == two
    assert len({row["response"] for row in one}) > 1  # a model that always says the same would prove nothing
