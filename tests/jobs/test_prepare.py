"""What prepare does before it reads a pair."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.prepare import base_model
from pipeline.errors import UserError
from pipeline.line.plan import make_plan
from pipeline.settings.config import validate


def test_a_model_that_changed_since_the_plan_is_not_used(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Whether its bytes changed or the little that is used of a file, and not where nothing did that counts."""
    folder = shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    given = {"model": {"source": str(folder)}, "resources": {"root": str(tmp_path / "root")}}
    plan = make_plan(validate(given))
    (folder / "README.txt").write_text("words")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2], "temperature": 0.7}))
    assert base_model(plan) == folder
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5]}))
    with pytest.raises(UserError, match="changed since this run was planned"):
        base_model(plan)
    plan = make_plan(validate(given))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="changed since this run was planned"):
        base_model(plan)


@pytest.mark.parametrize("found", [{"quant_method": "gptq"}, {"quant_method": "mxfp4"}])
def test_a_plan_refuses_quantised_weights_to_train_and_takes_them_to_judge(
    tiny_model: Callable[[str], Path], tmp_path: Path, found: dict[str, str]
) -> None:
    plain, folder = tiny_model("Llama"), shutil.copytree(tiny_model("Llama"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": found}
    (folder / "config.json").write_text(json.dumps(config))
    root = {"root": str(tmp_path / "root")}
    with pytest.raises(UserError, match=f"is quantised .*{found['quant_method']}"):
        make_plan(validate({"model": {"source": str(folder)}, "resources": root}))
    judged = {"model": {"source": str(plain)}, "judge": {"local": {"source": str(folder)}}, "resources": root}
    assert (judge := make_plan(validate(judged)).judge) and judge.path == folder
