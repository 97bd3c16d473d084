"""What a ranking of pairs reads: the base that rewards are measured against, and all that was trained on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.line.ranking import plan_ranking, set_of
from pipeline.line.steps import Plan

Make = Callable[..., Plan]


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    (tmp_path / "set.jsonl").write_text('{"prompt": "a?", "chosen": "b", "rejected": "c"}\n')
    return str(tmp_path / "set.jsonl")


def test_the_base_is_the_reference_of_the_run(
    plan: Make, tiny_model: Callable[[str], Path], tmp_path: Path, pairs: str
) -> None:
    """Of the set as of the held-out pairs, or rewards of the two would be measured against two models."""
    other = shutil.copytree(tiny_model("Llama"), tmp_path / "other")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    run = plan(reference={"model": str(other)})
    _, step = plan_ranking(run, pairs)
    used = {step.inputs[role].identity["model"] for role in ("base", "run_base")}
    assert used == {run.reference.digest} != {run.model.digest}


def test_pairs_of_every_stream_were_trained_on(plan: Make, pairs: str) -> None:
    run = plan(streams={"more": {"data": {"seed": 3}}})
    _, step = plan_ranking(run, pairs)
    read = [each for role, each in step.inputs.items() if role.startswith("run_pairs")]
    assert read == [run.steps["prepare"], run.steps["more/prepare"]]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{}, {"subset": "a"}], {"source": "subset"}),  # not every row says so, and the first does not
        ([{"source": None, "subset": "a"}], {"source": "subset"}),  # a column that holds nothing, as tables have them
        ([{"subset": "a"}, {"source": "web", "subset": "a"}], {}),
        ([{"subset": 3}], {}),
    ],
)
def test_a_subset_stands_for_the_source_where_rows_name_none(
    plan: Make, tmp_path: Path, rows: list[dict[str, object]], columns: dict[str, str]
) -> None:
    pair = {"prompt": "a?", "chosen": "b"}
    lines = [json.dumps(pair | {"rejected": str(number)} | row) + "\n" for number, row in enumerate(rows)]
    (tmp_path / "set.jsonl").write_text("".join(lines))
    assert set_of(plan().config, str(tmp_path / "set.jsonl")).data.columns == columns
