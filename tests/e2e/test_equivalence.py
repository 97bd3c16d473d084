"""How many processes share the work changes nothing: the claim on which `resources` stays out of every identity."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.e2e.conftest import Head, Line
from tests.e2e.doors import made, only, rows

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


def test_two_train_workers_learn_as_one(line: Line, head: Head, tmp_path: Path, tiny: Path) -> None:
    settings = start_from(line, tmp_path, "prepare", "reference", "schedule")
    made("train", *settings, "resources.train_workers=2", environment=head.environment)
    base = load_file(tiny / "model.safetensors")
    one, two = (load_file(only(root, "train") / "model" / "model.safetensors") for root in (line.root, tmp_path))
    update = torch.cat([(one[name] - base[name]).flatten() for name in base])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in base])
    assert update.norm() > 0
    assert apart.norm() <= 1e-3 * update.norm()
    columns = ["position", "pair_id", "route", "flipped"]
    logs = [
        pq.read_table(only(root, "train") / "trained_pairs.parquet", columns=columns) for root in (line.root, tmp_path)
    ]
    assert logs[0].equals(logs[1])


def test_two_generators_answer_as_one(line: Line, head: Head, tmp_path: Path) -> None:
    settings = start_from(line, tmp_path, "train", "generate")
    trained = only(line.root, "generate", "gamma-dpo-*").name
    shutil.rmtree(tmp_path / "generate" / trained)
    made("generate", *settings, "resources.generators=2", environment=head.environment)
    columns = ["question_id", "response", "tokens", "finish_reason", "seed"]
    one, two = (rows(root / "generate" / trained, columns) for root in (line.root, tmp_path))
    assert one == two
    assert len({row["response"] for row in one}) > 1  # a model that always says the same would prove nothing
